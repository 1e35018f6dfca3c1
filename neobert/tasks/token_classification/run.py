"""What is special about a run of token classification: its head, and the tags of all words."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import AutoModelForTokenClassification

from neobert.tasks.token_classification.data import TokenDataModule
from neobert.tasks.token_classification.entities import entity_scores, has_entities
from neobert.tasks.token_classification.module import TokenModule, WordTags
from neobert.tasks.token_classification.tags import write_tags
from neobert.training.fine_tuning import FineTuningRun


class TokenRun(FineTuningRun):
    """Words with tags in, a classifier of tokens and its tags out."""

    data_module, module_kind = TokenDataModule, TokenModule
    data: TokenDataModule
    module: TokenModule

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return {**self.start.information, "labels": self.data.tags}

    def build_model(self) -> tuple[nn.Module, int]:
        tags = self.data.tags
        return self.model_with_head(AutoModelForTokenClassification, len(tags), tags)

    @property
    def metric_names(self) -> list[str]:
        gold = self.data.splits["validation"].tags
        scores = entity_scores(gold, gold) if has_entities(self.data.tags) else {}
        return ["accuracy", "loss", "score", *scores]

    def write(self, split: str, predictions: Sequence[WordTags], folder: Path) -> None:
        part = self.data.splits[split]
        gold = [part.tags] if part.is_labelled else []
        predicted = self.module.predicted(predictions, part)
        write_tags(folder / f"predictions_{split}.tsv", part.words, *gold, predicted)
