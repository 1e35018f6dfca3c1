"""What a run says about its rows before it starts: how full they are, and what was left out."""

from collections.abc import Sequence
from math import ceil, gcd
from typing import TypeAlias

from neobert.config.mixture import MixtureSource
from neobert.console import get_logger
from neobert.data.loading import DEFAULT_READERS
from neobert.data.packing import Packing
from neobert.data.sources import Documents
from neobert.errors import ConfigError
from neobert.tasks.pretraining.source_data import SourceData, each_source

log = get_logger(__name__)

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
            lower = f"set a {key}.weight for each source, with less for {source.name}"
            if weight is not None:
                lower = (
                    f"lower {key}.weight to about {weight * limit / times:.2g} and raise the "
                    "others, so that they sum to 1 again (in a stage, those of its mixture)"
                )
            problems.append(
                f"{key}.max_epochs={limit:g}: the run takes {times:.2f} epochs of {source.name}; "
                f"set it to {ceil(times)}, {lower}, or set trainer.max_steps="
                f"{int(max_steps * limit / times)}"
            )
    return problems


def check_streams(data: Sequence[SourceData], ranks: int) -> None:
    """Report what ``ranks`` processes cannot do with the readers and files of streams.

    Raises ``ConfigError`` with what to set.
    """
    streams = {source.settings: source for source in data}
    each_source(streams, lambda _, source: _check_stream(source, ranks))


def _check_stream(data: SourceData, ranks: int) -> None:
    stream, settings = data.source.stream, data.settings
    assert stream is not None
    readers, trained_on = data.readers, data.train_plan.info.documents
    key, of = f"dataset.stream_readers={readers}", f"{settings.key}: " if data.name else ""
    if data.is_whole and trained_on < readers:
        raise ConfigError(
            f"{key}: the stream has only {trained_on} documents to train on; set it to "
            f"{trained_on} at most"
        )
    least = ceil(DEFAULT_READERS / ranks) * ranks
    if ranks > readers and not data.is_whole and settings.dataset.shuffle_buffer_size > 0:
        raise ConfigError(
            f"{key}: {ranks} processes (trainer.devices × trainer.num_nodes) need {ranks} "
            f"readers or more; set dataset.stream_readers={least}"
        )
    if data.name and data.is_whole:  # a short source of a mixture may well be shared
        return
    if readers % ranks:
        log.warning(
            "%s%s is not a multiple of the %d processes, so %d of them read and tokenise each "
            "document; for a new run set dataset.stream_readers=%d",
            *(of, key, ranks, ranks // gcd(ranks, readers), least),
        )
    groups = stream.num_groups(readers)
    if groups < min(ranks, readers):
        log.warning(
            "%sthe stream's files can be read in %d parts only, so each of the %d processes reads "
            "%d times what it trains on; decompress them (jsonl, txt and the row groups of parquet "
            "are read in parts), split them, or set dataset.pre_tokenize=true",
            *(of, groups, ranks, ranks // gcd(ranks, groups)),
        )
