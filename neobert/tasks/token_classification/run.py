"""What is special about a run of token classification: its head, and the tags of all words."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModelForTokenClassification

from neobert.model.heads import TokenClassifier
from neobert.optim.schedule import Schedule
from neobert.tasks.token_classification.data import TokenDataModule
from neobert.tasks.token_classification.module import TokenModule, WordTags
from neobert.tasks.token_classification.tags import write_tags
from neobert.training.encoder_start import EncoderStart
from neobert.training.fine_tuning import FineTuningRun
from neobert.training.hub_model import HubHead


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
        settings, tags = self.config.tokens, self.data.tags
        if self.start.kind == "hub":
            length = ("tokens.max_seq_length", settings.max_seq_length)
            auto = AutoModelForTokenClassification
            head = HubHead(auto, len(tags), tags, None, settings.dropout, length)
            model, num_heads = self.hub_model(head)
        else:
            encoder, init_std = self.start.encoder(), settings.classifier_init_range
            model = TokenClassifier(encoder, len(tags), settings.dropout, init_std)
            num_heads = self.start.model.num_attention_heads
        self.module = TokenModule(model, num_heads, schedule, self.data)
        return self.module

    def evaluate(self, split: str, predictions: Sequence[WordTags]) -> dict[str, float]:
        return self.module.evaluate(predictions, self.data.splits[split])

    def write(self, split: str, predictions: Sequence[WordTags], folder: Path) -> None:
        part = self.data.splits[split]
        predicted = self.module.predicted(predictions, part)
        write_tags(
            folder / f"predictions_{split}.tsv", part.words, self.module.gold(part), predicted
        )
