import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neobert.errors import RunError
from neobert.training.checkpoint_thread import ThreadedCheckpointIO
from neobert.training.manifest import damages


class Gate:
    """Lets the thread write when it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.checkpoint_io = ThreadedCheckpointIO(lambda: self.write)

    def write(self, folder: Path) -> None:
        assert self.opened.wait(60)
        (folder / "config.yaml").write_text("seed: 0\n")


@pytest.fixture
def gate() -> Gate:
    return Gate()


def state(tensor: torch.Tensor) -> dict[str, object]:
    return {
        "optimizer_states": [{"momentum": tensor}],
        "state_dict": {"model.encoder.weight": tensor, "model.decoder.weight": tensor},
    }


def test_training_goes_on_while_the_checkpoint_of_its_step_is_written(
    gate: Gate, tmp_path: Path
) -> None:
    weight = torch.zeros(2, 3)
    gate.checkpoint_io.save_checkpoint(state(weight), tmp_path / "1")
    weight += 1  # the next step
    gate.checkpoint_io.check()
    assert not (tmp_path / "1").exists()
    gate.opened.set()
    gate.checkpoint_io.wait()
    assert damages(tmp_path / "1") == []
    stored = load_file(tmp_path / "1" / "model.safetensors")
    assert list(stored) == ["encoder.weight"]  # tied weights are stored once
    assert torch.equal(stored["encoder.weight"], torch.zeros(2, 3))
    loaded = torch.load(tmp_path / "1" / "trainer_state.pt")
    assert torch.equal(loaded["optimizer_states"][0]["momentum"], torch.zeros(2, 3))


def test_a_second_save_waits_for_the_first(gate: Gate, tmp_path: Path) -> None:
    written: list[int] = []

    def note(step: int) -> Callable[[], None]:
        return lambda: written.append(step)

    gate.checkpoint_io.save_checkpoint(state(torch.zeros(1)), tmp_path / "1", note(1))
    second = threading.Thread(
        target=gate.checkpoint_io.save_checkpoint,
        args=(state(torch.ones(1)), tmp_path / "2", note(2)),
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert written == []
    gate.opened.set()
    second.join(60)
    gate.checkpoint_io.wait()
    assert written == [1, 2]


def check_until_done(checkpoint_io: ThreadedCheckpointIO) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        checkpoint_io.check()
        time.sleep(0.01)


def save_again(checkpoint_io: ThreadedCheckpointIO) -> None:
    checkpoint_io.save_checkpoint(state(torch.zeros(1)), Path("never"))


@pytest.mark.parametrize("ask", [check_until_done, save_again, ThreadedCheckpointIO.wait])
def test_a_failed_write_is_an_error_once(
    gate: Gate, tmp_path: Path, ask: Callable[[ThreadedCheckpointIO], None]
) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("not a folder")
    gate.opened.set()
    checkpoint_io = gate.checkpoint_io
    checkpoint_io.save_checkpoint(state(torch.zeros(1)), folder / "1", lambda: pytest.fail("done"))
    with pytest.raises(RunError, match=r"checkpoints/1 could not be written"):
        ask(checkpoint_io)
    folder.unlink()
    checkpoint_io.save_checkpoint(state(torch.zeros(1)), folder / "3")
    checkpoint_io.wait()
    assert damages(folder / "3") == []


def test_an_error_after_the_run_has_failed_is_logged(
    gate: Gate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("not a folder")
    gate.opened.set()
    gate.checkpoint_io.save_checkpoint(state(torch.zeros(1)), tmp_path / "checkpoints" / "1")
    gate.checkpoint_io.finish()
    assert "checkpoints/1 could not be written" in caplog.text
