"""The training batches of a run whose stages have loaders of their own, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from neobert.batch import MaskedBatch


class TrainLoader(Protocol):
    """The batches of some steps, which can continue in the middle."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MaskedBatch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there, under the same or other settings of the loader."""

    def start_after(self, state_dict: dict[str, Any]) -> None:
        """Begin the first step with the row that follows another loader's place."""


@dataclass(frozen=True, slots=True)
class StageLoader:
    """A stage's batches: how many, and how their loader is made once they are needed."""

    micro_batches: int
    make: Callable[[], TrainLoader]

    after: int | None
    """The earlier stage whose data this one continues; ``None``: it begins at its data's start."""


class StagedLoader:
    """The loaders of all stages as one; for Lightning one epoch.

    Its state is the number of the stage, the state of its loader, and the places at which earlier
    stages ended.
    """

    def __init__(self, stages: Sequence[StageLoader]) -> None:
        self.stages = stages
        self._number = 0
        self._loader: TrainLoader | None = None
        self._ends: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return sum(stage.micro_batches for stage in self.stages)

    def __iter__(self) -> Iterator[MaskedBatch]:
        while True:
            loader = self._current()
            yield from loader
            self._ends[self._number] = loader.state_dict()
            if self._number == len(self.stages) - 1:
                return
            self._number, self._loader = self._number + 1, None

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data. Every rank calls this."""
        place = self._current().state_dict()
        return {"stage": self._number, "place": place, "ends": dict(self._ends)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue in the stage and at the place of ``state_dict``."""
        self._number, self._ends = state_dict["stage"], dict(state_dict["ends"])
        self._loader = None
        self._current().load_state_dict(state_dict["place"])

    def _current(self) -> TrainLoader:
        if self._loader is None:
            stage = self.stages[self._number]
            self._loader = stage.make()
            if stage.after is not None and stage.after in self._ends:
                self._loader.start_after(self._ends[stage.after])
        return self._loader
