from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.errors import ConfigError
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tools.inspect_data import inspect, read_command
from neobert.training.callbacks.batch_digest import batch_digest

STEP = 3


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    text = "\n".join(f"the river of island number {n} runs to the sea" for n in range(60))
    (tmp_path / "text.txt").write_text(text)
    return [
        "dataset=local",
        f"dataset.path={tmp_path / 'text.txt'}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        "dataset.num_workers=0",
        "dataset.max_seq_length=48",
        "dataset.validation_split=null",
        "tokenizer.train_vocab_size=128",
        "datacollator.pack_sequences=true",
        "trainer.per_device_train_batch_size=2",
        "trainer.gradient_accumulation_steps=2",
        "trainer.max_steps=6",
    ]


def shown(*command: str) -> str:
    return "\n".join(inspect(*read_command(command)))


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_it_shows_the_batches_that_training_gets(words: list[str], streaming: str) -> None:
    words = [*words, f"dataset.streaming={streaming}"]
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    batches = list(data.train_dataloader())[2 * STEP : 2 * STEP + 2]
    text = shown("--step", str(STEP), *words)
    assert [line[10:] for line in text.splitlines() if line.startswith("  SHA-256 ")] == [
        batch_digest(batch) for batch in batches
    ]


def test_every_target_is_shown_with_what_is_wanted(words: list[str]) -> None:
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    batches = list(data.train_dataloader())[:2]
    text = shown("--rows", "2", *words)
    assert text.count("→") == sum(batch.num_targets for batch in batches)
    assert text.count("  row 0") == text.count("  row 1") == 2
    assert "{[MASK]→" in text
    assert "[CLS]" in text
    assert "fingerprint of the stream: " in text


def test_a_rank_sees_its_own_rows_of_the_same_step(words: list[str]) -> None:
    several = [*words, "trainer.devices=2", "trainer.gradient_accumulation_steps=1"]
    sums = [line for line in shown(*several, "--rank", "1").splitlines() if "in the step" in line]
    alone = [line for line in shown(*words).splitlines() if "in the step" in line]
    assert sums == [alone[1]]
    with pytest.raises(ConfigError, match=r"--rank 2: the run has 2"):
        shown(*several, "--rank", "2")


@pytest.mark.parametrize("option", ["--step", "--rows"])
def test_a_number_below_zero_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        shown(option, "-1")
    assert option in capsys.readouterr().err


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="only the data of pretraining"):
        shown("task=glue", "glue.task_name=sst2")
