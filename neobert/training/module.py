"""What the modules of all tasks share: optimizer and schedule, clipping, the gradient norm."""

from typing import cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from neobert.config.optimizer import OptimizerConfig
from neobert.errors import ConfigError
from neobert.optim.build import build_optimizer
from neobert.optim.schedule import Schedule, build_scheduler
from neobert.training.strategy_deepspeed import ZeRO

RULES = ("lr", "weight_decay", "betas", "eps")
"""What an optimizer's groups of parameters have from the settings."""


class OptimizedModule(LightningModule):
    """A module whose ``model`` is trained by the optimizer and the schedule of the settings.

    What a step computes is up to the task's own module.
    """

    model: nn.Module

    def __init__(
        self,
        optimizer_config: OptimizerConfig,
        schedule: Schedule,
        num_heads: int,
        log_grad_norm: bool = False,
    ) -> None:
        super().__init__()
        self.optimizer_config = optimizer_config
        self.schedule = schedule
        self.num_heads = num_heads
        self.log_grad_norm = log_grad_norm
        self._grad_norm: Tensor = torch.zeros(())
        self._groups: list[dict[str, object]] = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._optimizer()
        scheduler = build_scheduler(optimizer, self.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = self.model.named_parameters()
        optimizer = build_optimizer(self.optimizer_config, parameters, self.num_heads)
        self._groups = [
            {key: group[key] for key in RULES if key in group} for group in optimizer.param_groups
        ]
        return optimizer

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Let the settings decide the rule; an optimizer's state would bring back the old one.

        Raises ``ConfigError`` if the state is that of an optimizer with other groups.
        """
        if not self._groups:  # some strategies build the optimizer only after this
            self._optimizer()
        states = cast(list[dict[str, list[dict[str, object]]]], checkpoint["optimizer_states"])
        saved = states[0]["param_groups"]
        if len(saved) != len(self._groups):
            name = self.optimizer_config.name
            raise ConfigError(
                f"optimizer.name={name}: cannot go on with the state in the checkpoint, which "
                f"has {len(saved)} groups of parameters where {name} has {len(self._groups)}; "
                "set optimizer.name back, or start a new run from the weights "
                "(pretraining: model.init_from)"
            )
        for group, rule in zip(saved, self._groups, strict=True):
            group.update(rule)
        (schedule,) = cast(list[dict[str, object]], checkpoint["lr_schedulers"])
        factor = self.schedule.factor(cast(int, schedule["last_epoch"]))
        for group in saved:
            group["initial_lr"], group["lr"] = group["lr"], cast(float, group["lr"]) * factor
        schedule["base_lrs"] = [group["initial_lr"] for group in saved]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | int | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val or self.log_grad_norm:
            self._grad_norm = self._clip(gradient_clip_val)

    def _clip(self, limit: float | None) -> Tensor:
        """Scale all gradients so that their L2 norm together is at most ``limit``, if that is set.

        Returns the norm before clipping, a scalar. Own, since Lightning's clipping refuses fused
        optimizers under mixed precision and does not tell the norm.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeRO):  # its engine clips in the step
            return strategy.note_norm(self)
        parameters = [weight for weight in self.parameters() if weight.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
        return norm.full_tensor() if isinstance(norm, DTensor) else norm  # sharded gradients

    def gradient_norm(self) -> dict[str, float]:
        """``train/grad_norm`` of the last step, before clipping, if it is to be logged."""
        return {"train/grad_norm": float(self._grad_norm)} if self.log_grad_norm else {}
