"""What a run says about its rows before it starts: how full they are, and what was left out."""

from collections.abc import Sequence
from math import ceil
from typing import TypeAlias

from neobert.config.mixture import MixtureSource
from neobert.data.packing import Packing
from neobert.data.reader_count import check_readers, report_shared_files
from neobert.data.sources import Documents
from neobert.tasks.pretraining.source_data import SourceData, each_source

Epochs: TypeAlias = Sequence[float | None]
"""How often a run reads each source; ``None``: unknown, of a stream."""


def describe_plan(data: SourceData, packing: Packing) -> str:
    """One line, and one more for each setting that costs text."""
    plan, info = data.train_plan, data.train_store.info
    of = f"{data.name}: " if data.name else ""
    of += "the stream's first " if data.source.stream is not None else ""
    full = f", {plan.fill:.1%} full" if packing.packed else ""
    kind = "rows" if packing.packed else "pieces"
    lines = [
        f"data: {of}{info.documents:,} documents, {info.tokens:,} tokens, {plan.num_rows:,} {kind} "
        f"of up to {plan.row_length if packing.packed else packing.longest}{full}"
    ]
    if info.empty_documents:
        lines.append(f"{info.empty_documents:,} documents are empty and left out")
    if cut := plan.info.cut_tokens:
        share = cut / max(1, info.tokens)
        lines.append(
            f"tokenizer.truncation left out {cut:,} tokens ({share:.1%}); false keeps them"
        )
    if packing.shortest:
        lines.append(
            f"dataset.filter_by_length kept {plan.info.documents:,} of {info.documents:,} "
            f"documents, those of {packing.shortest} tokens or more"
        )
    return "\n".join(lines)


def nothing_in(settings: MixtureSource, documents: Documents, packing: Packing) -> str:
    """What is wrong where a source has no row."""
    longer = f" of {packing.shortest} tokens or more (dataset.min_length)"
    key, is_limited = settings.key, packing.shortest > 0
    return f"{key}: {documents.name} has no document to train on{longer if is_limited else ''}"


def describe_mixture(data: Sequence[SourceData], rows: Sequence[int], epochs: Epochs) -> str:
    """A line for each source: its share of the run's rows, and how often it is read."""
    lines = []
    for source, count, times in zip(data, rows, epochs, strict=True):
        how_often = "epochs unknown" if times is None else f"{times:.2f} epochs"
        share = count / max(1, sum(rows))
        lines.append(f"mixture: {source.name}: {share:.2%} of the rows: {count:,}, {how_often}")
    return "\n".join(lines)


def epoch_problems(data: Sequence[SourceData], epochs: Epochs, max_steps: int) -> list[str]:
    """The sources that a run would read more often than they may be."""
    problems = []
    for source, times in zip(data, epochs, strict=True):
        limit, key = source.settings.max_epochs, source.settings.key
        if limit is not None and times is not None and times > limit:
            weight = source.settings.weight
            lower = "" if weight is None else f" to about {weight * limit / times:.2g}"
            problems.append(
                f"{key}.max_epochs={limit:g}: the run takes {times:.2f} epochs of {source.name}; "
                f"set it to {ceil(times)}, lower {key}.weight{lower} (in a stage, its mixture), or "
                f"set trainer.max_steps={int(max_steps * limit / times)}"
            )
    return problems


def check_streams(data: Sequence[SourceData], ranks: int) -> None:
    """Report what ``ranks`` processes cannot do with the readers and files of streams.

    Raises ``ConfigError`` with what to set.
    """
    each_source({source.settings: source for source in data}, lambda _, one: _check(one, ranks))


def _check(data: SourceData, ranks: int) -> None:
    stream, key = data.source.stream, data.settings.key if data.name else ""
    assert stream is not None
    seen, trained_on = data.train_store.info.documents, data.train_plan.info.documents
    check_readers(data.settings.dataset, seen, trained_on, ranks, key)
    if not (data.name and data.is_whole):  # a short source of a mixture may well be shared
        report_shared_files(data.readers, stream.num_groups(data.readers), ranks, key)
