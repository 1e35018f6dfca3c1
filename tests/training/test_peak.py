import pytest
import torch

from neobert.training.peak import find_peak, gemm_rate

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_cpu_is_measured() -> None:
    peak = find_peak(CPU, "32-true")
    assert "measured float32" in peak.source
    assert 1e8 < peak.flops < 1e14


def test_the_rate_is_operations_per_second(monkeypatch) -> None:
    ticks = iter([0.0, 2.0, 2.0, 3.0])  # two repeats: of two seconds, and of one
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert gemm_rate(torch.float32, repeats=2) == 2 * 2048 * 1024 * 2048


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756.5),
        ("NVIDIA A100-SXM4-80GB", "32-true", 19.5),
        ("Tesla T4", "16-mixed", 65.0),
        ("NVIDIA L40", "bf16-mixed", 181.0),
        ("NVIDIA GH200 480GB", "bf16-mixed", 989.4),
    ],
)
def test_known_gpus_have_their_datasheet(monkeypatch, name, precision, tflops) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert find_peak(CUDA, precision).flops == tflops * 1e12


def test_tf32_counts_where_it_is_on(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    peak = find_peak(CUDA, "32-true")
    assert (peak.flops, peak.source) == (156e12, "datasheet of A100, TF32")
    assert find_peak(CUDA, "bf16-mixed").source == "datasheet of A100, bf16 and fp16"


@pytest.mark.parametrize("name", ["Voodoo 2", "NVIDIA RTX A1000 Laptop GPU", "NVIDIA T400 4GB"])
def test_an_unknown_gpu_has_none(monkeypatch, name) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert find_peak(CUDA, "bf16-mixed") is None
