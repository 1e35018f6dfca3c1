"""The data of token classification: tagged words in batches that are addressable by their step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from neobert.batch import PackedBatch, PaddedBatch, TensorBatch
from neobert.console import get_logger
from neobert.data.task_splits import TableTask
from neobert.tasks.token_classification.tags import (
    TaggedRows,
    read_tagged_rows,
    tag_names,
    with_tags_of_train,
)
from neobert.tasks.token_classification.words import TaggedDocument, tagged_documents
from neobert.text_tokenizer import TextTokenizer
from neobert.training.documents import DocumentDataModule

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


class TokenDataModule(DocumentDataModule[TaggedDocument, TokenBatch]):
    """Words and tags of all splits."""

    section = "tokens"
    shared = ("label_all", "max_seq_length", "dropout")

    def read(self) -> None:
        """Read, check and tokenise all splits."""
        config, settings = self.config, self.config.tokens
        source, columns = config.dataset, (settings.words_column,)
        task = TableTask(columns, settings.tags_column, source.name, source.config)
        splits = self.open_splits(task, config.task)
        parts = {"train": splits.train, "validation": splits.validation[""], **splits.test}
        where = {name: splits.where(name) for name in parts}
        rows = {name: read_tagged_rows(part, where[name], settings) for name, part in parts.items()}
        self.tags = tag_names(rows["train"])
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        text, length = TextTokenizer.of(self.tokenizer), settings.max_seq_length
        self.splits: dict[str, TaggedRows] = {}
        self.documents = {}
        for name, read in rows.items():
            part = with_tags_of_train(read, self.tags, where[name], settings)
            labels = [[numbers.get(tag, 0) for tag in tags] for tags in part.tags]
            self.splits[name] = part
            documents = tagged_documents(text, part.words, labels, length, settings.label_all)
            self.documents[name] = documents
        sizes = [f"{len(self.splits[name].words):,} of {name}" for name in self.predicted_splits]
        log.info(
            "data: %d training documents, %s; tags %s", len(self.train), ", ".join(sizes), self.tags
        )

    def batch(
        self, documents: Sequence[TaggedDocument], step: Sequence[TaggedDocument] = ()
    ) -> TokenBatch:
        """The batch of these documents; without any it is one pad token without a label."""
        inputs = self.inputs([document.ids for document in documents])
        if isinstance(inputs, PackedBatch):
            starts = inputs.cu_seqlens.tolist()
        else:
            starts = [row * inputs.input_ids.shape[1] for row in range(len(documents))]
        targets = [
            (start + place, label, word)
            for start, document in zip(starts, documents, strict=False)
            for place, label, word in document.targets
        ]
        columns = torch.tensor(targets, dtype=torch.int64).reshape(-1, 3).unbind(1)
        positions, labels, words = columns
        in_step = sum(len(document.targets) for document in step)
        return TokenBatch(inputs, positions, labels, words, in_step)
