"""That settings reach the parts whose own tests prove what they do there."""

import json
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.data.loader import Workers
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tasks.pretraining.module import PretrainingModule
from neobert.tasks.pretraining.run import PretrainingRun
from neobert.training.run import build_module
from neobert.training.strategy import resolve_strategy

from .conftest import TINY, TinyRun


@pytest.fixture
def words(tiny_corpus: Path) -> list[str]:
    path, cache = tiny_corpus / "corpus.txt", tiny_corpus / "cache"
    return [*TINY, f"dataset.path={path}", f"dataset.cache_dir={cache}"]


def data_of(words: list[str]) -> PretrainingDataModule:
    data = PretrainingDataModule(compose_config(words))
    data.setup("fit")
    return data


def module_of(words: list[str]) -> PretrainingModule:
    run = PretrainingRun(compose_config(words), resume=None)
    run.data.setup("fit")
    module = build_module(run, 4, resolve_strategy(run.config))
    assert isinstance(module, PretrainingModule)
    return module


@pytest.mark.proves(
    "datacollator.mlm_probability", "datacollator.mask_all", "datacollator.pack_sequences"
)
def test_the_collator_s_settings_reach_the_batches(words: list[str]) -> None:
    plain = next(iter(data_of(words).train_dataloader()))
    assert 0 < plain.num_targets < plain.inputs.num_tokens
    none = next(iter(data_of([*words, "datacollator.mlm_probability=0"]).train_dataloader()))
    assert none.num_targets == 0
    all_of_it = [*words, "datacollator.mlm_probability=1", "datacollator.mask_all=true"]
    data = data_of([*all_of_it, "datacollator.pack_sequences=true", "dataset.pin_memory=true"])
    masked = next(iter(data.train_dataloader()))
    documents = masked.inputs.num_tokens - masked.num_targets  # two special tokens in each
    assert documents % 2 == 0
    ids = masked.inputs.input_ids
    assert int((ids == data.tokenizer.mask_token_id).sum()) == masked.num_targets
    assert len(ids) == 4 * 32  # rows of one length


@pytest.mark.proves("dataset.num_workers", "dataset.prefetch_factor", "dataset.persistent_workers")
def test_the_settings_of_loader_processes_reach_the_loader(words: list[str]) -> None:
    asked = ["dataset.num_workers=1", "dataset.prefetch_factor=3"]
    data = data_of([*words, *asked, "dataset.persistent_workers=false"])
    assert data.train_dataloader().workers == Workers(1, 3, persistent=False)
    assert data_of([*words, "dataset.num_workers=1"]).train_dataloader().workers == Workers(1)


@pytest.mark.proves(
    "trainer.gradient_checkpointing",
    "trainer.torch_compile",
    "trainer.torch_compile_backend",
    "model.dropout_prob",
)
def test_the_trainer_s_settings_reach_the_encoder(words: list[str]) -> None:
    plain = module_of(words)
    assert not plain.model.model.gradient_checkpointing
    assert plain.model.model.compiled is None
    assert plain.settings.masked_logits_only
    asked = module_of(
        [
            *words,
            "trainer.gradient_checkpointing=true",
            "trainer.torch_compile=true",
            "trainer.torch_compile_backend=eager",
            "trainer.masked_logits_only_loss=false",
            "trainer.log_train_accuracy=true",
            "model.dropout_prob=0.25",
        ]
    )
    assert asked.model.model.gradient_checkpointing
    assert asked.model.model.compiled is not None
    assert not asked.settings.masked_logits_only
    accumulating = data_of([*words, "trainer.gradient_accumulation_steps=3"])
    assert accumulating.share.accumulation == 3
    assert asked.settings.log_accuracy
    assert asked.model.config.dropout_prob == 0.25


@pytest.mark.proves("tokenizer.max_length")
def test_the_saved_tokenizer_takes_what_the_model_was_trained_on(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    short = data_of([*words, "tokenizer.max_length=20"])
    assert short.tokenizer.tokenizer.model_max_length == 32
    assert "tokenizer.max_length=20 is shorter than dataset.max_seq_length=32" in caplog.text
    assert data_of(words).tokenizer.tokenizer.model_max_length == 512


def test_a_length_of_zero_in_the_schedule_is_that_of_the_run() -> None:
    zero = compose_config(["scheduler.total_steps=0", "scheduler.decay_steps=0"]).scheduler
    assert resolve_schedule(zero, 50) == resolve_schedule(compose_config([]).scheduler, 50)


def test_packed_rows_may_be_longer_than_the_learned_positions(tiny_run: TinyRun) -> None:
    run = tiny_run(
        "model.rope=false",
        "model.max_position_embeddings=32",
        "datacollator.pack_sequences=true",
        "datacollator.max_length=80",
        "trainer.max_steps=2",
    )
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
