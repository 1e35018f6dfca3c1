"""What is special about a run of question answering: its head, and answers in SQuAD's form."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModelForQuestionAnswering

from neobert.files import write_json
from neobert.optim.schedule import Schedule
from neobert.tasks.question_answering.answer_metrics import squad_scores
from neobert.tasks.question_answering.data import AnswerDataModule
from neobert.tasks.question_answering.module import AnswerModule
from neobert.tasks.question_answering.spans import WindowSpans, files_of
from neobert.training.encoder_start import EncoderStart
from neobert.training.fine_tuning import FineTuningRun

HEAD = "qa_outputs"
"""Name of the head's weights in models of transformers."""


class AnswerRun(FineTuningRun):
    """Questions and contexts in, spans of the contexts out."""

    section = "answers"
    data: AnswerDataModule
    module: AnswerModule

    def build_data(self, start: EncoderStart) -> AnswerDataModule:
        return AnswerDataModule(self.config, start)

    def build_module(self, schedule: Schedule) -> AnswerModule:
        auto = AutoModelForQuestionAnswering
        model, num_heads = self.model_with_head(auto, 2, head=HEAD)
        self.module = AnswerModule(model, num_heads, schedule, self.data)
        return self.module

    @property
    def metric_names(self) -> list[str]:
        gold = self.data.splits["validation"].gold
        return ["loss", "score", *squad_scores(dict.fromkeys(gold, ""), gold)]

    def evaluate(self, split: str, predictions: Sequence[list[WindowSpans]]) -> dict[str, float]:
        return self.module.evaluate(predictions, self.data.splits[split], split == "validation")

    def write(self, split: str, predictions: Sequence[list[WindowSpans]], folder: Path) -> None:
        answers = self.module.answers(predictions, self.data.splits[split])
        for name, content in files_of(answers, self.module.threshold).items():
            write_json(content, folder / f"{name}_{split}.json")
