"""Random numbers of the training step as a function of (seed, rank, micro-batch), nothing else.

Dropout is the only thing that draws from PyTorch's generator while training. Seeding it before
each micro-batch makes what it draws independent of how often the run was stopped and of what was
evaluated in between, so that no generator state needs to be saved (the counter-based idea is that
of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SeedEachMicroBatch(Callback):
    """Seeds PyTorch's generators at the start of every micro-batch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        torch.manual_seed(mixed_seed(self.seed, trainer.global_rank, batch_idx))


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, well mixed: neighbours give unrelated streams."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
