"""Keeps nGPT's weights on the unit sphere (arXiv 2410.01131, section 2.6)."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from neobert.console import get_logger
from neobert.model.ngpt import normalize_

log = get_logger(__name__)


class UnitNorm(Callback):
    """Normalises after every optimizer step, whatever the optimizer, and decays nothing.

    Hangs on the optimizer itself, so neither accumulation nor a step that the gradient scaler
    skipped can be missed.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, torch.nn.Module)
        decayed = False
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                decayed |= bool(group.get("weight_decay"))
                group["weight_decay"] = 0.0
            optimizer.register_step_post_hook(lambda *_: normalize_(model))
        if decayed:
            log.info("model.ngpt=true: no weight decay, since every step ends on the unit sphere")
