"""The training batches of a run whose stages have loaders of their own, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from neobert.batch import MaskedBatch
from neobert.data.loader import StepLoader, TrainingLoader
from neobert.data.stages import Stage
from neobert.data.steps import of_whole_run, steps_done
from neobert.data.stream import StreamLoader


class StagedLoader(TrainingLoader[MaskedBatch]):
    """The loaders of all stages as one.

    Its state is the number and first step of the stage and the state of its loader.
    """

    def __init__(
        self, stages: Sequence[Stage], make: Callable[[Stage], StepLoader | StreamLoader]
    ) -> None:
        """``make`` gives the loader of a stage; it is called once the stage begins."""
        super().__init__(sum(stage.micro_batches for stage in stages))
        self.stages, self.make = stages, make
        self._number = 0
        self._loader: StepLoader | StreamLoader | None = None

    def remaining(self) -> Iterator[MaskedBatch]:
        loader = self._current()
        yield from loader
        while self._number < len(self.stages) - 1:
            before = loader
            self._number, self._loader = self._number + 1, None
            loader = self._current()
            # A stream continues where it is; indexed rows have their numbers.
            if isinstance(before, StreamLoader) and isinstance(loader, StreamLoader):
                loader.start_after(before.state_dict())
            yield from loader

    def state_dict(self) -> dict[str, Any]:
        """Where the run is in its data. Every rank calls this."""
        first_step = self.stages[self._number].first_step
        place = self._current().state_dict()
        return {"stage": self._number, "first_step": first_step, "place": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the very next row, in the stage of ``state_dict`` or, where that was of a
        run with other stages or none (a branch), in the stage of its step."""
        number = state_dict.get("stage", -1)
        stage = self.stages[number] if 0 <= number < len(self.stages) else None
        whole = of_whole_run(state_dict)
        step = steps_done(whole)
        first = state_dict.get("first_step")
        if stage is None or first not in (None, stage.first_step) or step > stage.end_step:
            later = (n for n, one in enumerate(self.stages) if step < one.end_step)
            number = next(later, len(self.stages) - 1)
        self._number, self._loader = number, None
        place = of_whole_run(state_dict, self.stages[number].first_step)
        self._current().load_state_dict(state_dict["place"] if first is None and stage else place)

    def _current(self) -> StepLoader | StreamLoader:
        if self._loader is None:
            self._loader = self.make(self.stages[self._number])
        return self._loader
