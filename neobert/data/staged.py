"""The training batches of a run whose stages have loaders of their own, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from neobert.batch import MaskedBatch
from neobert.data.loader import TrainingLoader


@runtime_checkable
class StageBatches(TrainingLoader[MaskedBatch], Protocol):
    """The training batches of a stage."""

    def start_after(self, state_dict: dict[str, Any]) -> None:
        """Begin the first step with the row that follows another loader's place."""


@dataclass(frozen=True, slots=True)
class StageLoader:
    """A stage's batches: how many, and how their loader is made once they are needed."""

    micro_batches: int
    make: Callable[[], StageBatches]

    continues: bool = False
    """Whether the data is a stream, which continues where the stage before ended."""


class StagedLoader:
    """The loaders of all stages as one; for Lightning one epoch.

    Its state is the number of the stage and the state of its loader.
    """

    def __init__(self, stages: Sequence[StageLoader]) -> None:
        self.stages = stages
        self._number = 0
        self._loader: StageBatches | None = None
        self._before: dict[str, Any] | None = None
        """The place at which the stage before ended."""

    def __len__(self) -> int:
        return sum(stage.micro_batches for stage in self.stages)

    def __iter__(self) -> Iterator[MaskedBatch]:
        while True:
            loader = self._current()
            yield from loader
            if self._number == len(self.stages) - 1:
                return
            if self.stages[self._number + 1].continues:
                self._before = loader.state_dict()
            self._number, self._loader = self._number + 1, None

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data. Every rank calls this."""
        return {"stage": self._number, "place": self._current().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue in the stage and at the place of ``state_dict``."""
        self._number, self._loader, self._before = state_dict["stage"], None, None
        self._current().load_state_dict(state_dict["place"])

    def _current(self) -> StageBatches:
        if self._loader is None:
            self._loader = self.stages[self._number].make()
            if self._before is not None:
                self._loader.start_after(self._before)
        return self._loader
