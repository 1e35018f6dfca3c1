"""Pseudo-perplexity of texts (Salazar et al., arXiv 1910.14659), exactly.

``python -m neobert.tools.pseudo_perplexity MODEL texts.txt --output scores.csv``

Of a text of n tokens, special ones not counted, n copies are made, each with one token masked; the
model gives the surprise (nats) at that token. Pseudo-perplexity is the exponential of their mean;
bits per byte, their sum over (bytes of the text · ln 2), compare models of other vocabularies.
One line is one text (of a jsonl, json, csv, tsv or parquet file, one row). The CSV has a row per
text, written when the text is done; a rerun resumes after the last row. A summary by length and a
plot are made at the end.
"""

import argparse
import csv
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from neobert.batch import PackedBatch, bounds_of
from neobert.console import get_logger, show_messages
from neobert.data.rows import iter_texts
from neobert.failures import run_program
from neobert.files import sha256, user_path, write_atomically, write_json
from neobert.model.heads import MaskedLM
from neobert.text_tokenizer import TextTokenizer, utf8_bytes
from neobert.tools.arguments import add_batches, add_model, add_texts, check_length, open_model
from neobert.tools.report_files import save_figure

log = get_logger("neobert.tools.pseudo_perplexity")

COLUMNS = ("text", "tokens", "bytes", "nats", "pseudo_perplexity", "bits_per_byte")


@dataclass(slots=True)
class Score:
    """Outcome for one text."""

    text: int
    """Number of its line, from 0."""

    tokens: int
    """Tokens that were masked in turn."""

    nats: float
    """Sum of their surprises."""

    bytes: int = 0
    """UTF-8 bytes of the text; of one that was cut off, its share by tokens."""

    left: int = 0
    """Copies that are still to be computed."""

    @property
    def bits_per_byte(self) -> float:
        """Comparable between vocabularies; 0 for a text without bytes."""
        return self.nats / (self.bytes * math.log(2)) if self.bytes else 0.0

    @property
    def pseudo_perplexity(self) -> float:
        """``exp(nats / tokens)``; 1 for a text without tokens."""
        return math.exp(self.nats / self.tokens) if self.tokens else 1.0


class Scorer:
    """A model and its tokenizer; ``tokens_per_batch`` bounds what is computed at a time."""

    def __init__(
        self,
        model: MaskedLM,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int | None = None,
        tokens_per_batch: int = 8192,
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        self.model, self.tokenizer = model, tokenizer
        self.max_length = max_length or model.config.max_position_embeddings
        self.tokens_per_batch = tokens_per_batch
        self.text = TextTokenizer.of(tokenizer)
        self.special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def scores(self, texts: Iterable[tuple[int, str]]) -> Iterator[Score]:
        """Score numbered texts, in their order. Copies of several share a batch if they fit.

        What is longer than ``max_length`` tokens is cut off.
        """
        unfinished: deque[Score] = deque()
        batch: list[tuple[Score, list[int], int]] = []
        room = self.tokens_per_batch
        for number, text in texts:
            ids, size = self._encode(text)
            places = [place for place, token in enumerate(ids) if token not in self.special]
            unfinished.append(Score(number, len(places), 0.0, size, left=len(places)))
            for place in places:
                if batch and room < len(ids):
                    self._run(batch)
                    batch, room = [], self.tokens_per_batch
                    yield from _finished(unfinished)
                batch.append((unfinished[-1], ids, place))
                room -= len(ids)
        if batch:
            self._run(batch)
        yield from _finished(unfinished)

    def _encode(self, text: str) -> tuple[list[int], int]:
        """A text as ids, at most ``max_length``, and the bytes that they stand for."""
        (ids,) = self.text.documents([text], self.max_length)
        size = utf8_bytes(text)
        if len(ids) == self.max_length:
            (whole,) = self.text.documents([text])
            size = round(size * len(ids) / len(whole))
        return ids, size

    def _run(self, batch: list[tuple[Score, list[int], int]]) -> None:
        """Mask, predict, and give each text the surprise of its copies."""
        lengths = torch.tensor([len(ids) for _, ids, _ in batch])
        places = bounds_of(lengths)[:-1] + torch.tensor([place for _, _, place in batch])
        tokens = torch.tensor([token for _, ids, _ in batch for token in ids])
        labels = tokens[places]
        tokens[places] = self.tokenizer.mask_token_id
        packed = PackedBatch.from_lengths(tokens, lengths)
        surprises = self._surprises(packed, places, labels)
        for (score, _, _), nats in zip(batch, surprises, strict=True):
            score.nats += nats
            score.left -= 1

    @torch.no_grad()
    def _surprises(self, batch: PackedBatch, places: Tensor, labels: Tensor) -> list[float]:
        """Minus the log-probability of each label at its place; only those rows are decoded."""
        device = self.model.decoder.weight.device
        hidden = self.model.hidden(batch.to(device), places.to(device))  # (K, E)
        nats = functional.cross_entropy(
            self.model.logits(hidden).float(), labels.to(device), reduction="none"
        )
        return [float(value) for value in nats.tolist()]


def _finished(unfinished: deque[Score]) -> Iterator[Score]:
    while unfinished and not unfinished[0].left:
        yield unfinished.popleft()


def score_file(
    scorer: Scorer, texts: Iterable[str], output: Path, identity: dict[str, object]
) -> None:
    """Append a row per text to ``output``, after those that it has.

    ``identity`` says what the scores are of; a file of other scores is not continued.
    """
    done = _resume(output, identity)
    if done:
        log.info("%s has %d texts; continuing after them", output, done)
    with output.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(COLUMNS)
        numbered = ((n, text) for n, text in enumerate(texts) if n >= done)
        for score in scorer.scores(numbered):
            sizes = score.text, score.tokens, score.bytes, repr(score.nats)
            rates = f"{score.pseudo_perplexity:.6g}", f"{score.bits_per_byte:.6g}"
            writer.writerow((*sizes, *rates))
            file.flush()


def _resume(output: Path, identity: dict[str, object]) -> int:
    """Number of texts that ``output`` has; an incomplete last line is removed."""
    beside = output.with_suffix(".json")
    if not output.is_file():
        _check_unused(output, identity)
        write_json(identity, beside)
        return 0
    known = json.loads(beside.read_text()) if beside.is_file() else {}
    if other := [name for name in identity if known.get(name) != identity[name]]:
        raise ValueError(
            f"{output} has scores with other {', '.join(other)} (see {beside.name}): name another "
            "file with --output, or remove this one"
        )
    complete = output.read_text().rpartition("\n")[0]
    write_atomically(output, f"{complete}\n" if complete else "")
    return max(0, len(complete.splitlines()) - 1)


def _check_unused(output: Path, identity: dict[str, object]) -> None:
    """Refuse to write over a file of somebody else's that has the name of one of ours."""
    beside, picture = output.with_suffix(".json"), output.with_suffix(".png")
    try:
        known = json.loads(beside.read_text()) if beside.is_file() else identity
    except ValueError:
        known = None
    ours = isinstance(known, dict) and known.keys() == identity.keys()
    existing = picture if picture.exists() else None if ours else beside
    if existing is not None:
        raise ValueError(
            f"{existing} exists, but {output} does not: name another file with --output"
        )


def read_scores(path: Path) -> list[Score]:
    """The rows of a CSV that :func:`score_file` wrote."""
    with path.open(newline="") as file:
        return [
            Score(int(row["text"]), int(row["tokens"]), float(row["nats"]), int(row["bytes"]))
            for row in csv.DictReader(file)
        ]


def batches_by_length(scores: list[Score]) -> list[tuple[str, int, Score]]:
    """Buckets of doubling length: name, number of texts, and their scores put together."""
    buckets: dict[int, list[Score]] = {}
    for score in scores:
        if score.tokens:
            buckets.setdefault((score.tokens - 1).bit_length(), []).append(score)
    return [
        (f"{2 ** (power - 1) + 1 if power else 1}-{2**power}", len(group), total(group))
        for power, group in sorted(buckets.items())
    ]


def total(scores: list[Score]) -> Score:
    """All texts as one: the mean is over tokens, so long ones weigh more."""
    tokens, nats = sum(score.tokens for score in scores), sum(score.nats for score in scores)
    return Score(-1, tokens, nats, sum(score.bytes for score in scores))


def plot_scores(scores: list[Score], picture: Path) -> None:
    """Pseudo-perplexity of each text over its length, and of each bucket."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    with_tokens = [score for score in scores if score.tokens]
    lengths = [score.tokens for score in with_tokens]
    axes.scatter(lengths, [score.pseudo_perplexity for score in with_tokens], s=6, alpha=0.4)
    buckets = batches_by_length(scores)
    ends = [int(name.partition("-")[2]) for name, _, _ in buckets]
    means = [bucket.pseudo_perplexity for _, _, bucket in buckets]
    axes.plot(ends, means, marker="o", color="black", label="all texts up to this length")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens")
    axes.set_ylabel("pseudo-perplexity")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, picture)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.pseudo_perplexity",
        description="Exact pseudo-perplexity of each line of a text file.",
    )
    add_model(arguments)
    add_texts(arguments)
    arguments.add_argument(
        "--output", type=user_path, required=True, help="*.csv; resumed if there"
    )
    add_batches(arguments, tokens=8192)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Score a file; 1 if it or the model cannot be used."""
    options = parser().parse_args(argv)
    show_messages()
    try:
        weights = open_model(options)
        model = weights.masked_lm().eval().to(options.device)
        check_length(model.config, options.max_length)
        scorer = Scorer(model, weights.tokenizer, options.max_length, options.tokens_per_batch)
        column = "" if options.text_column is None else f":{options.text_column}"
        identity = {
            "model": "-".join(digest[:16] for digest in weights.sha256.split("-")),
            "texts": sha256(options.texts) + column,
            "max_length": scorer.max_length,
            "columns": list(COLUMNS),
        }
        texts = iter_texts(options.texts, "texts", options.text_column)
        score_file(scorer, texts, options.output, identity)
    except (ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    report_scores(read_scores(options.output), options.output.with_suffix(".png"))
    return 0


def report_scores(scores: list[Score], picture: Path) -> None:
    """A line per bucket of lengths, one for all, and the picture."""
    for name, count, bucket in batches_by_length(scores):
        rates = bucket.pseudo_perplexity, bucket.bits_per_byte
        log.info("%9s tokens: %6d texts, %.4g, %.4g bits per byte", name, count, *rates)
    whole = total(scores)
    rates = whole.pseudo_perplexity, whole.bits_per_byte
    log.info(
        "all: %d texts, %d tokens, %.4g, %.4g bits per byte", len(scores), whole.tokens, *rates
    )
    if whole.tokens:  # else there is nothing on a logarithmic axis
        plot_scores(scores, picture)


if __name__ == "__main__":
    run_program(main)
