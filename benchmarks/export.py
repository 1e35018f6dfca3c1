"""Speed of an exported model beside transformers' ModernBertModel of equal size, and its loading.

``python -m benchmarks.export`` writes ``docs/benchmarks/export.json`` and ``export.md``. The two
models take turns on the same batches with one thread, and the time is that of the CPU spent, which
other programs on the machine change little. Medians over the rounds are reported. Loading is
measured in a process of its own per way.
"""

import argparse
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import ModernBertConfig, ModernBertModel, PreTrainedModel

import neobert
from benchmarks import harness
from neobert.console import show_messages
from neobert.export import modeling_neobert
from neobert.export.convert import CLASSES, MODULE
from neobert.export.modeling_neobert import NeoBERT, NeoBERTConfig
from neobert.ops.kernels import cpu_has_bf16
from neobert.ops.swiglu import swiglu_width
from neobert.tools.report_files import markdown_table
from neobert.training.start import open_weights

ROWS, LONGEST, VOCABULARY = 8, 128, 8192
SHAPE: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}
INNER = 1536
LARGE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
"""What is loaded: large enough for the weights to be most of the memory."""

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Speed:
    """One batch, both models."""

    batch: str
    """``full``: all rows of the longest length; ``varying``: padded rows of 8 tokens and more."""

    dtype: str
    exported: float
    """Sentences per second of CPU time, median over the rounds; so below."""

    modernbert: float
    ratio: float
    """Median of the rounds' ratios, above 1 where the exported model is faster."""

    rounds: int


def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """The exported encoder and its peer: equal width, depth, heads, matrices and vocabulary."""
    ours = NeoBERT(
        NeoBERTConfig(
            **SHAPE, intermediate_size=INNER, vocab_size=VOCABULARY, max_position_embeddings=LONGEST
        )
    )
    peer = ModernBertModel(
        ModernBertConfig(
            **SHAPE,
            intermediate_size=swiglu_width(INNER),
            vocab_size=VOCABULARY,
            max_position_embeddings=LONGEST,
            pad_token_id=0,
        )
    )
    return ours.eval(), peer.eval()


def batches() -> dict[str, dict[str, Tensor]]:
    """Ids and masks. The varying lengths are uniform between 8 and the longest."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (ROWS, LONGEST), generator=draw)
    lengths = torch.randint(8, LONGEST + 1, (ROWS,), generator=draw)
    lengths[0] = LONGEST
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()
    full = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"full": full, "varying": {"input_ids": ids * mask, "attention_mask": mask}}


def measure(rounds: int) -> list[Speed]:
    """Every batch in every type that this CPU has instructions for, the models taking turns."""
    found = []
    torch.set_num_threads(1)
    for dtype, kind in TYPES.items():
        if dtype == "bf16" and not cpu_has_bf16():
            continue  # emulated it is slower than fp32, and nobody would use it
        ours, peer = models()
        ours.to(dtype=kind)  # type: ignore[call-arg]  # transformers' wrapper loses the signature
        peer.to(dtype=kind)  # type: ignore[call-arg]
        for name, batch in batches().items():
            work = {"ours": partial(_seconds, ours, batch), "peer": partial(_seconds, peer, batch)}
            seconds = harness.in_turns(work, rounds, warm_up=1)
            exported, modernbert = (ROWS / statistics.median(x) for x in seconds.values())
            ratio = harness.median_ratio(seconds["peer"], seconds["ours"])
            found.append(Speed(name, dtype, exported, modernbert, ratio, rounds))
    return found


@torch.inference_mode()
def _seconds(model: PreTrainedModel, batch: dict[str, Tensor]) -> float:
    return harness.seconds_of(lambda: model(**batch))


def _load_exported(folder: Path) -> object:
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


WAYS: dict[str, Callable[[Path], object]] = {
    "transformers": _load_exported,
    "neobert": lambda folder: open_weights(folder).encoder().eval(),
}


def measure_loading() -> dict[str, dict[str, float]]:
    """Seconds and peak memory of loading, by the way of loading."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        config = NeoBERTConfig(**LARGE, vocab_size=30592, max_position_embeddings=512)
        config.auto_map = {auto: f"{MODULE}.{name}" for auto, name in CLASSES.items()}
        NeoBERT(config).save_pretrained(folder)
        (folder / f"{MODULE}.py").write_bytes(Path(modeling_neobert.__file__).read_bytes())
        return {
            way: harness.in_fresh_process("export", "--model", str(folder), "--load", way)
            for way in WAYS
        }


def load_and_measure(way: str, folder: Path) -> dict[str, float]:
    """Load here; memory is what the process grew by at its peak, next to the weights' size."""
    before = _memory("VmRSS")
    start = time.perf_counter()
    model = WAYS[way](folder)
    seconds = time.perf_counter() - start
    assert isinstance(model, torch.nn.Module)
    # Mapped weights take memory when they are read.
    checksum = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    weights = (folder / "model.safetensors").stat().st_size
    grown = _memory("VmHWM") - before
    return {
        "seconds": round(seconds, 3),
        "weights_mib": round(weights / MIB, 1),
        "peak_mib": round(grown / MIB, 1),
        "peak_over_weights": round(grown / weights, 3),
        "checksum": checksum,
    }


def _memory(what: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def report(speeds: list[Speed], loading: dict[str, dict[str, float]]) -> str:
    """The page for docs/benchmarks."""
    ours, peer = (sum(p.numel() for p in model.parameters()) / 1e6 for model in models())
    lines = [
        "# An exported model beside ModernBertModel",
        "",
        f"`python -m benchmarks.export` on {platform.machine()}, "
        f"one thread, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, neobert {neobert.__version__}; `attn_implementation` sdpa.",
        f"Width {SHAPE['hidden_size']}, {SHAPE['num_hidden_layers']} layers, {ours:.1f} and "
        f"{peer:.1f} million parameters, random weights, {ROWS} rows of at most {LONGEST} tokens.",
        f"The models take turns on each batch; sentences per second of CPU time, medians over "
        f"{speeds[0].rounds} rounds.",
        "",
    ]
    rows = [
        (s.batch, s.dtype, f"{s.exported:.1f}", f"{s.modernbert:.1f}", f"{s.ratio:.2f}")
        for s in speeds
    ]
    head = ["batch", "type", "exported, sentences/s", "ModernBertModel", "ratio"]
    lines += markdown_table(head, rows, text_columns=2)
    if not any(speed.dtype == "bf16" for speed in speeds):
        lines += ["", "bf16: not measured, since this CPU has no instructions for it."]
    lines += [
        "",
        "Loading fp32 weights in a new process (imports not counted), and by how much the process "
        "grew at its peak, every weight read once:",
        "",
    ]
    columns = ("weights_mib", "seconds", "peak_mib", "peak_over_weights")
    head = ["way", "weights, MiB", "seconds", "peak, MiB", "peak / weights"]
    ways = [(way, *(found[name] for name in columns)) for way, found in loading.items()]
    lines += markdown_table(head, ways)
    return "\n".join([*lines, "", "On a GPU: not measured.", ""])


def main(argv: list[str] | None = None) -> int:
    """Measure and write the page."""
    output = Path("docs/benchmarks/export.json")
    parser = harness.command("export", __doc__, rounds=5, output=output)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.load is not None:
        return harness.answer(load_and_measure(options.load, options.model))
    show_messages()
    speeds, loading = measure(options.rounds), measure_loading()
    figures = {"speeds": [asdict(speed) for speed in speeds], "loading": loading}
    harness.save(options.output, figures, report(speeds, loading))
    return 0


if __name__ == "__main__":
    sys.exit(main())
