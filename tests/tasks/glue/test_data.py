"""Which examples a step takes: each once per epoch, whatever the batch, the ranks, the restart."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from neobert.config.root import Config
from neobert.data.loader import CountedLoader, Workers
from neobert.data.steps import Share
from neobert.errors import ConfigError
from neobert.tasks.glue.data import GlueDataModule
from neobert.tasks.glue.labelled_batch import Examples, LabelledBatch
from neobert.tasks.glue.tasks import TASKS
from neobert.training.documents import SplitDocuments, TrainingDocuments
from neobert.training.encoder_start import EncoderStart
from tests.tasks.glue.conftest import Settings, data_module, make_tokenizer, sentences, write_rows

SHARE = Share(4, 1)


def examples(count: int) -> Examples:
    return Examples(
        ids=np.full(count, 7, np.int32),
        types=np.zeros(count, np.int8),
        bounds=np.arange(count + 1),
        labels=np.zeros(count),
        names=np.arange(count),
    )


def data_of(count: int, share: Share = SHARE, seed: int = 0) -> GlueDataModule:
    """So many examples, for the rank of ``share``."""

    class OfRank(GlueDataModule):
        @property
        def share(self) -> Share:
            return share

    config = Config(task="glue", seed=seed)
    data = OfRank(config, EncoderStart("encoder", make_tokenizer(), config.model))
    data.task = TASKS["sst2"]
    data.documents = {"train": examples(count), "validation": examples(count)}
    return data


def loader(count: int, share: Share, steps: int, seed: int = 0) -> CountedLoader[LabelledBatch]:
    batches = TrainingDocuments(data_of(count, share, seed))
    return CountedLoader(batches, steps * share.accumulation, Workers())


def evaluation(count: int, size: int, budget: int | None = None) -> SplitDocuments:
    own = data_of(count)
    return SplitDocuments(own, own.documents["validation"], size, budget)


@pytest.mark.parametrize(("batch_size", "accumulation", "ranks"), [(4, 1, 1), (3, 2, 1), (2, 2, 3)])
def test_an_epoch_has_every_example_once(batch_size: int, accumulation: int, ranks: int) -> None:
    count = 29
    steps = -(-count // (batch_size * accumulation * ranks))
    seen: Counter[int] = Counter()
    in_step: Counter[int] = Counter()
    for rank in range(ranks):
        share = Share(batch_size, accumulation, rank, ranks)
        for number, batch in enumerate(loader(count, share, 2 * steps)):
            seen.update(batch.rows.tolist())
            in_step[number // accumulation] += batch.num_examples
            assert batch.num_targets_in_step == min(
                share.rows_per_step, count - number // accumulation % steps * share.rows_per_step
            )
    assert seen == {row: 2 for row in range(count)}
    assert sum(in_step.values()) == 2 * count


def test_the_seed_and_the_epoch_decide_the_order() -> None:
    share = Share(29, 1)
    first, second = (batch.rows.tolist() for batch in loader(29, share, 2))
    (other,) = (batch.rows.tolist() for batch in loader(29, share, 1, seed=1))
    assert first != second
    assert first != other
    assert sorted(first) == sorted(second) == sorted(other)


def test_a_loader_goes_on_where_it_was() -> None:
    whole = [batch.rows.tolist() for batch in loader(29, Share(4, 1), 12)]
    begun = loader(29, Share(4, 1), 12)
    iterator = iter(begun)
    for _ in range(5):
        next(iterator)
    resumed = loader(29, Share(4, 1), 12)
    resumed.load_state_dict(begun.state_dict())
    assert [batch.rows.tolist() for batch in resumed] == whole[5:]


@pytest.mark.parametrize("size", [4, 7, 100])
def test_evaluation_counts_each_example_once(size: int) -> None:
    batches = evaluation(10, size)
    rows = [row for number in range(len(batches) + 2) for row in batches[number].rows.tolist()]
    assert rows == list(range(10))


@pytest.mark.usefixtures("sst2")
@pytest.mark.parametrize(
    ("words", "steps_per_epoch", "total"),
    [
        (["trainer.per_device_train_batch_size=12"], 8, 24),
        (
            ["trainer.per_device_train_batch_size=12", "trainer.gradient_accumulation_steps=2"],
            4,
            12,
        ),
        (["trainer.max_steps=11"], 6, 11),
        (["trainer.num_train_epochs=5"], 6, 30),
    ],
)
@pytest.mark.proves(
    "trainer.max_steps", "trainer.num_train_epochs", "trainer.gradient_accumulation_steps"
)
def test_epochs_become_steps(
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    words: list[str],
    steps_per_epoch: int,
    total: int,
) -> None:
    data = data_module(settings(*words), tokenizer)
    data.setup()
    assert (data.steps_per_epoch, data.total_steps) == (steps_per_epoch, total)


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("trainer.eval_max_batches", "trainer.per_device_eval_batch_size")
def test_evaluation_can_be_bounded(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
    words = ["trainer.per_device_eval_batch_size=8", "trainer.eval_max_batches=3"]
    data = data_module(settings(*words), tokenizer)
    data.setup()
    (batches,) = data.val_dataloader()
    assert [batch.num_examples for batch in batches] == [8, 8, 8]
    assert [len(data.batches_of(split)) for split in data.predicted_splits] == [5, 2]


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("glue.num_workers")
def test_workers_change_nothing(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
    found = []
    for number in (0, 1):
        data = data_module(settings(f"glue.num_workers={number}"), tokenizer)
        data.setup()
        loader = data.train_dataloader()
        assert loader.workers.number == number
        found.append([batch.rows.tolist() for batch in loader])
    assert found[0] == found[1]


def test_a_wrong_file_is_an_error_before_anything_is_trained(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data/sst2/train.jsonl", sentences(8))
    write_rows(tmp_path / "data/sst2/validation.jsonl", [{"text": "good", "label": 1}])
    with pytest.raises(ConfigError, match=r"validation\.jsonl has no column sentence"):
        data_module(settings(), tokenizer).setup()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_budget_of_an_evaluation_is_that_of_all_ranks_together(ranks: int) -> None:
    batches = evaluation(29, 4, budget=3)
    parts = [batches.numbers(Share(4, 1, rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1  # ranks meet in every batch
    rows = [row for part in parts for number in part for row in batches[number].rows.tolist()]
    assert sorted(rows) == list(range(12))


@pytest.mark.usefixtures("sst2")
@pytest.mark.proves("dataset.prefetch_factor", "dataset.persistent_workers")
def test_the_settings_of_loader_processes_reach_the_loader(
    settings: Settings, tokenizer: PreTrainedTokenizerFast
) -> None:
    words = ("dataset.prefetch_factor=3", "dataset.persistent_workers=false")
    data = data_module(settings("glue.num_workers=1", *words), tokenizer)
    data.setup()
    assert data.train_dataloader().workers == Workers(1, 3, persistent=False)
