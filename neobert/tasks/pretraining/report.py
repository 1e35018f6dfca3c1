"""What a finished pretraining run shows: losses before and after, speed, and words it fills in."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from neobert.batch import IGNORE, MaskedBatch
from neobert.data.tokenizer import TokenizerInfo
from neobert.model.fill_mask import Candidate, fill_masks
from neobert.model.heads import MaskedLM

EXAMPLES = 5
CANDIDATES = 3
SHORTEST, LONGEST = 8, 40
"""Tokens of a document that makes a readable example."""

METRICS = (
    ("evaluation loss (nats)", "eval/loss", "{:.3f}"),
    ("bits per byte", "eval/bits_per_byte", "{:.3f}"),
    ("masked tokens right", "eval/accuracy", "{:.1%}"),
)
"""Rows of the table at the end: name, metric, and how it is written."""


@dataclass(frozen=True, slots=True)
class FilledExample:
    """A sentence with one mask, the word that was there, and what the model would put there."""

    sentence: str
    answer: str
    candidates: list[Candidate]


def fill_examples(
    model: MaskedLM, tokenizer: TokenizerInfo, batches: list[MaskedBatch]
) -> list[FilledExample]:
    """Mask one word in each of a few evaluation documents and let the model fill it in."""
    chosen: list[tuple[list[int], int]] = []
    for batch in batches:
        for document in _documents(batch):
            place = _word_to_mask(document, tokenizer)
            if place is not None and len(chosen) < EXAMPLES:
                chosen.append((document, place))
    masked = [
        [*document[:place], tokenizer.mask_token_id, *document[place + 1 :]]
        for document, place in chosen
    ]
    if not masked:
        return []
    filled = fill_masks(model, tokenizer.tokenizer, masked, CANDIDATES)
    decode = tokenizer.tokenizer.decode
    return [
        FilledExample(
            sentence=str(decode(corrupted[1:-1], clean_up_tokenization_spaces=True)),
            answer=str(decode([document[place]])).strip(),
            candidates=candidates,
        )
        for (document, place), corrupted, (candidates,) in zip(chosen, masked, filled, strict=True)
    ]


def show_losses(summary: Mapping[str, object], examples: list[FilledExample], run: str) -> None:
    """Print the end of a run to the terminal."""
    console = Console(stderr=True)
    table = Table(title=run, show_header=True, title_justify="left")
    table.add_column("")
    for column in ("before", "after", "unigram"):
        table.add_column(column, justify="right")
    before, after = _numbers(summary, "before"), _numbers(summary, "after")
    unigram = summary.get("unigram_loss")
    unigram_metrics = {"eval/loss": unigram} if isinstance(unigram, float) else {}
    for title, metric, form in METRICS:
        if metric in after or metric != "eval/bits_per_byte":
            columns = (before, after, unigram_metrics)
            table.add_row(title, *(_cell(metrics.get(metric), form) for metrics in columns))
    console.print(table)
    console.print(
        f"{summary['tokens']:,} tokens in {summary['seconds']:.0f} s: "
        f"{summary['tokens_per_sec']:,.0f} tokens/s"
    )
    for example in examples:
        words = ", ".join(
            f"{candidate.token} {candidate.probability:.0%}" for candidate in example.candidates
        )
        for line in (f"  {example.sentence}", f"    → {words}   (was: {example.answer})"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _documents(batch: MaskedBatch) -> list[list[int]]:
    """The documents of a batch as they were before corruption."""
    ids = batch.inputs.input_ids.clone()
    real = batch.labels != IGNORE
    ids[batch.positions[real]] = batch.labels[real]
    bounds = batch.inputs.cu_seqlens.tolist()
    return [ids[a:b].tolist() for a, b in pairwise(bounds)]


def _word_to_mask(document: list[int], tokenizer: TokenizerInfo) -> int | None:
    """Where the longest whole word of a document stands; ``None`` if it makes no example."""
    if not SHORTEST <= len(document) <= LONGEST:
        return None
    pieces = tokenizer.tokenizer.convert_ids_to_tokens(document)
    following = [*pieces[1:], ""]
    words = [
        (len(piece), index)
        for index, (piece, after) in enumerate(zip(pieces, following, strict=True))
        if piece.isalpha() and not after.startswith("##")
    ]
    length, index = max(words, default=(0, 0))
    return index if length >= 5 else None


def _numbers(summary: Mapping[str, object], key: str) -> dict[str, float]:
    numbers = summary.get(key)
    return numbers if isinstance(numbers, dict) else {}


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
