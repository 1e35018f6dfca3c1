"""The data of question answering: windows in batches that are addressable by their step."""

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
from neobert.tasks.question_answering.answer_rows import read_questions
from neobert.tasks.question_answering.windows import AnswerWindow, QuestionSplit, WindowTokenizer
from neobert.training.documents import DocumentDataModule
from neobert.training.encoder_start import EncoderStart
from neobert.training.hub_model import takes_types
from neobert.training.resume import ROWS_PER_STEP

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerBatch(TensorBatch):
    """N windows; a batch without any has one document, of one pad token."""

    inputs: PackedBatch | PaddedBatch
    targets: Int[Tensor, "N 2"]
    """Places of the first and last token of the answer in its window."""

    numbers: Int[Tensor, " N"]
    """Numbers of the windows in their split."""

    contexts: Int[Tensor, "N 2"]
    """Place of the first token of the context in each window, and how many there are."""

    num_targets_in_step: int = 0
    """Windows of the whole optimizer step, on all ranks; 0 in evaluation."""


class AnswerDataModule(DocumentDataModule[AnswerWindow, AnswerBatch]):
    """Questions of all splits."""

    def __init__(self, config: Config, start: EncoderStart) -> None:
        super().__init__(config)
        self.tokenizer, self.packed = start.tokenizer, start.kind != "hub"
        self.has_types = not self.packed and takes_types(config)
        self.num_workers = ("answers.num_workers", config.answers.num_workers)

    def read(self) -> None:
        """Read, check and tokenise all splits."""
        config, settings, dataset = self.config, self.config.answers, self.config.dataset
        datasets.disable_progress_bars()
        task = TableTask(
            (settings.context_column, settings.question_column),
            settings.answers_column,
            dataset.name,
            dataset.config,
            others=(settings.id_column,),
        )
        cache = cache_folder(dataset.cache_dir)
        splits = open_splits(task, config.task, dataset, cache, config.seed)
        self.origin = splits.origin
        cut = WindowTokenizer.of(self.tokenizer, settings, self.packed)
        self.splits = {}
        parts = {"train": splits.train, "validation": splits.validation[""], **splits.test}
        for name, part in parts.items():
            questions = read_questions(part, splits.where(name), settings)
            self.splits[name] = QuestionSplit(questions, list(cut.windows(questions)))
        log.info(
            "data: %s",
            ", ".join(f"{name}: {split.description}" for name, split in self.splits.items()),
        )
        self.train = self.splits.pop("train").windows

    @property
    def predicted_splits(self) -> list[str]:
        return list(self.splits)

    def documents_of(self, split: str) -> list[AnswerWindow]:
        return self.splits[split].windows

    def fingerprint(self) -> dict[str, object]:
        """What a resumed run must share, by setting."""
        settings, tokens = self.config.answers, sum(len(window.ids) for window in self.train)
        return {
            "dataset": f"{self.origin}, {len(self.train)} windows, {tokens} tokens",
            "dataset.train_split": self.config.dataset.train_split,
            "answers.max_seq_length": settings.max_seq_length,
            "answers.stride": settings.stride,
            "answers.dropout": settings.dropout,
            "seed": self.config.seed,
            ROWS_PER_STEP: self.share.rows_per_step,
        }

    def batch(
        self, documents: Sequence[AnswerWindow], step: Sequence[AnswerWindow] = ()
    ) -> AnswerBatch:
        """The batch of these windows."""
        pad = self.tokenizer.pad_token_id if isinstance(self.tokenizer.pad_token_id, int) else 0
        multiple = self.config.datacollator.pad_to_multiple_of or 1
        ids = [document.ids.astype(np.int64) for document in documents] or [np.array([pad])]
        inputs: PackedBatch | PaddedBatch
        if self.packed:
            inputs = PackedBatch.from_documents([window.tolist() for window in ids], pad, multiple)
        else:
            types = [document.types.astype(np.int64) for document in documents] or [
                np.zeros(1, np.int64)
            ]
            token_types = types if self.has_types else None
            inputs = PaddedBatch.from_documents(ids, pad, multiple, types=token_types)
        rows = [
            (*document.answer, document.first, len(document.places), document.number)
            for document in documents
        ]
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
        return AnswerBatch(inputs, columns[:, :2], columns[:, 4], columns[:, 2:4], len(step))
