"""Which rows a step takes, and which of them are a rank's.

With G rows in an optimizer step, step ``k`` takes the rows ``k·G`` to ``(k+1)·G`` of the run. They
are dealt to the ranks in turn: row ``g`` is computed by rank ``g mod ranks``. So a step has the
same rows for every number of ranks at equal G, and a run's place in its data is one number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Share:
    """How many rows a step has, and which of them are a rank's."""

    batch_size: int
    accumulation: int
    rank: int = 0
    ranks: int = 1

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.ranks


@dataclass(frozen=True, slots=True)
class Steps:
    """Which row numbers of the run a rank's micro-batches take."""

    share: Share
    skipped: tuple[range, ...] = ()
    """Steps of data that are left out: all later ones move up (``dataset.skip_steps``)."""

    offset: int = 0
    """Added to every row number: other than 0 after a resume with another batch size."""

    def numbers(self, micro_batch: int) -> range:
        """Row numbers of this rank's micro-batch."""
        share = self.share
        step, part = divmod(micro_batch, share.accumulation)
        of_all_ranks = share.batch_size * share.ranks
        first = self.first_row(step) + part * of_all_ranks + share.rank
        return range(first, first + of_all_ranks, share.ranks)

    def first_row(self, step: int) -> int:
        """The first row number of a step, over all ranks."""
        return self.offset + self.data_step(step) * self.share.rows_per_step

    def data_step(self, step: int) -> int:
        """The step whose data ``step`` gets once the skipped ones are left out."""
        for span in sorted(self.skipped, key=lambda span: span.start):
            if step >= span.start:
                step += len(span)
        return step

    def state(self, micro_batches: int) -> dict[str, int]:
        """The place after so many micro-batches, whole steps."""
        return {
            "micro_batches": micro_batches,
            "accumulation": self.share.accumulation,
            "next_row": self._row_after(micro_batches // self.share.accumulation),
        }

    def resumed(self, state: Mapping[str, int]) -> tuple["Steps", int]:
        """Go on from ``state``, with its very next row: the steps, and micro-batches done.

        Spans that are skipped move what lies ahead; what lies behind is as it was.
        """
        done = state["micro_batches"] // state["accumulation"]
        offset = self.offset + state["next_row"] - self._row_after(done)
        return replace(self, offset=offset), done * self.share.accumulation

    def _row_after(self, done: int) -> int:
        """The row number after those of the first ``done`` steps; a span may be skipped there."""
        last = self.data_step(done - 1)
        return self.offset + (last + 1) * self.share.rows_per_step


def steps_done(state: Mapping[str, Any]) -> int:
    """Optimizer steps that a loader's state counts."""
    place = state.get("place", state)
    return int(place["micro_batches"] // place["accumulation"])


def of_whole_run(state: Mapping[str, Any], first_step: int = 0) -> dict[str, Any]:
    """The state of a loader, which counts steps from its own first one, as one that counts from
    ``first_step`` of the run."""
    inner = state["place"] if "stage" in state else state
    place = inner.get("place", inner)  # of a stream it is beside its readers
    shift = state.get("first_step", 0) - first_step
    counted = {**place, "micro_batches": place["micro_batches"] + shift * place["accumulation"]}
    return {**inner, "place": counted} if "place" in inner else counted
