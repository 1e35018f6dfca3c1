"""What is special about a run of question answering: its head, and answers in SQuAD's form."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import AutoModelForQuestionAnswering

from neobert.files import write_json
from neobert.tasks.question_answering.answer_metrics import squad_scores
from neobert.tasks.question_answering.data import AnswerDataModule
from neobert.tasks.question_answering.module import AnswerModule
from neobert.tasks.question_answering.spans import WindowSpans, files_of
from neobert.training.fine_tuning import FineTuningRun

HEAD = "qa_outputs"
"""Name of the head's weights in models of transformers."""


class AnswerRun(FineTuningRun):
    """Questions and contexts in, spans of the contexts out."""

    data_module, module_kind = AnswerDataModule, AnswerModule
    data: AnswerDataModule
    module: AnswerModule

    def build_model(self) -> tuple[nn.Module, int]:
        return self.model_with_head(AutoModelForQuestionAnswering, 2, head=HEAD)

    @property
    def metric_names(self) -> list[str]:
        gold = self.data.splits["validation"].gold
        return ["loss", "score", *squad_scores(dict.fromkeys(gold, ""), gold)]

    def write(self, split: str, predictions: Sequence[list[WindowSpans]], folder: Path) -> None:
        answers = self.module.answers(predictions, self.data.splits[split])
        for name, content in files_of(answers, self.module.threshold).items():
            write_json(content, folder / f"{name}_{split}.json")
