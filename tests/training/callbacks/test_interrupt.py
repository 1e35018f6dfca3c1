import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from neobert.training.callbacks.interrupt import Interrupt

ALONE = SimpleNamespace(world_size=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_process_goes_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    interrupt = Interrupt()
    interrupt.on_train_start(ALONE, None)
    try:
        assert not interrupt.agreed(ALONE)
        os.kill(os.getpid(), number)
        assert interrupt.agreed(ALONE)
    finally:
        interrupt.on_train_end(ALONE, None)
    assert signal.getsignal(number) is before


LOADER = """
import os
import signal
from types import SimpleNamespace

from neobert.training.callbacks.interrupt import Interrupt

Interrupt().on_train_start(SimpleNamespace(world_size=1), None)
child = os.fork()
if child == 0:
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_loader_process_lives_on_and_says_nothing() -> None:
    command = [sys.executable, "-c", LOADER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "finishing this step" not in done.stderr


def test_a_second_ctrl_c_stops_at_once() -> None:
    interrupt = Interrupt()
    interrupt.on_train_start(ALONE, None)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        interrupt.on_train_end(ALONE, None)
