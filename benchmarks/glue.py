"""``python -m benchmarks.glue``: how fast fine-tuning is, packed, padded, and with HF.

Trains on documents of the lengths of real texts (``--data`` and ``--tokenizer``; the ids are made
up, since only lengths matter for speed) and prints useful tokens per second: those of text, padding
not counted. The variants, with models of equal size and AdamW each:

- ``packed``: our encoder on documents laid end to end, as ``task=glue`` trains;
- ``padded``: the same encoder on documents filled up to the longest of the batch;
- ``hf``: ``BertForSequenceClassification`` under transformers' ``Trainer``, padded alike (extra:
  dev).

They take turns, ``--rounds`` times, so that a busy machine is as busy for each; the median counts.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import harness
from neobert.batch import PackedBatch
from neobert.config.optimizer import OptimizerConfig
from neobert.console import show_messages
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.losses.classification import classification_loss
from neobert.model.encoder import Encoder
from neobert.model.heads import ClassifierSettings, SequenceClassifier
from neobert.optim.build import build_optimizer
from neobert.text_tokenizer import TextTokenizer

VOCABULARY = 8192
PAD = 0
FIRST_ID = 5

Batch = list[list[int]]
"""Ids of the documents of a batch."""


def lengths_of(data: Path | None, tokenizer: Path | None, count: int) -> list[int]:
    """Tokens of the first ``count`` texts of a JSON-lines file with a column ``sentence``.

    Without files: a geometric distribution with the mean of SST-2's training set.
    """
    if data is None or tokenizer is None:
        draw = np.random.default_rng(0)
        return [min(66, 2 + int(length)) for length in draw.geometric(1 / 11.3, count)]
    text = TextTokenizer.of(saved_tokenizer(tokenizer))
    lines = data.read_text(encoding="utf-8").splitlines()[:count]
    texts = [json.loads(line)["sentence"] for line in lines]
    return [len(document) for document in text.documents(texts)]


def batches_of(lengths: Sequence[int], size: int) -> list[Batch]:
    """Made-up documents of these lengths, ``size`` to a batch."""
    draw = np.random.default_rng(1)
    documents = [draw.integers(FIRST_ID, VOCABULARY, length).tolist() for length in lengths]
    return [documents[start : start + size] for start in range(0, len(documents), size)]


def padded(batch: Batch) -> Batch:
    """The documents filled up to the longest of them."""
    longest = max(map(len, batch))
    return [[*ids, *[PAD] * (longest - len(ids))] for ids in batch]


def ours(width: int, layers: int) -> Callable[[list[Batch], Callable[[Batch], Batch]], float]:
    """A function that trains our classifier on batches and returns the seconds it took."""
    config = harness.model_config(width, layers)
    model = SequenceClassifier(
        Encoder(config, VOCABULARY, PAD), 2, ClassifierSettings(dropout=0.1)
    ).train()
    optimizer = build_optimizer(OptimizerConfig(), model.named_parameters(), width // 64)

    def train(batches: list[Batch], form: Callable[[Batch], Batch]) -> float:
        start = time.perf_counter()
        for batch in batches:
            scores = model(PackedBatch.from_documents(form(batch)))
            labels = torch.zeros(len(batch), dtype=torch.int64)
            optimizer.zero_grad()
            (classification_loss(scores, labels) / len(batch)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return time.perf_counter() - start

    return train


def theirs(width: int, layers: int, size: int) -> Callable[[list[Batch]], float]:
    """The same for transformers' ``Trainer``; it shuffles, so its padding differs a little."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
    )

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor(padded([row["input_ids"] for row in rows]))
        labels = torch.zeros(len(rows), dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}

    def train(batches: list[Batch]) -> float:
        rows = [{"input_ids": ids} for batch in batches for ids in batch]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=size,
                num_train_epochs=1,
                max_grad_norm=1.0,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                logging_strategy="no",
                remove_unused_columns=False,
            )
            trainer = Trainer(
                model=model,
                args=arguments,
                train_dataset=rows,  # type: ignore[arg-type]
                data_collator=collate,  # type: ignore[arg-type]
            )
            start = time.perf_counter()
            trainer.train()
            return time.perf_counter() - start

    return train


def measure(
    batches: list[Batch], size: int, shape: tuple[int, int], rounds: int, variants: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Useful tokens per second of each variant: the median over rounds, with least and most."""
    tokens = sum(len(ids) for batch in batches for ids in batch)
    own = ours(*shape)
    runs: dict[str, Callable[[list[Batch]], float]] = {
        "packed": lambda some: own(some, lambda batch: batch),
        "padded": lambda some: own(some, padded),
    }
    if "hf" in variants:
        runs["hf"] = theirs(*shape, size)
    for name in variants:
        runs[name](batches[:2])  # the first steps allocate
    seconds = harness.in_turns({name: partial(runs[name], batches) for name in variants}, rounds)
    return {
        name: {
            "tokens_per_sec": round(tokens / median(times), 1),
            "least": round(tokens / max(times), 1),
            "most": round(tokens / min(times), 1),
        }
        for name, times in seconds.items()
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write the figures."""
    parser = harness.command("glue", __doc__, rounds=3, output=None)
    parser.add_argument("--data", type=Path, help="JSON lines with a column `sentence`")
    parser.add_argument("--tokenizer", type=Path, help="folder of weights with their tokenizer")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shape", default="192x4", help="width x layers; heads of 64")
    parser.add_argument("--variants", default="packed,padded,hf")
    options = parser.parse_args(words)
    show_messages()
    lengths = lengths_of(options.data, options.tokenizer, options.examples)
    batches = batches_of(lengths, options.batch_size)
    filled = sum(len(ids) for batch in batches for ids in padded(batch))
    shape, variants = harness.shape_of(options.shape), options.variants.split(",")
    figures = {
        "arguments": {key: str(value) for key, value in vars(options).items()},
        "threads": torch.get_num_threads(),
        "tokens of a text": sum(lengths) / len(lengths),
        "padding": 1 - sum(lengths) / filled,
        "tokens_per_sec": measure(batches, options.batch_size, shape, options.rounds, variants),
    }
    harness.save(options.output, figures)


if __name__ == "__main__":
    main()
