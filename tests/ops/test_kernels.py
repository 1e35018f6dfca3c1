import pytest
import torch

from neobert.config.model import ModelConfig
from neobert.errors import ConfigError
from neobert.model.heads import MaskedLM
from neobert.ops import kernels
from neobert.ops.kernels import liger_runs, resolve_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLASH = "flash_attn_varlen"


@pytest.fixture
def ampere(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    resolve_attention.cache_clear()
    yield
    resolve_attention.cache_clear()


@pytest.mark.proves("model.attn_backend")
@pytest.mark.parametrize(
    ("asked", "kernel", "words"),
    [
        (("sdpa", CPU, torch.float32, False, 64), "documents", "document by document"),
        (("sdpa", CUDA, torch.bfloat16, False, 64), "dense", "SDPA"),
        ((FLASH, CPU, torch.bfloat16, False, 64), "documents", "needs an NVIDIA GPU"),
        ((FLASH, CUDA, torch.float32, False, 64), "dense", "mixed_precision=bf16"),
        ((FLASH, CUDA, torch.bfloat16, False, 64), "torch_varlen", "torch.nn.attention"),
        ((FLASH, CUDA, torch.float16, True, 64), "dense", "dropout_prob > 0"),
        ((FLASH, CUDA, torch.bfloat16, False, 12), "dense", "width 12, no multiple of 8"),
        ((FLASH, CUDA, torch.bfloat16, False, 320), "dense", "at most 256, not 320"),
    ],
)
@pytest.mark.usefixtures("ampere")
def test_without_flash_attn_the_best_that_runs_is_taken(monkeypatch, asked, kernel, words) -> None:
    found = kernels.find_spec
    monkeypatch.setattr(
        kernels, "find_spec", lambda name: None if name == "flash_attn" else found(name)
    )
    choice = resolve_attention(*asked)
    assert choice.kernel == kernel
    assert words in choice.reason


@pytest.mark.parametrize(
    ("machine", "onednn", "avx512_bf16", "amx", "native"),
    [
        ("x86_64", True, True, False, True),  # Zen 4, Cooper Lake
        ("x86_64", True, False, True, True),
        ("x86_64", True, False, False, False),  # Skylake: AVX-512, no bf16
        ("x86_64", False, False, False, False),
        ("aarch64", True, False, False, True),
    ],
)
def test_bf16_counts_where_the_cpu_has_instructions_for_it(
    monkeypatch, machine, onednn, avx512_bf16, amx, native
) -> None:
    monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    kernels.cpu_has_bf16.cache_clear()
    found = kernels.cpu_has_bf16()
    kernels.cpu_has_bf16.cache_clear()
    assert found == native


@pytest.mark.usefixtures("ampere")
def test_flash_attn_comes_first_where_it_is_installed(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda _: object())
    choice = resolve_attention(FLASH, CUDA, torch.bfloat16, dropout=True, head_dim=12)
    assert choice.kernel == "flash_attn"


def test_an_older_gpu_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    resolve_attention.cache_clear()
    choice = resolve_attention(FLASH, CUDA, torch.float16, dropout=False, head_dim=64)
    resolve_attention.cache_clear()
    assert choice.kernel == "dense"
    assert "Ampere" in choice.reason


def test_a_model_tells_its_fallback_once(caplog) -> None:
    config = ModelConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        attn_backend="flash_attn_varlen",
    )
    model = MaskedLM(config, 11, 0)
    with caplog.at_level("INFO", "neobert"):
        for _ in range(2):
            model(torch.tensor([[1, 2, 3]]))
    assert [record.message for record in caplog.records] == [
        "attention: document by document, since model.attn_backend=flash_attn_varlen needs an "
        "NVIDIA GPU"
    ]


@pytest.mark.proves("model.kernel_backend")
@pytest.mark.parametrize("changes", [{}, {"ngpt": True}, {"hidden_act": "gelu", "rms_norm": False}])
def test_liger_on_a_cpu_is_an_error_and_auto_is_not(changes) -> None:
    def run(backend: str) -> None:
        config = ModelConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            kernel_backend=backend,
            **changes,
        )
        MaskedLM(config, 11, 0)(torch.tensor([[1, 2, 3]]))

    run("auto")
    run("torch")
    with pytest.raises(ConfigError, match=r"kernel_backend=liger.*kernel_backend=auto"):
        run("liger")


def test_auto_takes_liger_on_a_gpu() -> None:
    assert liger_runs("auto", CUDA) == kernels.HAS_LIGER
    assert not liger_runs("auto", CPU)
    assert not liger_runs("torch", CUDA)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "HAS_LIGER", False)
    assert not liger_runs("auto", CUDA)
    with pytest.raises(ConfigError, match=r"pip install 'neobert\[liger\]'"):
        liger_runs("liger", CUDA)
