"""What is special about a run of token classification: its head, and the tags of all words."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModelForTokenClassification

from neobert.optim.schedule import Schedule
from neobert.tasks.token_classification.data import TokenDataModule
from neobert.tasks.token_classification.entities import entity_scores, has_entities
from neobert.tasks.token_classification.module import TokenModule, WordTags
from neobert.tasks.token_classification.tags import write_tags
from neobert.training.encoder_start import EncoderStart
from neobert.training.fine_tuning import FineTuningRun


class TokenRun(FineTuningRun):
    """Words with tags in, a classifier of tokens and its tags out."""

    section = "tokens"
    data: TokenDataModule
    module: TokenModule

    def build_data(self, start: EncoderStart) -> TokenDataModule:
        return TokenDataModule(self.config, start)

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return {**self.start.information, "labels": self.data.tags}

    def build_module(self, schedule: Schedule) -> TokenModule:
        tags, auto = self.data.tags, AutoModelForTokenClassification
        model, num_heads = self.model_with_head(auto, len(tags), tags)
        self.module = TokenModule(model, num_heads, schedule, self.data)
        return self.module

    @property
    def metric_names(self) -> list[str]:
        tags, labels = self.data.tags, self.data.splits["validation"].labels
        gold = [[tags[label] for label in row] for row in labels]
        scores = entity_scores(gold, gold) if has_entities(tags) else {}
        return ["accuracy", "loss", "score", *scores]

    def evaluate(self, split: str, predictions: Sequence[WordTags]) -> dict[str, float]:
        part = self.data.splits[split]
        return self.module.evaluate(predictions, part) if part.is_labelled else {}

    def write(self, split: str, predictions: Sequence[WordTags], folder: Path) -> None:
        part = self.data.splits[split]
        gold = [self.module.gold(part)] if part.is_labelled else []
        predicted = self.module.predicted(predictions, part)
        write_tags(folder / f"predictions_{split}.tsv", part.words, *gold, predicted)
