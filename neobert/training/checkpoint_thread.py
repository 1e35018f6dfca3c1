"""Checkpoints that are written by a thread while the run trains on.

Lightning's ``AsyncCheckpointIO`` is not used: it stores tied weights twice, starts a second save
beside an unfinished one, and reports a failed write one save later.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from neobert.console import get_logger
from neobert.errors import RunError
from neobert.training.checkpoint import FolderCheckpointIO

log = get_logger(__name__)

PAGEABLE = StagingOptions(
    use_pinned_memory=False,
    use_shared_memory=False,
    use_async_staging=False,
    use_non_blocking_copy=False,
)
PINNED = replace(PAGEABLE, use_pinned_memory=True, use_non_blocking_copy=True)


class ThreadedCheckpointIO(FolderCheckpointIO):
    """Copies a checkpoint into the memory of the CPU, which training waits for, and has a thread
    write the copy. One save is in flight at a time; the next one waits for it."""

    def __init__(
        self, extras_writer: Callable[[], Callable[[Path], None]], pinned: bool = False
    ) -> None:
        """``extras_writer`` is called at each save and returns what writes the files that describe
        the model as it is then: configuration, tokenizer. With ``pinned``, for tensors of a GPU,
        the copy is in page-locked memory, which is kept for the next save."""
        self.extras_writer = extras_writer
        self._pinned = DefaultStager(PINNED) if pinned else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._save: Future[None] | None = None

    def save_checkpoint(
        self,
        checkpoint: dict[str, object],
        path: str | Path,
        storage_options: Callable[[], None] | None = None,
    ) -> None:
        """Copy ``checkpoint`` and begin to write it; raises what the save before it raised."""
        self.wait()
        copy = (self._pinned or DefaultStager(PAGEABLE)).stage(checkpoint)
        assert isinstance(copy, dict)
        writer = FolderCheckpointIO(self.extras_writer())
        self._save = self._thread.submit(writer.save_checkpoint, copy, path, storage_options)

    def check(self) -> None:
        """Raise the error of a save that has failed; does not wait."""
        if self._save is not None and self._save.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the save in flight; raise its error."""
        if self._save is not None:
            try:
                self._save.result()
            finally:
                if self._save.done():  # else a signal ended the waiting
                    self._save = None

    def finish(self) -> None:
        """Wait for the save in flight when the run has already failed: its error is logged."""
        try:
            self.wait()
        except (OSError, RunError) as error:
            log.error("error: %s", error)
