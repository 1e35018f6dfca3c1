"""What a key of the command line does to fine-tuning. See ``make test-parity``."""

import logging
import multiprocessing
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from neobert.tasks import run
from neobert.tasks.glue.data import GlueDataModule
from tests.tasks.glue.conftest import Settings, data_module

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


def data_of(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, *words: str, packed: bool = True
) -> GlueDataModule:
    data = data_module(settings(*words), tokenizer, packed)
    data.setup("fit")
    return data


@pytest.mark.proves("glue.max_seq_length")
def test_texts_are_cut_to_the_length(
    sst2: Path, settings: Settings, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = data_of(settings, tokenizer, "glue.max_seq_length=5")
    assert int((data.train.bounds[1:] - data.train.bounds[:-1]).max()) == 5


@pytest.mark.proves("tokenizer.padding")
@pytest.mark.parametrize(("padding", "length"), [("max_length", 32), ("longest", None)])
def test_padded_rows_have_the_full_length_or_that_of_the_longest(
    sst2: Path,
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    padding: str,
    length: int | None,
) -> None:
    data = data_of(settings, tokenizer, f"tokenizer.padding={padding}", packed=False)
    batch = next(iter(data.train_dataloader()))
    longest = int(batch.inputs.attention_mask.sum(1).max())
    assert batch.inputs.input_ids.shape[1] == (length or longest)
    assert longest < 32


@pytest.mark.proves("datacollator.pad_to_multiple_of")
def test_a_packed_batch_is_filled_up_to_a_multiple(
    sst2: Path, settings: Settings, tokenizer: PreTrainedTokenizerFast
) -> None:
    unpacked = ["datacollator.pack_sequences=false", "datacollator.pad_to_multiple_of=512"]
    batch = next(iter(data_of(settings, tokenizer, *unpacked).train_dataloader()))
    assert len(batch.inputs.input_ids) % 512 == 0


@pytest.mark.proves("glue.preprocessing_num_proc")
@pytest.mark.parametrize("asked", [1, 2])
def test_so_many_processes_tokenise(
    sst2: Path,
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
) -> None:
    from neobert.tasks.glue import tokenized_examples

    processes = []
    in_processes = tokenized_examples.in_processes

    def noted(work: object, tasks: object, number: int) -> object:
        processes.append(number)
        return in_processes(work, tasks, 1)

    monkeypatch.setattr(tokenized_examples, "in_processes", noted)
    monkeypatch.setattr(tokenized_examples, "available_cores", lambda: 8)
    data_of(settings, tokenizer, f"glue.preprocessing_num_proc={asked}")
    assert processes
    assert set(processes) == {asked}


@pytest.mark.proves("glue.num_workers")
@pytest.mark.parametrize("asked", [0, 1])
def test_so_many_processes_load_the_batches(
    sst2: Path, settings: Settings, tokenizer: PreTrainedTokenizerFast, asked: int
) -> None:
    before = set(multiprocessing.active_children())
    data = data_of(settings, tokenizer, f"glue.num_workers={asked}", "trainer.max_steps=2")
    batches = iter(data.train_dataloader())
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == asked
    for _ in batches:
        pass


@pytest.mark.proves("glue.num_labels")
def test_a_wrong_number_of_labels_is_named(
    sst2: Path, settings: Settings, encoder_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = f"glue.pretrained_model_path={encoder_folder}"
    with caplog.at_level(logging.WARNING, logger="neobert"):
        run(settings(start, "glue.num_labels=7", "trainer.max_steps=1"))
    assert "glue.num_labels: sst2 has 2, not 7" in caplog.text
