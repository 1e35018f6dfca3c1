"""The training batches of a run whose stages have loaders of their own, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from neobert.batch import MaskedBatch
from neobert.data.loader import TrainingLoader
from neobert.data.stages import Stage
from neobert.data.steps import of_whole_run, steps_done


@runtime_checkable
class StageBatches(TrainingLoader[MaskedBatch], Protocol):
    """The training batches of a stage."""

    def start_after(self, state_dict: dict[str, Any]) -> None:
        """Begin the first step with the row that follows another loader's place."""


@dataclass(frozen=True, slots=True)
class StageLoader:
    """A stage, and how its loader is made once it is needed."""

    stage: Stage
    make: Callable[[], StageBatches]

    continues: bool = False
    """Whether the data is a stream, which continues where the stage before ended."""


class StagedLoader:
    """The loaders of all stages as one; for Lightning one epoch.

    Its state is the number and first step of the stage and the state of its loader.
    """

    def __init__(self, stages: Sequence[StageLoader]) -> None:
        self.stages = stages
        self._number = 0
        self._loader: StageBatches | None = None
        self._before: dict[str, Any] | None = None
        """The place at which the stage before ended."""

    def __len__(self) -> int:
        return sum(one.stage.micro_batches for one in self.stages)

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
        first_step = self.stages[self._number].stage.first_step
        place = self._current().state_dict()
        return {"stage": self._number, "first_step": first_step, "place": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the very next row, in the stage of ``state_dict`` or, where that was of a
        run with other stages or none (a branch), in the stage of its step."""
        number = state_dict.get("stage", -1)
        stage = self.stages[number].stage if 0 <= number < len(self.stages) else None
        whole = of_whole_run(state_dict)
        step = steps_done(whole)
        first = state_dict.get("first_step")
        if stage is None or first not in (None, stage.first_step) or step > stage.end_step:
            later = (n for n, one in enumerate(self.stages) if step < one.stage.end_step)
            number = next(later, len(self.stages) - 1)
        self._number, self._loader, self._before = number, None, None
        place = of_whole_run(state_dict, self.stages[number].stage.first_step)
        self._current().load_state_dict(state_dict["place"] if first is None and stage else place)

    def _current(self) -> StageBatches:
        if self._loader is None:
            self._loader = self.stages[self._number].make()
            if self._before is not None:
                self._loader.start_after(self._before)
        return self._loader
