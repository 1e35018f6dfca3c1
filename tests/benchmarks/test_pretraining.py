import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks import pretraining as bench
from benchmarks.pretraining import OURS, OURS_ON_GPU, SMALL, SMOKE, choose_setting, common_settings
from neobert.config.compose import compose_config
from neobert.model.heads import MaskedLM

NAMES = OURS | OURS_ON_GPU


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("use_cpu", [True, False])
def test_the_settings_of_every_row_are_legal_and_differ_as_its_name_says(name, use_cpu) -> None:
    settings = NAMES[name]
    words = [*common_settings(SMALL, Path("run"), settings, use_cpu), *settings]
    config = compose_config(words)
    assert config.datacollator.pack_sequences == name.startswith("packed")
    assert config.trainer.torch_compile == ("compiled" in name)
    assert config.trainer.masked_logits_only_loss != ("full logits" in name)
    assert (config.optimizer.name == "muonclip") == ("MuonClip" in name)
    assert (config.model.attn_backend == "flash_attn_varlen") == ("varlen" in name)
    assert (config.model.kernel_backend == "torch") == ("no Liger" in name)
    assert config.trainer.use_cpu == use_cpu
    rows = SMALL.rows if config.datacollator.pack_sequences else SMALL.documents
    assert config.trainer.per_device_train_batch_size == rows


@pytest.mark.parametrize(
    ("bf16", "on_gpu", "size", "base"),
    [
        (True, False, "256 × 6, 16 × 512", "768 × 12, 16 × 512"),
        (False, False, "256 × 6, 4 × 512", "768 × 12, 2 × 512"),
        (False, True, "768 × 28, 32 × 1024", None),
    ],
)
def test_the_size_is_what_the_machine_can_do(monkeypatch, bf16, on_gpu, size, base) -> None:
    monkeypatch.setattr(bench, "cpu_has_bf16", lambda: bf16)
    setting = choose_setting(on_gpu)
    assert setting.size.name == size
    assert (setting.base.name if setting.base else None) == base
    assert setting.bf16 == (bf16 or on_gpu)
    for found in (setting.size, setting.base):
        if found is not None:  # the name says what is measured
            rows = f"{found.rows} × {found.row_length}"
            assert found.name == f"{found.hidden_size} × {found.layers}, {rows}"


def test_peers_take_as_many_useful_tokens_unless_they_pad() -> None:
    jobs = bench.peer_jobs(SMALL, choose_setting(on_gpu=False))
    assert len({bench.peer_name(job) for job in jobs}) == len(jobs) == 6
    for job in jobs:
        if job.mode == "dynamic":
            assert job.rows == SMALL.documents // 4
        else:
            assert job.rows * int(job.mode.removeprefix("chunk-")) == SMALL.tokens


@pytest.mark.parametrize(("by_cpu_time", "rates"), [(False, [100.0, 80.0]), (True, [200.0, 320.0])])
def test_rates_are_per_second_of_the_clock_or_of_one_core(by_cpu_time, rates) -> None:
    steps = [
        {
            "train/tokens_per_sec": rate,
            "train/cores_busy": cores,
            "train/flops_per_token": "2e9",
            "train/peak_memory_mib": memory,
        }
        for rate, cores, memory in (("100", "0.5", "700"), ("80", "0.25", "710"))
    ]
    setting = choose_setting(on_gpu=False, by_cpu_time=by_cpu_time)
    row = bench.read_steps(bench.Row("packed", "ours", "tiny"), steps, setting)
    assert row.tokens_per_sec == rates
    assert row.gflops_per_sec == pytest.approx(2 * sum(rates) / 2)
    assert row.peak_memory_mib == 710


@pytest.mark.parametrize(("before", "after"), [(None, "0"), ("2,3", "2"), ("GPU-7f", "GPU-7f")])
def test_one_gpu_is_measured_however_many_there_are(before, after) -> None:
    environment = {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    bench.take_one_gpu(environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": after}


@pytest.fixture
def job(tmp_path) -> peers.Job:
    lengths = np.array([3, 700, 5])
    np.savez(tmp_path / "documents.npz", tokens=np.arange(708, dtype=np.int32), lengths=lengths)
    job = bench.peer_jobs(SMALL, choose_setting(on_gpu=False))[0]
    return replace(job, documents=str(tmp_path / "documents.npz"), vocab_size=8192)


def test_chunks_are_cut_from_one_text_and_documents_at_512(job) -> None:
    chunks = peers.make_rows(replace(job, mode="chunk-128"))
    assert [len(row) for row in chunks] == [128] * 5
    together = np.concatenate(chunks)
    # Each token at most once, whatever the order of the documents.
    assert len(set(together.tolist())) == len(together)
    documents = peers.make_rows(replace(job, mode="dynamic"))
    assert sorted(map(len, documents)) == [3, 5, 512]


@pytest.mark.parametrize("model", ["modernbert", "bert"])
def test_peers_are_as_large_as_our_model(job, model) -> None:
    peer = peers.build_model(replace(job, model=model))
    words = common_settings(SMALL, Path("run"), OURS["packed"], use_cpu=True)
    with torch.device("meta"):
        ours = MaskedLM(compose_config(words).model, 8192, 0)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (peer, ours)]
    # BERT has position embeddings and biases, both have a dense layer in their head.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.slow
def test_the_bench_runs_and_keeps_the_rows_it_does_not_measure(tmp_path, monkeypatch) -> None:
    """Real runs of one of ours and of one peer, each a process."""
    monkeypatch.setenv("NEOBERT_CACHE", str(tmp_path / "cache"))
    for only in ("^packed, varlen$", " bert, dynamic"):
        words = ["bench", "--smoke", "--by-cpu-time", "--output", str(tmp_path), "--only", only]
        monkeypatch.setattr("sys.argv", words)
        bench.main()
    found = json.loads((tmp_path / "cpu.json").read_text())
    ours, peer = found["rows"]
    assert [ours["name"], peer["name"]] == ["packed, varlen", "HF Trainer, bert, dynamic"]
    for row in (ours, peer):
        assert row["failed"] is None
        assert len(row["tokens_per_sec"]) == SMOKE.windows
        assert min(row["tokens_per_sec"]) > 0
        assert row["peak_memory_mib"] > 100
    assert ours["gflops_per_sec"] > 0
    assert "| packed, varlen |" in (tmp_path / "cpu.md").read_text()
    assert (tmp_path / "cpu.png").stat().st_size > 1000
