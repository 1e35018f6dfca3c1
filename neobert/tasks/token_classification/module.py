"""One step of token classification: score the labelled tokens, compare, sum.

The loss is exact over the labels of the optimizer step, as in pretraining.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.optim.schedule import Schedule
from neobert.tasks.token_classification.data import TaggedSplit, TokenBatch, TokenDataModule
from neobert.tasks.token_classification.entities import entity_scores, has_entities
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule
from neobert.training.ranks import gather_lists


class WordTags(NamedTuple):
    """Predicted tags of words, by the words' numbers, and their loss."""

    words: list[int]
    tags: list[int]
    loss: float


class TokenModule(OptimizedModule):
    """A classifier of tokens that learns the tags of words."""

    def __init__(
        self, model: nn.Module, num_heads: int, schedule: Schedule, data: TokenDataModule
    ) -> None:
        config = data.config
        super().__init__(config.optimizer, schedule, num_heads, config.trainer.log_grad_norm)
        self.model, self.tags, self.split = model, data.tags, data.splits["validation"]
        self._found: list[WordTags] = []

    def training_step(self, batch: TokenBatch, batch_idx: int) -> dict[str, object]:
        loss = F.cross_entropy(self.scores(batch).float(), batch.labels, reduction="sum")
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        targets, tokens = len(batch.labels), batch.inputs.num_tokens
        sums = {"loss": loss.detach(), "targets": targets, "tokens": tokens}
        return {"loss": loss * (parts / max(1, batch.num_targets_in_step)), "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        return {"train/loss": sums["loss"] / max(1.0, sums["targets"]), **self.gradient_norm()}

    def scores(self, batch: TokenBatch) -> Float[Tensor, "K tags"]:
        """Scores of the labelled tokens."""
        inputs = batch.inputs
        if isinstance(inputs, PackedBatch):
            return self.model(inputs)[batch.positions]
        output = self.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
        return output.logits.flatten(0, 1)[batch.positions]

    def on_validation_epoch_start(self) -> None:
        self._found = []

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self._found.append(self.predict_step(batch))

    def on_validation_epoch_end(self) -> None:
        metrics = self.evaluate(gather_lists(self._found), self.split)
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)

    @torch.no_grad()
    def predict_step(self, batch: TokenBatch, batch_idx: int = 0) -> WordTags:
        scores = self.scores(batch).float()
        loss = F.cross_entropy(scores, batch.labels, reduction="sum")
        words, tags = batch.words.tolist(), scores.argmax(1).tolist()
        starts = [token for token, word in enumerate(words) if word >= 0]
        return WordTags([words[i] for i in starts], [tags[i] for i in starts], float(loss))

    def predicted(self, predictions: Sequence[WordTags], split: TaggedSplit) -> list[list[str]]:
        """The tags of each row's words; ``O``, or the first tag, where a word has no token."""
        by_word = dict(
            pair for part in predictions for pair in zip(part.words, part.tags, strict=True)
        )
        rows, first = [], 0
        for words in split.words:
            numbers = range(first, first + len(words))
            rows.append([self.tags[by_word.get(number, 0)] for number in numbers])
            first += len(words)
        return rows

    def gold(self, split: TaggedSplit) -> list[list[str]]:
        """The tags of the data, a list per row."""
        return [[self.tags[label] for label in labels] for labels in split.labels]

    def evaluate(self, predictions: Sequence[WordTags], split: TaggedSplit) -> dict[str, float]:
        """``eval/*``: accuracy, entity scores where the tags mark entities, and the score."""
        gold, predicted = self.gold(split), self.predicted(predictions, split)
        total = max(1, sum(map(len, gold)))
        right = sum(
            tag == guess
            for row in zip(gold, predicted, strict=True)
            for tag, guess in zip(*row, strict=True)
        )
        metrics = {"accuracy": right / total}
        metrics["loss"] = sum(part.loss for part in predictions) / total
        if has_entities(self.tags):
            metrics |= entity_scores(gold, predicted)
        metrics["score"] = metrics.get("f1", metrics["accuracy"])
        return {f"eval/{name}": value for name, value in metrics.items()}
