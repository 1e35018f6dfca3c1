"""The data of question answering: windows in batches that are addressable by their step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from neobert.batch import PackedBatch, PaddedBatch, TensorBatch
from neobert.console import get_logger
from neobert.data.task_splits import TableTask
from neobert.tasks.question_answering.answer_rows import read_questions
from neobert.tasks.question_answering.windows import AnswerWindow, QuestionSplit, WindowTokenizer
from neobert.training.documents import DocumentDataModule

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

    section, unit = "answers", "windows"
    shared = ("max_seq_length", "stride", "dropout")

    def read(self) -> None:
        """Read, check and tokenise all splits."""
        settings, dataset = self.config.answers, self.config.dataset
        task = TableTask(
            (settings.context_column, settings.question_column),
            settings.answers_column,
            dataset.name,
            dataset.config,
            others=(settings.id_column,),
        )
        splits = self.open_splits(task, self.config.task)
        cut = WindowTokenizer.of(self.tokenizer, settings, self.packed)
        self.splits = {}
        parts = {"train": splits.train, "validation": splits.validation[""], **splits.test}
        for name, part in parts.items():
            questions = read_questions(part, splits.where(name), settings)
            self.splits[name] = QuestionSplit(questions, list(cut.windows(questions)))
        self.documents = {name: split.windows for name, split in self.splits.items()}
        log.info(
            "data: %s",
            ", ".join(f"{name}: {split.description}" for name, split in self.splits.items()),
        )

    def batch(
        self, documents: Sequence[AnswerWindow], step: Sequence[AnswerWindow] = ()
    ) -> AnswerBatch:
        """The batch of these windows."""
        ids = [window.ids.tolist() for window in documents]
        inputs = self.inputs(ids, [window.types.tolist() for window in documents])
        rows = [
            (*window.answer, window.first, len(window.places), window.number)
            for window in documents
        ]
        columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
        return AnswerBatch(inputs, columns[:, :2], columns[:, 4], columns[:, 2:4], len(step))
