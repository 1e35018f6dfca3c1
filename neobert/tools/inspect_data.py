"""What a run is fed at a step, as text: ``python -m neobert.tools.inspect_data --step 120 …``.

Takes the settings of ``python -m neobert.train`` and composes the same data, so the batches are
those that training gets, to the last bit: with ``trainer.log_batch_digests=true`` a run writes the
same SHA-256 that stands here. Nothing is trained and no run folder is touched.
"""

import argparse
import json
import sys
import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice, pairwise

from neobert.batch import IGNORE, MaskedBatch
from neobert.config.compose import compose_config
from neobert.console import show_messages
from neobert.data.loader import Workers
from neobert.data.stages import Stage, stage_at
from neobert.data.steps import Steps
from neobert.data.stream import StreamLoader
from neobert.data.tokenizer import TokenizerInfo
from neobert.errors import ConfigError
from neobert.failures import run_program
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tools.arguments import number_from
from neobert.training.callbacks.batch_digest import batch_digest

WIDTH = 100


def main() -> None:
    """Show what the arguments select."""
    options, words = read_command(sys.argv[1:])
    show_messages()
    for line in inspect(options, words):
        sys.stdout.write(line + "\n")


def read_command(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This program's own options, and the settings."""
    parser = argparse.ArgumentParser(
        prog="python -m neobert.tools.inspect_data",
        description=__doc__.partition("\n")[0] if __doc__ else None,
        epilog="All other words are settings, as for python -m neobert.train.",
    )
    parser.add_argument(
        "--step", type=number_from(0), default=0, help="optimizer step, 0 is the first"
    )
    parser.add_argument("--rank", type=int, default=0, help="of which process")
    parser.add_argument(
        "--rows", type=number_from(0), default=2, help="packed rows or documents to show"
    )
    return parser.parse_known_args(words)


def inspect(options: argparse.Namespace, words: list[str]) -> Iterator[str]:
    """The lines that are shown."""
    config = compose_config(words)
    if config.task != "pretraining":
        raise ConfigError(f"task={config.task}: only the data of pretraining can be shown")
    data = PretrainingDataModule(config)
    data.setup("fit")
    yield from fingerprint_lines(data.fingerprint())
    if not 0 <= options.rank < data.share.ranks:
        raise ConfigError(f"--rank {options.rank}: the run has {data.share.ranks} (from 0 on)")
    stage = stage_at(data.stages, options.step)
    first = (options.step - stage.first_step) * stage.accumulation
    steps = steps_of_rank(data, stage, options.rank)
    for part, batch in enumerate(batches_of_step(data, options.step)[options.rank]):
        yield ""
        yield (
            f"step {options.step}, micro-batch {part + 1} of {stage.accumulation}, "
            f"rank {options.rank} of {data.share.ranks}"
            + (f", stage {stage.name}" if len(data.stages) > 1 else "")
        )
        sources = data.sources_of(stage, steps.numbers(first + part))
        yield from batch_lines(batch, data.tokenizer, options.rows, sources)


def fingerprint_lines(fingerprint: dict[str, object]) -> Iterator[str]:
    """The fingerprint of the stream, and what it is made of."""
    canonical = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
    yield f"fingerprint of the stream: {sha256(canonical.encode()).hexdigest()}"
    for key, value in fingerprint.items():
        if value is not None:
            yield f"  {key}: {value}"


def batches_of_step(data: PretrainingDataModule, step: int) -> list[list[MaskedBatch]]:
    """The micro-batches of a step, by rank, with the targets of the whole step counted."""
    stage = stage_at(data.stages, step)
    first = (step - stage.first_step) * stage.accumulation
    numbers = range(first, first + stage.accumulation)
    ranks = [steps_of_rank(data, stage, rank) for rank in range(data.share.ranks)]
    of_ranks = (_of_stream if data.is_stream else _of_rows)(data, stage, ranks, numbers)
    total = sum(batch.num_targets for batches in of_ranks for batch in batches)
    return [
        [replace(batch, num_targets_in_step=total) for batch in batches] for batches in of_ranks
    ]


def steps_of_rank(data: PretrainingDataModule, stage: Stage, rank: int) -> Steps:
    """Which rows the micro-batches of a rank take in a stage."""
    steps = data.stage_steps(stage)
    return replace(steps, share=replace(steps.share, rank=rank))


def batch_lines(
    batch: MaskedBatch, info: TokenizerInfo, rows: int, sources: Sequence[str]
) -> Iterator[str]:
    """A micro-batch as text; ``rows`` of it in full. ``sources``: of each row, in a mixture."""
    inputs = batch.inputs
    length = inputs.row_length
    places = len(inputs.input_ids)
    shape = f"{places // length} rows of {length}" if length else f"{len(inputs.lengths)} documents"
    yield (
        f"  {shape}: {inputs.num_tokens:,} tokens in {places:,} places "
        f"({inputs.num_tokens / max(1, places):.1%}), {batch.num_targets:,} targets "
        f"({batch.num_targets / max(1, inputs.num_tokens):.1%}), "
        f"{batch.num_targets_in_step:,} in the step"
    )
    yield f"  SHA-256 {batch_digest(batch)}"
    if sources:
        yield f"  sources: {', '.join(sources)}"
    bounds = inputs.cu_seqlens.tolist()
    shown = min(rows * length, places) if length else bounds[min(rows, len(bounds) - 1)]
    number = -1
    for first, last in pairwise(bounds):
        if first >= shown:
            break
        if length and first % length == 0:
            yield f"  row {first // length}"
        number += 1
        is_padding = first < places and int(inputs.input_ids[first]) == info.pad_token_id
        tokens = "padding" if is_padding else f"{last - first} tokens"
        yield f"    document {number}: places {first} to {last - 1}, {tokens}"
        if not is_padding:
            yield from _text_lines(batch, info, first, last)


def _text_lines(batch: MaskedBatch, info: TokenizerInfo, first: int, last: int) -> list[str]:
    """Tokens of a document; ``{input→label}`` at targets."""
    ids = batch.inputs.input_ids[first:last].tolist()
    words = [str(info.tokenizer.convert_ids_to_tokens(token_id)) for token_id in ids]
    for position, label in zip(batch.positions.tolist(), batch.labels.tolist(), strict=True):
        if label != IGNORE and first <= position < last:
            target = info.tokenizer.convert_ids_to_tokens(label)
            words[position - first] = f"{{{words[position - first]}→{target}}}"
    text = " ".join(words)
    indent = " " * 6
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _of_rows(
    data: PretrainingDataModule, stage: Stage, ranks: list[Steps], numbers: range
) -> list[list[MaskedBatch]]:
    batches, of_ranks = data.micro_batches(stage), []
    for steps in ranks:
        batches.steps = steps
        of_ranks.append([batches[number] for number in numbers])
    return of_ranks


def _of_stream(
    data: PretrainingDataModule, stage: Stage, ranks: list[Steps], numbers: range
) -> list[list[MaskedBatch]]:
    """Reads on from the beginning of the run: a stream has no index."""
    loader = _stream_at(data, stage)
    batches, of_ranks = loader.batches, []
    batches.states, batches.first = loader.states, numbers.start
    for steps in ranks:
        batches.steps = replace(steps, offset=loader.batches.steps.offset)
        of_ranks.append(list(islice(batches.micro_batches(), len(numbers))))
    return of_ranks


def _stream_at(data: PretrainingDataModule, stage: Stage) -> StreamLoader:
    """The loader of a stage, at its first step, over the rows of all ranks."""
    place: dict[str, object] | None = None
    for earlier in data.stages:
        batches = data.stream_batches(earlier)
        share = batches.steps.share
        whole = replace(share, batch_size=share.batch_size * share.ranks, rank=0, ranks=1)
        batches.steps = replace(batches.steps, share=whole)
        loader = StreamLoader(batches, earlier.steps, Workers())
        if place is not None:
            loader.start_after(place)
        if earlier.first_step == stage.first_step:
            break
        deque(loader, maxlen=0)
        place = loader.state_dict()
    return loader


if __name__ == "__main__":
    run_program(main)
