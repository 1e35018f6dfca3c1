"""The data of token classification: tagged words in batches that are addressable by their step."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neobert.batch import PackedBatch, PaddedBatch, TensorBatch
from neobert.config.root import Config
from neobert.console import get_logger
from neobert.data.cache import cache_folder
from neobert.data.task_splits import TableTask, open_splits
from neobert.tasks.token_classification.tags import (
    read_tagged_rows,
    tag_names,
    with_tags_of_train,
)
from neobert.tasks.token_classification.words import TaggedDocument, tagged_documents
from neobert.text_tokenizer import TextTokenizer
from neobert.training.documents import DocumentDataModule
from neobert.training.encoder_start import EncoderStart
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TokenBatch(TensorBatch):
    """Documents, and the K tokens of them that have a label."""

    inputs: PackedBatch | PaddedBatch
    positions: Int[Tensor, " K"]
    """Indices into the tokens of the batch; the rows of a padded one count end to end."""

    labels: Int[Tensor, " K"]
    words: Int[Tensor, " K"]
    """Number of the word in its split that a token stands for; -1 for its further tokens."""

    num_targets_in_step: int = 0
    """Labels of the whole optimizer step, on all ranks; 0 in evaluation."""


@dataclass(frozen=True, slots=True)
class TaggedSplit:
    """A split, tokenised."""

    words: list[list[str]]
    labels: list[list[int]]
    documents: list[TaggedDocument]
    is_labelled: bool = True
    """Else the labels stand for nothing."""


class TokenDataModule(DocumentDataModule[TaggedDocument, TokenBatch]):
    """Words and tags of all splits."""

    def __init__(self, config: Config, start: EncoderStart) -> None:
        super().__init__(config)
        self.tokenizer, self.packed = start.tokenizer, start.kind != "hub"
        self.num_workers = ("tokens.num_workers", config.tokens.num_workers)

    def read(self) -> None:
        """Read, check and tokenise all splits."""
        config, settings = self.config, self.config.tokens
        datasets.disable_progress_bars()
        source, cache = config.dataset, cache_folder(config.dataset.cache_dir)
        columns = (settings.words_column,)
        task = TableTask(columns, settings.tags_column, source.name, source.config)
        splits = open_splits(task, config.task, source, cache, config.seed)
        self.origin = splits.origin
        parts = {"train": splits.train, "validation": splits.validation[""], **splits.test}
        where = {name: splits.where(name) for name in parts}
        rows = {name: read_tagged_rows(part, where[name], settings) for name, part in parts.items()}
        self.tags = tag_names(rows["train"])
        text, length = TextTokenizer.of(self.tokenizer), settings.max_seq_length
        self.splits = {}
        for name, read in rows.items():
            part = with_tags_of_train(read, self.tags, where[name], settings)
            numbers = {tag: number for number, tag in enumerate(self.tags)}
            labels = [[numbers.get(tag, 0) for tag in tags] for tags in part.tags]
            documents = tagged_documents(text, part.words, labels, length, settings.label_all)
            self.splits[name] = TaggedSplit(part.words, labels, documents, part.is_labelled)
        self.train = self.splits.pop("train").documents
        sizes = ", ".join(f"{len(part.words):,} of {name}" for name, part in self.splits.items())
        log.info("data: %d training documents, %s; tags %s", len(self.train), sizes, self.tags)

    @property
    def predicted_splits(self) -> list[str]:
        return list(self.splits)

    def documents_of(self, split: str) -> list[TaggedDocument]:
        return self.splits[split].documents

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        settings, tokens = self.config.tokens, sum(len(document.ids) for document in self.train)
        return {
            "dataset": f"{self.origin}, {len(self.train)} documents, {tokens} tokens",
            "dataset.train_split": self.config.dataset.train_split,
            "tokens.label_all": settings.label_all,
            "tokens.max_seq_length": settings.max_seq_length,
            "tokens.dropout": settings.dropout,
            "seed": self.config.seed,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    def batch(
        self, documents: Sequence[TaggedDocument], step: Sequence[TaggedDocument] = ()
    ) -> TokenBatch:
        """The batch of these documents; without any it is one pad token without a label."""
        pad = self.tokenizer.pad_token_id if isinstance(self.tokenizer.pad_token_id, int) else 0
        multiple = self.config.datacollator.pad_to_multiple_of or 1
        ids = [document.ids for document in documents] or [[pad]]
        inputs: PackedBatch | PaddedBatch
        if self.packed:
            inputs = PackedBatch.from_documents(ids, pad, multiple)
            starts = np.cumsum([0, *map(len, ids)])
        else:
            inputs = PaddedBatch.from_documents([np.array(row) for row in ids], pad, multiple)
            starts = np.arange(len(ids)) * inputs.input_ids.shape[1]
        targets = [
            (start + place, label, word)
            for start, document in zip(starts.tolist(), documents, strict=False)
            for place, label, word in document.targets
        ]
        columns = torch.tensor(targets, dtype=torch.int64).reshape(-1, 3).unbind(1)
        positions, labels, words = columns
        in_step = sum(len(document.targets) for document in step)
        return TokenBatch(inputs, positions, labels, words, in_step)
