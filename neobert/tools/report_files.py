"""What reports of runs are made of: Markdown tables, bars beside published figures, three files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from neobert.files import replacing, write_atomically

MARKERS = "xD+v^s<>o*"
"""Of published figures, one after the other."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's figures by group, which is a task or a type of tasks; in percent."""

    label: str
    values: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)
    """Standard deviations, where there are any."""


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], text_columns: int = 1
) -> list[str]:
    """Lines of a Markdown table; columns from ``text_columns`` on are aligned to the right."""
    rule = "|" + "---|" * text_columns + "--:|" * (len(head) - text_columns)
    return [_table_row(head), rule, *(_table_row(row) for row in rows)]


def bar_chart(
    groups: Sequence[str], models: Sequence[Scores], published: Sequence[Scores], unit: str
) -> Figure:
    """Bars in groups, one per model, and published figures as marks beside them."""
    # Not of pyplot, which has a display and global state.
    figure = Figure(figsize=(4 + 1.2 * len(groups), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(models))
    for number, model in enumerate(models):
        places = [place for place, group in enumerate(groups) if group in model.values]
        known = [groups[place] for place in places]
        axes.bar(
            [place - 0.4 + (number + 0.5) * width for place in places],
            [model.values[group] for group in known],
            width,
            yerr=[model.deviations.get(group, float("nan")) for group in known],
            capsize=3,
            label=model.label,
        )
    for number, row in enumerate(published):
        places = [place for place, group in enumerate(groups) if group in row.values]
        if places:
            heights = [row.values[groups[place]] for place in places]
            mark = MARKERS[number % len(MARKERS)]
            axes.plot(places, heights, mark, color="black", label=f"{row.label}, published")
    axes.set_xticks(range(len(groups)), groups, rotation=20, ha="right")
    axes.set_ylabel(unit)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(fontsize="x-small", loc="outside right upper")
    return figure


def write_report_files(output: Path, page: str, data: object, figure: Figure) -> list[Path]:
    """Write ``output`` with the endings .md, .json and .png, each atomically; return the paths."""
    output.parent.mkdir(parents=True, exist_ok=True)
    files = [output.with_suffix(ending) for ending in (".md", ".json", ".png")]
    write_atomically(files[0], page)
    write_atomically(files[1], json.dumps(data, indent=2) + "\n")
    save_figure(figure, files[2])
    return files


def save_figure(figure: Figure, path: Path) -> None:
    """Write a plot atomically in the format of its ending, and without a date."""
    ending = path.suffix.removeprefix(".")
    settings = {"metadata": {"Date": None}} if ending == "svg" else {"dpi": 120}
    with replacing(path) as temporary:
        figure.savefig(temporary, format=ending, **settings)


def _table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
