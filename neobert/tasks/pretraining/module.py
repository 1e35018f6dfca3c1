"""One step of masked-language modelling: encode, compare, sum.

The loss is exact over the tokens of the optimizer step. Lightning averages micro-batches and ranks,
so each micro-batch returns ``sum / targets_in_step · (micro-batches · ranks)``, whose mean is the
sum over all of them divided by the number of their targets.
"""

from dataclasses import dataclass

import torch

from neobert.batch import MaskedBatch
from neobert.config.optimizer import OptimizerConfig
from neobert.losses.mlm import MaskedLMLoss, full_logits_loss, masked_lm_loss
from neobert.model.heads import MaskedLM
from neobert.optim.schedule import Schedule
from neobert.tasks.pretraining.evaluation_sets import (
    MaskedEvaluation,
    evaluation_metrics,
    perplexity,
)
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule


@dataclass(frozen=True, slots=True)
class PretrainingSettings:
    """What the module needs beside model and optimizer."""

    masked_logits_only: bool = True
    log_accuracy: bool = False
    log_grad_norm: bool = False
    evaluations: tuple[MaskedEvaluation, ...] = (MaskedEvaluation(),)
    """What the evaluation loaders give, one after the other."""


class PretrainingModule(OptimizedModule):
    """An encoder that learns to fill in masked tokens."""

    model: MaskedLM

    def __init__(
        self,
        model: MaskedLM,
        optimizer_config: OptimizerConfig,
        schedule: Schedule,
        settings: PretrainingSettings,
    ) -> None:
        super().__init__(
            optimizer_config, schedule, model.config.num_attention_heads, settings.log_grad_norm
        )
        self.model = model
        self.settings = settings
        self._evaluation = torch.zeros(1, 4, dtype=torch.float64)

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> dict[str, object]:
        result = self._loss(batch)
        # The Trainer's, since stages of a run may have other numbers of micro-batches.
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        loss = result.sum * (parts / max(1, batch.num_targets_in_step))
        sums = {
            "loss": result.sum.detach(),
            "targets": batch.num_targets,
            "tokens": batch.inputs.num_tokens,
        }
        if self.settings.log_accuracy:
            sums["correct"] = result.correct.detach()
        return {"loss": loss, "sums": sums}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        loss = sums["loss"] / max(1.0, sums["targets"])
        metrics = {"train/loss": loss, "train/perplexity": perplexity(loss)}
        if "correct" in sums:
            metrics["train/accuracy"] = sums["correct"] / max(1.0, sums["targets"])
        return metrics | self.gradient_norm()

    def on_validation_epoch_start(self) -> None:
        sets = len(self.settings.evaluations)
        self._evaluation = torch.zeros(sets, 4, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: MaskedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        result, sums = self._loss(batch), self._evaluation[dataloader_idx]
        sums[0] += result.sum
        sums[1] += result.correct
        sums[2] += batch.num_targets
        sums[3] += 1

    def on_validation_epoch_end(self) -> None:
        sums = self.trainer.strategy.reduce(self._evaluation, reduce_op="sum")
        metrics = evaluation_metrics(self.settings.evaluations, torch.as_tensor(sums).tolist())
        self.log_dict(metrics, logger=False)  # for early stopping and the best model
        log_metrics(self.trainer, metrics)

    def _loss(self, batch: MaskedBatch) -> MaskedLMLoss:
        masked_only = self.settings.masked_logits_only
        hidden = self.model.hidden(batch.inputs, batch.positions if masked_only else None)
        # After the forward pass, in which ZeRO-3 frees the tied weight: reading it gathers it.
        weight, bias = self.model.decoder_weight, self.model.decoder.bias
        if not masked_only:
            return full_logits_loss(hidden, weight, batch.positions, batch.labels, bias)
        kernels = self.model.config.kernel_backend
        return masked_lm_loss(hidden, weight, batch.labels, bias, kernels)
