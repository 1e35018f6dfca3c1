"""What is special about a run of question answering: its head, and answers in SQuAD's form."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModelForQuestionAnswering

from neobert.files import write_json
from neobert.model.heads import TokenClassifier
from neobert.optim.schedule import Schedule
from neobert.tasks.question_answering.data import AnswerDataModule
from neobert.tasks.question_answering.module import AnswerModule
from neobert.tasks.question_answering.spans import WindowSpans, files_of
from neobert.training.encoder_start import EncoderStart
from neobert.training.fine_tuning import FineTuningRun
from neobert.training.hub_model import HubHead

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
        settings = self.config.answers
        if self.start.kind == "hub":
            length = ("answers.max_seq_length", settings.max_seq_length)
            auto = AutoModelForQuestionAnswering
            model, num_heads = self.hub_model(
                HubHead(auto, 2, dropout=settings.dropout, max_length=length)
            )
        else:
            encoder, init_std = self.start.encoder(), settings.classifier_init_range
            model = TokenClassifier(encoder, 2, settings.dropout, init_std, HEAD)
            num_heads = self.start.model.num_attention_heads
        self.module = AnswerModule(model, num_heads, schedule, self.data)
        return self.module

    def evaluate(self, split: str, predictions: Sequence[list[WindowSpans]]) -> dict[str, float]:
        return self.module.evaluate(predictions, self.data.splits[split], split == "validation")

    def write(self, split: str, predictions: Sequence[list[WindowSpans]], folder: Path) -> None:
        answers = self.module.answers(predictions, self.data.splits[split])
        for name, content in files_of(answers, self.module.threshold).items():
            write_json(content, folder / f"{name}_{split}.json")
