"""One step of token classification: score the labelled tokens, compare, sum."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from neobert.batch import PackedBatch
from neobert.tasks.token_classification.data import TokenBatch, TokenDataModule
from neobert.tasks.token_classification.entities import entity_scores, has_entities
from neobert.tasks.token_classification.tags import TaggedRows
from neobert.training.callbacks.train_metrics import Sums
from neobert.training.fine_tuning_module import FineTuningModule


class WordTags(NamedTuple):
    """Predicted tags of words, by the words' numbers, and their loss."""

    words: list[int]
    tags: list[int]
    loss: float


class TokenModule(FineTuningModule):
    """A classifier of tokens that learns the tags of words."""

    data: TokenDataModule

    def batch_sums(self, batch: TokenBatch) -> Sums:
        scores = self.scores(batch).float()
        loss = F.cross_entropy(scores, batch.labels, reduction="sum")
        return {"loss": loss, "targets": len(batch.labels)}

    def scores(self, batch: TokenBatch) -> Float[Tensor, "K tags"]:
        """Scores of the labelled tokens."""
        inputs = batch.inputs
        if isinstance(inputs, PackedBatch):
            return self.model(inputs)[batch.positions]
        return self.hub_output(inputs).logits.flatten(0, 1)[batch.positions]

    def validation_metrics(self, predictions: Mapping[str, Sequence[WordTags]]) -> dict[str, float]:
        return self.evaluate(predictions["validation"], self.data.splits["validation"])

    def test_metrics(self, split: str, predictions: Sequence[WordTags]) -> dict[str, float]:
        part = self.data.splits[split]
        return self.evaluate(predictions, part) if part.is_labelled else {}

    @torch.no_grad()
    def predict_step(self, batch: TokenBatch, batch_idx: int = 0) -> WordTags:
        scores = self.scores(batch).float()
        loss = F.cross_entropy(scores, batch.labels, reduction="sum")
        words, tags = batch.words.tolist(), scores.argmax(1).tolist()
        starts = [token for token, word in enumerate(words) if word >= 0]
        return WordTags([words[i] for i in starts], [tags[i] for i in starts], float(loss))

    def predicted(self, predictions: Sequence[WordTags], split: TaggedRows) -> list[list[str]]:
        """The tags of each row's words; ``O``, or the first tag, where a word has no token."""
        by_word = dict(
            pair for part in predictions for pair in zip(part.words, part.tags, strict=True)
        )
        rows, first = [], 0
        for words in split.words:
            numbers = range(first, first + len(words))
            rows.append([self.data.tags[by_word.get(number, 0)] for number in numbers])
            first += len(words)
        return rows

    def evaluate(self, predictions: Sequence[WordTags], split: TaggedRows) -> dict[str, float]:
        """``eval/*``: accuracy, entity scores where the tags mark entities, and the score."""
        gold, predicted = split.tags, self.predicted(predictions, split)
        total = max(1, sum(map(len, gold)))
        right = sum(
            tag == guess
            for row in zip(gold, predicted, strict=True)
            for tag, guess in zip(*row, strict=True)
        )
        metrics = {"accuracy": right / total}
        metrics["loss"] = sum(part.loss for part in predictions) / total
        if has_entities(self.data.tags):
            metrics |= entity_scores(gold, predicted)
        metrics["score"] = metrics.get("f1", metrics["accuracy"])
        return {f"eval/{name}": value for name, value in metrics.items()}
