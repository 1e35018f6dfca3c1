"""What the modules of all tasks share: optimizer and schedule, clipping, the gradient norm."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from neobert.config.optimizer import OptimizerConfig
from neobert.optim.build import build_optimizer
from neobert.optim.schedule import Schedule, build_scheduler
from neobert.training.optimization import clip_gradients


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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = self.model.named_parameters()
        optimizer = build_optimizer(self.optimizer_config, parameters, self.num_heads)
        scheduler = build_scheduler(optimizer, self.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | int | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val or self.log_grad_norm:
            self._grad_norm = clip_gradients(self, gradient_clip_val)

    def gradient_norm(self) -> dict[str, float]:
        """``train/grad_norm`` of the last step, before clipping, if it is to be logged."""
        return {"train/grad_norm": float(self._grad_norm)} if self.log_grad_norm else {}
