"""One step of question answering: score each token as start and as end of the answer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from neobert.batch import PackedBatch
from neobert.optim.schedule import Schedule
from neobert.tasks.question_answering.answer_metrics import best_threshold, squad_scores
from neobert.tasks.question_answering.data import AnswerBatch, AnswerDataModule, QuestionSplit
from neobert.tasks.question_answering.spans import (
    Answers,
    WindowSpans,
    answers_of,
    by_threshold,
    candidates,
    spans_of,
)
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule
from neobert.training.ranks import gather_lists


class AnswerModule(OptimizedModule):
    """A head of two scores per token that learns where answers start and end."""

    def __init__(
        self, model: nn.Module, num_heads: int, schedule: Schedule, data: AnswerDataModule
    ) -> None:
        config = data.config
        super().__init__(config.optimizer, schedule, num_heads, config.trainer.log_grad_norm)
        self.model, self.data, self.settings = model, data, config.answers
        self.threshold = self.settings.null_score_threshold
        self._found: list[WindowSpans] = []

    def training_step(self, batch: AnswerBatch, batch_idx: int) -> dict[str, object]:
        loss = self.losses(self.scores(batch), batch).sum()
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        tokens = batch.inputs.num_tokens
        sums = {"loss": loss.detach(), "targets": len(batch.targets), "tokens": tokens}
        return {"loss": loss * (parts / max(1, batch.num_targets_in_step)), "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        return {"train/loss": sums["loss"] / max(1.0, sums["targets"]), **self.gradient_norm()}

    def scores(self, batch: AnswerBatch) -> Float[Tensor, "S L 2"]:
        """Scores of all tokens as start and as end, a row per window; -inf behind its end."""
        inputs = batch.inputs
        if isinstance(inputs, PackedBatch):
            scores = self.model(inputs).float()  # (T, 2)
            rows = len(inputs.cu_seqlens) - 1
            row = torch.repeat_interleave(torch.arange(rows, device=scores.device), inputs.lengths)
            full = scores.new_full((rows, int(inputs.lengths.max()), 2), -torch.inf)
            return full.index_put((row, inputs.position_ids), scores)
        types = inputs.token_type_ids
        segments = {} if types is None else {"token_type_ids": types}
        output = self.model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **segments
        )
        full = torch.stack([output.start_logits, output.end_logits], -1).float()
        return full.masked_fill(inputs.attention_mask[..., None] == 0, -torch.inf)

    def losses(self, scores: Float[Tensor, "S L 2"], batch: AnswerBatch) -> Float[Tensor, " N"]:
        """Cross-entropy of each window in nats, the mean of start and end."""
        of_windows = scores[: len(batch.targets)].transpose(1, 2).flatten(0, 1)  # (2 N, L)
        losses = F.cross_entropy(of_windows, batch.targets.flatten(), reduction="none")
        return losses.reshape(-1, 2).mean(1)

    def on_validation_epoch_start(self) -> None:
        self._found = []

    def validation_step(self, batch: AnswerBatch, batch_idx: int) -> None:
        self._found += self.predict_step(batch)

    def on_validation_epoch_end(self) -> None:
        metrics = self.evaluate(
            gather_lists(self._found), self.data.splits["validation"], tune=True
        )
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)

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
        self, predictions: Sequence[WindowSpans], split: QuestionSplit
    ) -> dict[str, Answers]:
        """The answers to each question that was seen."""
        return answers_of(predictions, split.windows, split.questions, self.settings.n_best)

    def evaluate(
        self, predictions: Sequence[WindowSpans], split: QuestionSplit, tune: bool
    ) -> dict[str, float]:
        """``eval/*``: exact match, F1, loss, the score. ``tune``: the threshold, too, if it is not
        set and ``split`` has unanswerable questions. Nothing for a split without answers.
        """
        if not split.is_labelled:
            return {}
        answers, gold = self.answers(predictions, split), split.gold
        metrics = {"loss": sum(window.loss for window in predictions) / max(1, len(predictions))}
        if tune and self.settings.null_score_threshold is None and split.has_unanswerable:
            texts, odds = (
                by_threshold(answers, None),
                {n: answer.odds for n, answer in answers.items()},
            )
            self.threshold = best_threshold(texts, odds, gold)
        if self.threshold is not None:
            metrics["null_score_threshold"] = self.threshold
        metrics |= squad_scores(by_threshold(answers, self.threshold), gold)
        metrics["score"] = metrics["f1"]
        return {f"eval/{name}": value for name, value in metrics.items()}
