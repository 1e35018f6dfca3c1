import pytest

from neobert.training.callbacks.interrupt import Interrupted
from neobert.training.fit import fit


class Stopped:
    """A trainer whose run is stopped after three steps."""

    def __init__(self, saved: bool) -> None:
        self.saved = saved

    def fit(self, *_: object, **__: object) -> None:
        raise Interrupted(3, self.saved)


@pytest.mark.parametrize("saved", [True, False])
def test_a_stopped_run_says_how_to_resume_if_it_was_saved(
    saved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        fit(Stopped(saved), None, None, None)
    assert "stopped after step 3" in caplog.text
    assert ("trainer.resume_from_checkpoint=latest" in caplog.text) == saved
    assert ("trainer.save_strategy=no" in caplog.text) != saved
