"""Tables and a plot of MTEB results: ``python -m neobert.tools.mteb_report RUN… --output FILE``.

Reads what ``task=mteb`` wrote, in mteb's own format, of one model or several. Writes Markdown,
JSON and a plot: means by type and over all, as the benchmark defines them. A mean is shown only of
a model that has all tasks in question; what is missing is listed. Published figures stand beside
those of the benchmark they were measured on, and of no other.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from mteb.benchmarks import Benchmark
from mteb.get_tasks import TASK_LIST
from mteb.results import BenchmarkResults, ModelResult, TaskResult

from neobert.console import get_logger, show_messages
from neobert.errors import ConfigError
from neobert.failures import run_program
from neobert.files import read_text, reading, user_path
from neobert.tasks.mteb.evaluate import MEAN_TASK, MEAN_TYPE, by_type, main_score, overall
from neobert.tasks.mteb.run import OWN_TASKS
from neobert.tasks.mteb.select import find_benchmark
from neobert.tools.report_files import Scores, bar_chart, markdown_table, write_report_files

log = get_logger("neobert.tools.mteb_report")


@dataclass(frozen=True, slots=True)
class PublishedMean:
    """A figure from a paper or a repository, in percent."""

    model: str
    benchmark: str
    mean: float
    source: str
    types: Mapping[str, float]

    @property
    def by_column(self) -> dict[str, float]:
        """The mean over all tasks beside those of the types."""
        return {**self.types, MEAN_TASK: self.mean}


PAPER = "arXiv 2502.19587v2, table 4: 2,000 steps of one contrastive recipe for all"
NEXTERA = "NexteraBERT's repository, September 2026: after SimCSE on NLI"
V1, V2 = "MTEB(eng, v1)", "MTEB(eng, v2)"
NEOBERT_TYPES = {
    "Classification": 61.6,
    "Clustering": 40.8,
    "PairClassification": 76.2,
    "Reranking": 51.2,
    "Retrieval": 31.6,
    "STS": 74.8,
    "Summarization": 30.7,
}
PUBLISHED = (
    PublishedMean("NeoBERT", V1, 51.3, PAPER, NEOBERT_TYPES),
    PublishedMean("BERT-large", V1, 49.1, PAPER, {}),
    PublishedMean("RoBERTa-large", V1, 48.9, PAPER, {}),
    PublishedMean("BERT-base", V1, 48.1, PAPER, {}),
    PublishedMean("NomicBERT", V1, 47.1, PAPER, {}),
    PublishedMean("ModernBERT-large", V1, 46.9, PAPER, {}),
    PublishedMean("ModernBERT-base", V1, 45.0, PAPER, {}),
    PublishedMean("ModernBERT-base", V2, 53.63, NEXTERA, {}),
    PublishedMean("NexteraBERT (130B tokens)", V2, 54.70, NEXTERA, {}),
    PublishedMean("mmBERT-base", V2, 53.9, "arXiv 2509.06888", {}),
)


Results = dict[str, TaskResult]
"""What a model has, by task."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is written."""

    benchmark: str | None
    types: dict[str, str]
    """Task -> type, of all tasks in question."""

    scores: dict[str, dict[str, float]]
    """Model -> task -> score."""

    means: dict[str, dict[str, float]]
    """Model -> type or kind of mean -> score; only where no task is missing."""

    missing: dict[str, list[str]]
    """Model -> tasks without a result."""

    published: list[PublishedMean]

    @property
    def columns(self) -> list[str]:
        """Types, then the means over all."""
        return [*sorted(set(self.types.values())), MEAN_TASK, MEAN_TYPE]


def read_models(folders: Sequence[Path]) -> tuple[dict[str, Results], dict[str, str]]:
    """The results below ``folders`` of each model and revision, and the types of tasks that mteb
    does not know."""
    models: dict[str, Results] = {}
    own: dict[str, str] = {}
    for folder in folders:
        places = sorted(folder.glob("**/results/*/*/model_meta.json"))
        if not places:
            raise ConfigError(f"{folder}: there are no results of task=mteb below it")
        for file in sorted(folder.glob(f"**/{OWN_TASKS}")):
            with reading(file, "folders"):
                own |= dict(json.loads(read_text(file)))
        for place in places:
            label, results = _read_model(place)
            if label in models:  # the same settings, other weights
                label = f"{label} {place.parent.name[:6]}"
            models[label] = results
    return models, own


def build_report(
    models: Mapping[str, Results], own: Mapping[str, str], benchmark: Benchmark | None
) -> Report:
    """Means of each model over the benchmark's tasks; without one, over all that any model has."""
    known = {task.metadata.name: task.metadata.type for task in TASK_LIST} | dict(own)
    if benchmark is not None:
        names = [task.metadata.name for task in benchmark.tasks]
    else:
        names = sorted({name for results in models.values() for name in results})
    types = {name: str(known.get(name, "other")) for name in names}
    scores = {
        label: {name: main_score(results[name]) for name in names if name in results}
        for label, results in models.items()
    }
    name = benchmark.name if benchmark is not None else None
    return Report(
        benchmark=name,
        types=types,
        scores=scores,
        means={label: _means(scores[label], types, benchmark, models[label]) for label in models},
        missing={
            label: [task for task in names if task not in tasks] for label, tasks in scores.items()
        },
        published=[
            row for row in PUBLISHED if benchmark is not None and row.benchmark == benchmark.name
        ],
    )


def mteb_page(report: Report) -> str:
    """The report as Markdown, scores in percent."""
    counts = Counter(report.types.values())
    heads = [f"{name} ({counts[name]})" if name in counts else name for name in report.columns]
    means = [(label, *_cells(means, report.columns)) for label, means in report.means.items()]
    means += [
        (f"{row.model} (published)", *_cells(row.by_column, report.columns, 1))
        for row in report.published
    ]
    lines = [f"# MTEB: {report.benchmark or f'{len(report.types)} tasks'}", ""]
    lines += markdown_table(["model", *heads], means)
    for source in dict.fromkeys(row.source for row in report.published):
        lines += ["", f"Published figures: {source}."]
    tasks = [
        (task, kind, *(_cells(scores, [task])[0] for scores in report.scores.values()))
        for task, kind in report.types.items()
    ]
    lines += ["", *markdown_table(["task", "type", *report.scores], tasks, text_columns=2)]
    for label, names in report.missing.items():
        if names:
            lines += ["", f"No result of {label}: {', '.join(names)}."]
    return "\n".join(lines) + "\n"


def mteb_chart(report: Report) -> Figure:
    """Means as bars, a group for each type; published figures as marks."""
    models = [
        Scores(label, {name: 100 * mean for name, mean in means.items()})
        for label, means in report.means.items()
    ]
    published = [Scores(row.model, row.by_column) for row in report.published]
    figure = bar_chart(report.columns, models, published, "mean main score, %")
    figure.axes[0].set_title(report.benchmark or "MTEB, own choice of tasks")
    return figure


def _read_model(meta_file: Path) -> tuple[str, Results]:
    with reading(meta_file, "folders"):
        meta = json.loads(read_text(meta_file))
        settings = str(meta["revision"]).partition("-")[2]
        name = str(meta["name"]).removeprefix("neobert/")
    results = {}
    for file in sorted(meta_file.parent.glob("*.json")):
        if file != meta_file:
            with reading(file, "folders"):
                result = TaskResult.from_disk(file)
            results[result.task_name] = result
    return f"{name} ({settings})" if settings else name, results


def _means(
    scores: Mapping[str, float],
    types: Mapping[str, str],
    benchmark: Benchmark | None,
    results: Results,
) -> dict[str, float]:
    """By type where all of a type exist; over all, in the benchmark's own way, likewise."""
    incomplete = {kind for name, kind in types.items() if name not in scores}
    by_kind = by_type(scores, types).items()
    means = {kind: mean for kind, mean in by_kind if kind not in incomplete}
    if len(scores) < len(types):
        return means
    if benchmark is None:
        return means | overall(scores, types)
    result = ModelResult(
        model_name="model", model_revision="-", task_results=list(results.values())
    )
    official = benchmark.get_score(BenchmarkResults(model_results=[result]))["model"]
    for label, name in (("Mean(Task)", MEAN_TASK), ("Mean(TaskType)", MEAN_TYPE)):
        mean = official.get(label)
        if mean is not None:
            means[name] = mean
    return means


def _cells(scores: Mapping[str, float], columns: Sequence[str], factor: float = 100) -> list[str]:
    return [f"{factor * scores[name]:.2f}" if name in scores else "–" for name in columns]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.mteb_report", description="Tables and a plot of MTEB results."
    )
    arguments.add_argument("folders", type=user_path, nargs="+", help="runs, or their mteb/<step>")
    arguments.add_argument("--benchmark", help="such as 'MTEB(eng, v1)': its tasks, its means")
    arguments.add_argument(
        "--output", type=user_path, default=Path("mteb.md"), help="written with .md, .json and .png"
    )
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Write the report; 1 if there is nothing to report on."""
    options = parser().parse_args(argv)
    show_messages()
    benchmark = find_benchmark(options.benchmark) if options.benchmark else None
    if options.benchmark and benchmark is None:
        log.error("--benchmark %s: mteb has no such benchmark", options.benchmark)
        return 1
    try:
        models, own = read_models(options.folders)
    except ConfigError as error:
        log.error("%s", error)
        return 1
    report = build_report(models, own, benchmark)
    page = mteb_page(report)
    files = write_report_files(options.output, page, asdict(report), mteb_chart(report))
    log.info("%s\nwritten: %s", page, ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    run_program(main)
