"""The number of labels is the task's, and a setting that says otherwise is corrected aloud."""

import logging

import pytest

from neobert.config.glue import GlueConfig
from neobert.tasks.glue.run import warn_of_labels


@pytest.mark.proves("glue.num_labels")
@pytest.mark.parametrize(("asked", "level"), [(3, None), (2, logging.INFO), (7, logging.WARNING)])
def test_another_number_of_labels_is_corrected_aloud(
    caplog: pytest.LogCaptureFixture, asked: int, level: int | None
) -> None:
    caplog.set_level(logging.INFO, logger="neobert")
    warn_of_labels(GlueConfig(task_name="mnli", num_labels=asked), 3)
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    if level is not None:
        assert caplog.messages == [f"glue.num_labels: mnli has 3, not {asked}"]
