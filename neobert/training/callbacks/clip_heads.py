"""Measures attention logits in the forward pass and clips heads after the update (QK-clip).

Kimi K2 (arXiv 2507.20534, algorithm 1): the maximum is that of the whole global batch, per head.
Here: over all micro-batches of the step and over all ranks, pad ids not counted.
"""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from neobert.config.optimizer import MuonConfig
from neobert.training.callbacks.attention_logits import Attention, attention_layers
from neobert.training.logger import log_metrics


class QKClip(Callback):
    """Every ``clipping_interval`` updates, scales heads above ``clipping_threshold`` back to it.

    Lightning runs the micro-batches of a step one by one and updates the weights in the last. In
    steps that do not clip nothing is measured; in none is anything copied to the host, but at the
    steps that log.
    """

    def __init__(self, config: MuonConfig, log_every: int) -> None:
        """``log_every``: ``trainer.logging_steps``; what was measured in between is shown then."""
        self.config = config
        self.log_every = log_every
        self._layers: list[Attention] = []
        self._measures = False
        self._largest: Tensor | None = None
        self._clipped: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = attention_layers(pl_module, self.config)

    def acts_at(self, update: int) -> bool:
        """Whether update number ``update``, counted from 0, ends with a clip."""
        since = update - self.config.clipping_warmup_steps
        return since >= 0 and since % self.config.clipping_interval == 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if not self.acts_at(trainer.global_step):
            return
        place = batch_idx % trainer.accumulate_grad_batches
        if place == 0:
            for layer in self._layers:
                layer.reset()
        is_last = place == trainer.accumulate_grad_batches - 1
        self._measure(is_last or not self.config.capture_last_microbatch_only)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._measures:
            self._measure(False)
            self._clip(trainer)
        step = trainer.global_step
        if step % self.log_every == 0 or step == trainer.max_steps:
            self._log(trainer)

    def _measure(self, measure: bool) -> None:
        if measure != self._measures:
            self._measures = measure
            for layer in self._layers:
                layer.record(measure)

    @torch.no_grad()
    def _clip(self, trainer: Trainer) -> None:
        local_maxima = torch.stack([layer.maxima for layer in self._layers])  # (layers, heads)
        # Every rank must scale by the same factor, or the replicas drift apart.
        everywhere = trainer.strategy.reduce(local_maxima, reduce_op="max")
        assert isinstance(everywhere, Tensor)
        threshold, alpha = self.config.clipping_threshold, self.config.clipping_alpha
        counts = [
            layer.clip_(maxima, threshold, alpha)
            for layer, maxima in zip(self._layers, everywhere, strict=True)
        ]
        largest, clipped = everywhere.amax(1), torch.stack(counts).sum()
        self._largest = largest if self._largest is None else self._largest.maximum(largest)
        self._clipped = clipped if self._clipped is None else self._clipped + clipped

    def _log(self, trainer: Trainer) -> None:
        """Largest logits since the last log line, and how many heads were clipped in it."""
        if self._largest is None or self._clipped is None:
            return
        per_layer = self._largest.tolist()
        metrics = {
            f"train/max_attention_logit/layer_{index}": value
            for index, value in enumerate(per_layer)
        }
        metrics["train/max_attention_logit"] = max(per_layer)
        metrics["train/clipped_heads"] = float(self._clipped)
        log_metrics(trainer, metrics)
        self._largest = self._clipped = None

    def state_dict(self) -> dict[str, object]:
        return {"largest": self._largest, "clipped": self._clipped}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        largest, clipped = state_dict["largest"], state_dict["clipped"]
        self._largest = largest if isinstance(largest, Tensor) else None
        self._clipped = clipped if isinstance(clipped, Tensor) else None
