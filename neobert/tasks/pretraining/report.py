"""What a finished pretraining run shows: losses before and after, speed, and words it fills in."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from neobert.batch import IGNORE, MaskedBatch, PackedBatch
from neobert.data.tokenizer import TokenizerInfo
from neobert.model.heads import MaskedLM

EXAMPLES = 5
GUESSES = 3
SHORTEST, LONGEST = 8, 40
"""Tokens of a document that makes a readable example."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A sentence with one ``[MASK]``, what stood there, and what the model would put there."""

    sentence: str
    answer: str
    words: list[str]
    probabilities: list[float]


def guess_masked_words(
    model: MaskedLM, tokenizer: TokenizerInfo, batches: list[MaskedBatch]
) -> list[Guess]:
    """Mask one word in each of a few evaluation documents and let the model fill it in."""
    found: list[tuple[list[int], int]] = []
    for batch in batches:
        for document in _documents(batch):
            place = _word_to_mask(document, tokenizer)
            if place is not None and len(found) < EXAMPLES:
                found.append((document, place))
    return [_guess(model, tokenizer, document, place) for document, place in found]


def show_report(summary: dict[str, object], guesses: list[Guess], run: str) -> None:
    """Print the end of a run to the terminal."""
    console = Console(stderr=True)
    table = Table(title=f"{run}", show_header=True, title_justify="left")
    table.add_column("")
    for column in ("before", "after", "unigram"):
        table.add_column(column, justify="right")
    before, after = _numbers(summary, "before"), _numbers(summary, "after")
    unigram = summary.get("unigram_loss")
    loss_row = ["evaluation loss (nats)", _cell(before.get("eval/loss"), "{:.3f}")]
    table.add_row(
        *loss_row,
        _cell(after.get("eval/loss"), "{:.3f}"),
        _cell(unigram if isinstance(unigram, float) else None, "{:.3f}"),
    )
    table.add_row(
        "masked tokens right",
        _cell(before.get("eval/accuracy"), "{:.1%}"),
        _cell(after.get("eval/accuracy"), "{:.1%}"),
        "",
    )
    console.print(table)
    console.print(
        f"{summary['tokens']:,} tokens in {summary['seconds']:.0f} s: "
        f"{summary['tokens_per_sec']:,.0f} tokens/s"
    )
    for guess in guesses:
        words = ", ".join(
            f"{word} {share:.0%}"
            for word, share in zip(guess.words, guess.probabilities, strict=True)
        )
        console.print(f"  {guess.sentence}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"    → {words}   (was: {guess.answer})", markup=False, highlight=False, soft_wrap=True
        )


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


@torch.no_grad()
def _guess(model: MaskedLM, tokenizer: TokenizerInfo, document: list[int], place: int) -> Guess:
    mask = tokenizer.tokenizer.mask_token_id
    corrupted = [*document[:place], mask, *document[place + 1 :]]
    device = model.decoder.weight.device
    was_training = model.training
    model.eval()
    hidden = model.hidden(PackedBatch.from_documents([corrupted]).to(device))
    model.train(was_training)
    logits = hidden[place] @ model.decoder.weight.T
    logits = logits[: tokenizer.real_vocab_size].float()
    top = logits.softmax(-1).topk(GUESSES)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.tokenizer.decode(ids, clean_up_tokenization_spaces=True))

    return Guess(
        sentence=decode(corrupted[1:-1]),
        answer=decode([document[place]]),
        words=[decode([token]) for token in top.indices.tolist()],
        probabilities=top.values.tolist(),
    )


def _numbers(summary: dict[str, object], key: str) -> dict[str, float]:
    found = summary.get(key)
    return found if isinstance(found, dict) else {}


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
