"""What a key of the command line does to a run: from its settings to what the run is made of.

Under ``make test-parity``, which takes the effect of a key away, its test here fails.
"""

import contextlib
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from neobert.batch import MaskedBatch
from neobert.config.compose import compose_config
from neobert.data.token_store import SHARD
from neobert.errors import ConfigError
from neobert.tasks import run as run_task
from neobert.tasks.pretraining.module import PretrainingModule
from neobert.training.callbacks.checkpointer import save_plan
from neobert.training.precision import set_tf32
from neobert.training.strategy import runs_on_cuda
from neobert.training.trainer import _precision

from .conftest import TINY, TinyRun
from .test_wiring import data_of, module_of


@pytest.fixture
def words(tiny_corpus: Path) -> list[str]:
    path, cache = tiny_corpus / "corpus.txt", tiny_corpus / "cache"
    return [*TINY, f"dataset.path={path}", f"dataset.cache_dir={cache}"]


def first_batch(words: list[str]) -> MaskedBatch:
    return next(iter(data_of(words).train_dataloader()))


def restored(batch: MaskedBatch) -> Tensor:
    """The ids of a batch as they were before masking."""
    return batch.inputs.input_ids.scatter(0, batch.positions, batch.labels)


def hidden_states(module: PretrainingModule, batch: MaskedBatch) -> Tensor:
    with torch.inference_mode():
        return module.eval().model.model(batch.inputs)


def with_same_weights(words: list[str], *changes: str) -> tuple[Tensor, Tensor]:
    """Hidden states of one batch without and with ``changes``, the weights being the same."""
    batch, plain, changed = first_batch(words), module_of(words), module_of([*words, *changes])
    changed.load_state_dict(plain.state_dict())
    return hidden_states(plain, batch), hidden_states(changed, batch)


@pytest.mark.proves("model.norm_eps")
def test_a_large_epsilon_shrinks_what_the_final_norm_gives(words: list[str]) -> None:
    plain, changed = with_same_weights(words, "model.norm_eps=100")
    assert changed.norm() < 0.2 * plain.norm()


@pytest.mark.proves("model.base_scale")
def test_the_scalings_of_ngpt_start_from_the_base_scale(words: list[str]) -> None:
    model = module_of([*words, "model.ngpt=true", "model.base_scale=0.5"]).model
    assert set(model.sz.tolist()) == {0.5}
    assert set(model.model.transformer_encoder[0].sqk.tolist()) == {0.5}


@pytest.mark.proves("model.attn_backend")
def test_an_attention_kernel_that_cannot_run_is_named_with_its_key(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = "model.attn_backend=flash_attn_varlen"
    with caplog.at_level(logging.INFO):
        hidden_states(module_of([*words, asked]), first_batch(words))
    if torch.cuda.is_available():
        pytest.skip("the kernel may run here")
    assert f"since {asked}" in caplog.text


@pytest.mark.proves("dataset.pin_memory")
@pytest.mark.parametrize("asked", [True, False])
def test_batches_for_the_cpu_are_pinned_where_asked_and_a_gpu_exists(
    words: list[str], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    data = data_of([*words, f"dataset.pin_memory={asked}", "trainer.use_cpu=true"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.train_dataloader().workers.pin_memory == asked


@pytest.mark.proves("dataset.cache_dir")
def test_tokens_are_kept_below_the_folder_that_is_set(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEOBERT_CACHE", str(tmp_path / "variable"))
    data_of([*words, f"dataset.cache_dir={tmp_path / 'key'}"])
    assert list((tmp_path / "key" / "tokens").iterdir())
    assert not (tmp_path / "variable").exists()


@pytest.mark.proves("dataset.shuffle_buffer_size")
def test_a_stream_is_shuffled_within_its_buffer(words: list[str]) -> None:
    stream = [*words, "dataset.streaming=true", "dataset.eval_samples=4"]
    one, many, again = (
        restored(first_batch([*stream, f"dataset.shuffle_buffer_size={size}"])).tolist()
        for size in (1, 40, 40)
    )
    assert many == again
    assert one != many


@pytest.mark.proves("dataset.num_proc")
@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_so_many_processes_tokenise(
    tmp_path: Path, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "corpus.txt").write_text("a river\nthe sea\n" * SHARD)
    words = [*TINY, f"dataset.path={tmp_path / 'corpus.txt'}", f"dataset.cache_dir={tmp_path}"]
    with caplog.at_level(logging.DEBUG, logger="neobert"):
        data_of([*words, f"dataset.num_proc={asked}"])
    assert ("tokenising in 2 processes" in caplog.text) == (asked == 2)


@pytest.mark.proves("dataset.pre_tokenize_output")
def test_ids_are_written_where_the_key_says(words: list[str], tmp_path: Path) -> None:
    output = tmp_path / "ids"
    data_of([*words, "dataset.pre_tokenize=true", f"dataset.pre_tokenize_output={output}"])
    assert list(output.rglob("*.arrow")) + list(output.rglob("*.parquet"))


@pytest.mark.proves("tokenizer.truncation")
def test_a_long_document_is_cut_or_split_into_several(words: list[str]) -> None:
    short = [*words, "dataset.max_seq_length=12"]
    cut, split = (data_of([*short, f"tokenizer.truncation={word}"]) for word in ("true", "false"))
    (short,), (pieces,) = cut.sources, split.sources
    documents = len(short.train_store.lengths)
    assert short.train_plan.num_rows == documents
    assert pieces.train_plan.num_rows > documents


@pytest.mark.proves("datacollator.pad_to_multiple_of")
def test_unpacked_batches_are_filled_up_to_a_multiple(words: list[str]) -> None:
    unpacked = [*words, "datacollator.pack_sequences=false"]
    filled = first_batch([*unpacked, "datacollator.pad_to_multiple_of=64"])
    plain = first_batch(unpacked)
    assert len(filled.inputs.input_ids) % 64 == 0
    assert len(filled.inputs.input_ids) > len(plain.inputs.input_ids)
    assert filled.inputs.num_tokens == plain.inputs.num_tokens


@pytest.mark.proves("trainer.tf32")
@pytest.mark.parametrize(("asked", "expected"), [(True, "high"), (False, "highest")])
def test_tf32_is_allowed_as_the_trainer_for_a_gpu_is_told(asked: bool, expected: str) -> None:
    settings = compose_config([f"trainer.tf32={asked}", "trainer.mixed_precision=no"]).trainer
    before = torch.get_float32_matmul_precision()
    try:
        set_tf32(not asked)
        _precision(settings, on_cuda=True)
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.proves("trainer.torch_compile_dynamic", "trainer.torch_compile_backend")
def test_the_compiler_is_told_what_the_keys_say(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []

    def compile_nothing(function: object, **settings: object) -> object:
        calls.append(settings)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    asked = ["trainer.torch_compile_backend=aot_eager", "trainer.torch_compile_dynamic=true"]
    module_of([*words, "trainer.torch_compile=true", *asked])
    assert [(call["backend"], call["dynamic"]) for call in calls] == [("aot_eager", True)]


@pytest.mark.proves("trainer.disable_tqdm")
@pytest.mark.parametrize("disabled", [True, False])
def test_a_terminal_shows_a_bar_unless_it_is_disabled(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    reader, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:  # all the while: a terminal holds 4 KiB, then its writer waits
        with contextlib.suppress(OSError):  # EIO: the writer has closed it
            while part := os.read(reader, 1 << 16):
                shown.extend(part)

    reading = threading.Thread(target=read)
    reading.start()
    with os.fdopen(terminal, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        tiny_run(f"trainer.disable_tqdm={disabled}", "trainer.max_steps=1")
    reading.join()
    os.close(reader)
    assert (b"0/1" in shown) != disabled


@pytest.mark.proves("trainer.use_cpu")
@pytest.mark.parametrize("asked", [True, False])
def test_a_gpu_is_left_alone_where_asked(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = compose_config([f"trainer.use_cpu={asked}"])
    assert runs_on_cuda(config.trainer) != asked


@pytest.mark.proves("trainer.greater_is_better", "trainer.metric_for_best_model")
@pytest.mark.parametrize("asked", [True, False])
def test_which_way_a_metric_is_better_is_as_the_key_says(asked: bool) -> None:
    words = ["trainer.metric_for_best_model=accuracy", f"trainer.greater_is_better={asked}"]
    best = save_plan(compose_config([*words, "trainer.save_strategy=best"]).trainer, 10).best
    assert best.metric == "eval/accuracy"
    assert best.improved_by(0.5)
    best.value = 0.5
    assert best.improved_by(0.6) == asked
    assert best.improved_by(0.4) != asked


@pytest.mark.proves("trainer.load_best_model_at_end")
def test_a_run_ends_with_the_weights_of_its_best_evaluation(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[PretrainingModule] = []
    configure = PretrainingModule.configure_optimizers

    def noted(self: PretrainingModule) -> object:
        trained.append(self)
        return configure(self)

    monkeypatch.setattr(PretrainingModule, "configure_optimizers", noted)
    # The evaluation with the fewest right answers, which is not the last one.
    worst = ["trainer.metric_for_best_model=accuracy", "trainer.greater_is_better=false"]
    often = ["trainer.eval_steps=1", "trainer.save_steps=1", "trainer.eval_on_start=false"]
    run = tiny_run(*worst, *often, "trainer.load_best_model_at_end=true")
    best = json.loads((run / "summary.json").read_text())["best"]["step"]
    assert best < 4
    stored = load_file(run / "checkpoints" / str(best) / "model.safetensors")
    own = trained[-1].model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in stored.items())


@pytest.mark.proves("task")
def test_the_task_that_is_set_runs() -> None:
    nowhere = ["dataset=local", "dataset.path=/nowhere", "glue.task_name=sst2"]
    for task, key in (("pretraining", "dataset.path"), ("glue", "glue.pretrained_model_path")):
        with pytest.raises(ConfigError) as caught:
            run_task(compose_config([f"task={task}", *nowhere]))
        assert key in str(caught.value)


@pytest.mark.proves("debug")
def test_debug_adds_time_level_and_origin_to_messages() -> None:
    words = ["dataset=local", "dataset.path=/nowhere", "debug=true"]
    done = subprocess.run(
        [sys.executable, "-m", "neobert.train", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.search(r"^\d{4}-.* INFO neobert\.train: pretraining", done.stderr, re.MULTILINE)
