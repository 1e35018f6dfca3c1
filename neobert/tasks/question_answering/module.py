"""One step of question answering: score each token as start and as end of the answer."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.ops.attention import document_of_token
from neobert.optim.schedule import Schedule
from neobert.tasks.question_answering.answer_metrics import best_threshold, squad_scores
from neobert.tasks.question_answering.data import AnswerBatch, AnswerDataModule
from neobert.tasks.question_answering.spans import (
    Answers,
    WindowSpans,
    answers_of,
    by_threshold,
    candidates,
    spans_of,
)
from neobert.tasks.question_answering.windows import QuestionSplit
from neobert.training.callbacks.train_metrics import Sums
from neobert.training.fine_tuning_module import FineTuningModule


class AnswerModule(FineTuningModule):
    """A head of two scores per token that learns where answers start and end."""

    data: AnswerDataModule

    def __init__(
        self, model: nn.Module, num_heads: int, schedule: Schedule, data: AnswerDataModule
    ) -> None:
        super().__init__(model, num_heads, schedule, data)
        self.settings = data.config.answers
        self.threshold = self.settings.null_score_threshold

    def batch_sums(self, batch: AnswerBatch) -> Sums:
        loss = self.losses(self.scores(batch), batch).sum()
        return {"loss": loss, "targets": len(batch.targets)}

    def scores(self, batch: AnswerBatch) -> Float[Tensor, "S L 2"]:
        """Scores of all tokens as start and as end, a row per window; -inf behind its end."""
        inputs = batch.inputs
        if isinstance(inputs, PackedBatch):
            scores = self.model(inputs).float()  # (T, 2)
            row = document_of_token(inputs.cu_seqlens, len(scores))
            shape = len(inputs.cu_seqlens) - 1, inputs.max_seqlen, 2
            full = scores.new_full(shape, -torch.inf)
            return full.index_put((row, inputs.position_ids), scores)
        output = self.hub_output(inputs)
        full = torch.stack([output.start_logits, output.end_logits], -1).float()
        return full.masked_fill(inputs.attention_mask[..., None] == 0, -torch.inf)

    def losses(self, scores: Float[Tensor, "S L 2"], batch: AnswerBatch) -> Float[Tensor, " N"]:
        """Cross-entropy of each window in nats, the mean of start and end."""
        of_windows = scores[: len(batch.targets)].transpose(1, 2).flatten(0, 1)  # (2 N, L)
        losses = F.cross_entropy(of_windows, batch.targets.flatten(), reduction="none")
        return losses.reshape(-1, 2).mean(1)

    def validation_metrics(
        self, predictions: Mapping[str, Sequence[list[WindowSpans]]]
    ) -> dict[str, float]:
        """Tunes the threshold, too, if it is not set and some questions have no answer."""
        split = self.data.splits["validation"]
        return self.evaluate(predictions["validation"], split, tune=True)

    def test_metrics(
        self, split: str, predictions: Sequence[list[WindowSpans]]
    ) -> dict[str, float]:
        part = self.data.splits[split]
        return self.evaluate(predictions, part) if part.is_labelled else {}

    @torch.no_grad()
    def predict_step(self, batch: AnswerBatch, batch_idx: int = 0) -> list[WindowSpans]:
        scores = self.scores(batch)
        losses, predictions = self.losses(scores, batch).tolist(), []
        tables, settings = scores.cpu().numpy(), self.settings
        rows = zip(batch.numbers.tolist(), batch.contexts.tolist(), losses, strict=True)
        for table, (number, (first, count), loss) in zip(tables, rows, strict=False):
            inside = table[[0, *range(first, first + count)]]
            longest, num_candidates = settings.max_answer_length, candidates(settings.n_best)
            null, spans = spans_of(inside, longest, num_candidates)
            predictions.append(WindowSpans(number, null, spans, loss))
        return predictions

    def answers(
        self, predictions: Sequence[list[WindowSpans]], split: QuestionSplit
    ) -> dict[str, Answers]:
        """The answers to each question that was seen."""
        windows = list(chain.from_iterable(predictions))
        return answers_of(windows, split.windows, split.questions, self.settings.n_best)

    def evaluate(
        self, predictions: Sequence[list[WindowSpans]], split: QuestionSplit, tune: bool = False
    ) -> dict[str, float]:
        """``eval/*``: exact match, F1, loss, the score; ``tune`` finds the threshold first."""
        answers, gold = self.answers(predictions, split), split.gold
        losses = [window.loss for part in predictions for window in part]
        metrics = {"loss": sum(losses) / max(1, len(losses))}
        if tune and self.settings.null_score_threshold is None and split.has_unanswerable:
            odds = {name: answer.odds for name, answer in answers.items()}
            self.threshold = best_threshold(by_threshold(answers, None), odds, gold)
        if self.threshold is not None:
            metrics["null_score_threshold"] = self.threshold
        metrics |= squad_scores(by_threshold(answers, self.threshold), gold)
        metrics["score"] = metrics["f1"]
        return {f"eval/{name}": value for name, value in metrics.items()}
