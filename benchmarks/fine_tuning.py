"""``python -m benchmarks.fine_tuning``: tags and answers, learned here and with transformers.

``neobert.train`` and transformers' ``Trainer`` start from the same model (``--model``) and see the
same rows, batch size, learning rate, schedule and seeds. With ``--tokenizer`` in its stead both
start from random weights of one size, ours packed and transformers' padded, to compare the useful
tokens per second of training: those of text, padding not counted (extra: dev).

Each run is a process of its own, and the programs take turns. Runs that ``--output`` already has
are not repeated.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import harness
from neobert.console import show_messages
from neobert.files import read_json, read_summary
from neobert.tools.report_files import markdown_table

PROGRAMS = ("ours", "trainer")
CHANGEABLE = ("rows", "epochs", "eval_rows", "batch_size")
"""Numbers of a recipe that arguments change."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a data set is learned."""

    data: Path
    """Folder with ``train.jsonl`` and ``validation.jsonl``."""

    task: str
    metric: str
    rows: int
    """Training rows: the first of the file."""

    epochs: int
    lr: float
    eval_rows: int
    """The same of the evaluation set."""

    batch_size: int = 16
    max_length: int = 128
    model: Path | None = None
    tokenizer: Path | None = None
    shape: tuple[int, int] = (192, 4)
    """Width and layers of random weights."""

    seed: int = 0


RECIPES = {
    "wnut17": Recipe(Path("wnut17"), "token_classification", "f1", 1500, 1, 3e-4, 500),
    "ewt_pos": Recipe(Path("ewt_pos"), "token_classification", "accuracy", 800, 1, 3e-4, 400),
    "xquad_en": Recipe(
        Path("xquad_en"), "question_answering", "f1", 80, 2, 3e-4, 50, max_length=384
    ),
}


def ours(recipe: Recipe) -> dict[str, float]:
    """Train with ``neobert.train``: the score in percent, and useful tokens per second."""
    section = "tokens" if recipe.task == "token_classification" else "answers"
    with tempfile.TemporaryDirectory() as folder:
        harness.train(
            f"task={recipe.task}",
            f"dataset.path={recipe.data}",
            f"dataset.train_split='train[:{recipe.rows}]'",
            f"dataset.eval_samples={recipe.eval_rows}",
            f"dataset.cache_dir={folder}/cache",
            f"{section}.max_seq_length={recipe.max_length}",
            *_start(recipe, section),
            f"seed={recipe.seed}",
            f"optimizer.lr={recipe.lr}",
            "optimizer.name=adamw",
            "optimizer.weight_decay=0.01",
            "optimizer.betas=[0.9,0.999]",
            "optimizer.eps=1e-8",
            f"trainer.num_train_epochs={recipe.epochs}",
            f"trainer.per_device_train_batch_size={recipe.batch_size}",
            "trainer.per_device_eval_batch_size=32",
            "trainer.eval_strategy=no",
            "trainer.mixed_precision=no",
            f"trainer.output_dir={folder}/run",
        )
        summary: Any = read_summary(Path(folder) / "run")
    metric = summary["after"][f"eval/{recipe.metric}"]
    return {"score": 100 * metric, "tokens_per_sec": summary["tokens_per_sec"]}


def _start(recipe: Recipe, section: str) -> list[str]:
    """Overrides for the initial weights."""
    if recipe.model is not None:
        return ["model.from_hub=true", f"model.name={recipe.model}"]
    width, layers = recipe.shape
    return [
        f"{section}.allow_random_weights=true",
        f"tokenizer.path={recipe.tokenizer}",
        f"model.hidden_size={width}",
        f"model.num_hidden_layers={layers}",
        f"model.num_attention_heads={max(1, width // 64)}",
        f"model.intermediate_size={4 * width}",
    ]


def page_of(runs: Mapping[str, Mapping[str, float]]) -> str:
    """A table of the runs: means ± standard deviations, by data set and program."""
    rows = []
    for name in RECIPES:
        for program in PROGRAMS:
            own = [run for key, run in runs.items() if key.startswith(f"{name} {program} ")]
            if own:
                columns = ([run[column] for run in own] for column in ("score", "tokens_per_sec"))
                scores, speeds = columns
                spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
                score, speed = f"{mean(scores):.1f}{spread}", f"{mean(speeds):,.0f}"
                rows.append((name, program, score, speed, len(own)))
    head = ("data", "program", "score, %", "useful tokens/s", "runs")
    return "\n".join([*markdown_table(head, rows, 2), ""])


def measure(recipes: Mapping[str, Recipe], seeds: Sequence[int], output: Path | None) -> None:
    """Do the runs that are missing in ``output``, which is written after each."""
    stored: Any = read_json(output) if output is not None and output.is_file() else {}
    runs: dict[str, dict[str, float]] = dict(stored.get("runs", {}))
    settings = dict(stored.get("recipes", {}))
    for name, recipe in recipes.items():
        settings[name] = {
            key: value.name if isinstance(value, Path) else str(value)
            for key, value in asdict(recipe).items()
        }
    for seed in seeds:
        for name, recipe in recipes.items():
            for program in PROGRAMS:
                key = f"{name} {program} {seed}"
                if key in runs:
                    continue
                words = [f"--run={program}", f"--only={name}", f"--seeds={seed}", *_words(recipe)]
                runs[key] = harness.in_fresh_process("fine_tuning", *words)
                harness.save(output, {"recipes": settings, "runs": runs}, page_of(runs))


def _words(recipe: Recipe) -> list[str]:
    """The arguments that make ``recipe`` in another process."""
    words = [f"--data={recipe.data.parent}"]
    words += [f"--{key.replace('_', '-')}={getattr(recipe, key)}" for key in CHANGEABLE]
    words.append("--shape={}x{}".format(*recipe.shape))
    words += [f"--model={recipe.model}"] if recipe.model is not None else []
    return words + ([f"--tokenizer={recipe.tokenizer}"] if recipe.tokenizer is not None else [])


def _recipe(name: str, options: argparse.Namespace) -> Recipe:
    recipe = RECIPES[name]
    return replace(
        recipe,
        data=options.data / recipe.data,
        **{key: value for key in CHANGEABLE if (value := getattr(options, key)) is not None},
        model=options.model,
        tokenizer=options.tokenizer,
        shape=harness.shape_of(options.shape),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write the figures."""
    parser = harness.command("fine_tuning", __doc__, rounds=None, output=None)
    parser.add_argument("--data", type=Path, required=True, help=f"holds {', '.join(RECIPES)}")
    parser.add_argument("--only", default=",".join(RECIPES), help="data sets")
    parser.add_argument("--seeds", default="0,1,2")
    for key in CHANGEABLE:
        name = f"--{key.replace('_', '-')}"
        parser.add_argument(name, type=int, help="default: of the recipe")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", type=Path, help="a model of transformers to start from")
    start.add_argument("--tokenizer", type=Path, help="a tokenizer: start from random weights")
    parser.add_argument("--shape", default="192x4", help="of random weights: width x layers")
    parser.add_argument("--run", choices=PROGRAMS, help="a single run, its figures as JSON")
    options = parser.parse_args(words)
    recipes = {name: _recipe(name, options) for name in options.only.split(",")}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.run is None:
        show_messages()
        measure(recipes, seeds, options.output)
        return 0
    (recipe,) = (replace(one, seed=seed) for one in recipes.values() for seed in seeds)
    if options.run == "ours":
        return harness.answer(ours(recipe))
    from benchmarks.fine_tuning_peer import train_with_transformers

    return harness.answer(train_with_transformers(recipe))


if __name__ == "__main__":
    raise SystemExit(main())
