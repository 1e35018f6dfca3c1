"""The ``deepspeed`` section: how DeepSpeed runs where it is the strategy."""

from dataclasses import dataclass
from typing import Annotated

from neobert.config.checks import require, within
from neobert.config.section import Section


@dataclass(kw_only=True)
class DeepSpeedConfig(Section):
    """What ZeRO shards and where it keeps it; used by ``trainer.strategy: deepspeed_zero<stage>``.

    ``trainer.*`` decides precision, clipping and accumulation, ``optimizer.*`` the optimizer.
    """

    stage: Annotated[int, within(0, 3)] = 2
    """ZeRO stage where ``trainer.strategy: auto`` chooses DeepSpeed, 0 to 3: what is sharded are
    nothing, optimizer states (1), gradients too (2), weights too (3)."""

    offload_optimizer: bool = False
    """Keep optimizer states in the memory of the CPU."""

    offload_parameters: bool = False
    """Keep weights in the memory of the CPU; stage 3 only."""

    config_file: str | None = None
    """An own DeepSpeed JSON, used instead of the keys above; its stage must be that of
    ``trainer.strategy``."""

    def combinations(self) -> list[str]:
        alone = self.config_file is None or not (self.offload_optimizer or self.offload_parameters)
        return require(
            alone,
            f"deepspeed.config_file={self.config_file}: says itself what is offloaded; "
            "remove deepspeed.offload_optimizer and deepspeed.offload_parameters",
        )
