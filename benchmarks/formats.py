"""Exported formats: largest errors, sentences per second, STS in int8, and the cost of an export.

``python -m benchmarks.formats errors RUN...`` exports runs in every format that represents them;
``speed FOLDER...`` times folders of embedding models (exported with ``--onnx int8``), torch and
ONNX Runtime in turns on one thread; ``speed 384x12`` does so for random weights of that shape;
``sts PAIRS.jsonl FOLDER...`` compares int8 with fp32 by rank correlation; ``cost`` exports a
random model of NeoBERT's 250 M parameters. Each prints its table and stores its figures under its
name in ``docs/benchmarks/formats.json``.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from benchmarks import harness
from neobert.console import show_messages
from neobert.data.corpora import read_corpus
from neobert.data.wordpiece import train_wordpiece
from neobert.errors import ConfigError
from neobert.export.folder_checks.clients import run_session
from neobert.export.modeling_neobert import NeoBERT, NeoBERTConfig
from neobert.export.onnx_files import FP32, INT8, Quantizer, Traced
from neobert.export.write import export
from neobert.files import write_json
from neobert.ops.kernels import cpu_has_bf16
from neobert.tools.report_files import markdown_table
from neobert.training.summary import command_line, origin

BATCH = 32
LENGTHS = {"short": (10, 4 * BATCH), "long": (160, BATCH)}
"""Words of a text, and how many texts."""

NEOBERT_250M = {"hidden_size": 768, "num_hidden_layers": 28, "num_attention_heads": 12}
NUMBER = r"[\d.]+(?:e[-+]?\d+)?"
"""A number in the detail of a check."""

Rows = list[tuple[str, ...]]


def errors(runs: Sequence[Path]) -> tuple[list[str], Rows]:
    """What the checks of an export measure, by run and format."""
    rows: Rows = []
    for run in runs:
        for format_ in ("native", "neobert"):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "model"
                try:
                    findings = export(run, folder, format_=format_, onnx="int8")
                except ConfigError as error:
                    harness.log.info("%s: %s", run, error)
                    continue
                (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
            details = {finding.name: finding.detail for finding in findings}
            rows.append(
                (
                    run.name,
                    format_,
                    architecture,
                    *re.findall(NUMBER, details["outputs"]),
                    *re.findall(NUMBER, details["dtypes"].partition(":")[2]),
                    *re.findall(rf"(?:differs by|mean cosine) ({NUMBER})", details["onnx"]),
                )
            )
    head = ["model", "format", "class", "fp32", "largest output", "bf16", "bf16, cosine"]
    return [*head, "ONNX fp32", "ONNX int8, mean cosine"], rows


def texts(words: int, count: int) -> list[str]:
    """Texts of the World Factbook, cut to ``words``."""
    long = [text.split() for text in read_corpus("factbook")["train"]]
    return [" ".join(text[:words]) for text in long if len(text) >= words][:count]


Model = Callable[[Tensor, Tensor], object]


def speed(names: Sequence[str], rounds: int, scratch: Path) -> tuple[list[str], Rows]:
    """Sentences per second of processor time, medians over the rounds."""
    torch.set_num_threads(1)
    rows: Rows = []
    for name in names:
        folder = Path(name)
        if re.fullmatch(r"\d+x\d+", name):
            width, layers = harness.shape_of(name)
            folder, source = scratch / name, scratch / f"{name}-source"
            random_folder(
                source,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
            )
            export(source, folder, onnx="int8")
        models = backends(folder)
        for kind, (words, count) in LENGTHS.items():
            batches = tokenize(folder, texts(words, count))
            work = {name: partial(encode, model, batches) for name, model in models.items()}
            seconds = harness.in_turns(work, rounds, warm_up=1)
            tokens = sum(int(mask.sum()) for _, mask in batches) / count
            rates = [f"{count / median(values):.1f}" for values in seconds.values()]
            ratio = harness.median_ratio(seconds["torch fp32"], seconds["ONNX int8"])
            rows.append((folder.name, f"{kind}, {tokens:.0f}", *rates, f"{ratio:.2f}"))
    return ["model", "texts, mean tokens", *models, "int8 / torch fp32"], rows


def backends(folder: Path) -> dict[str, Model]:
    """The encoder in ``folder``, in torch and in ONNX Runtime, each with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    provider = ["CPUExecutionProvider"]
    types = {"torch fp32": torch.float32} | (
        {"torch bf16": torch.bfloat16} if cpu_has_bf16() else {}
    )
    models: dict[str, Model] = {
        name: transformers.AutoModel.from_pretrained(folder, dtype=dtype).eval()
        for name, dtype in types.items()
    }
    for name, file in (("ONNX fp32", FP32), ("ONNX int8", INT8)):
        session = onnxruntime.InferenceSession(folder / file, options, providers=provider)
        models[name] = partial(run_session, session)
    return models


def tokenize(folder: Path, sentences: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Batches of ids and masks, texts of similar length together."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    in_order = sorted(sentences, key=len)
    batches = []
    for start in range(0, len(in_order), BATCH):
        batch = tokenizer(
            in_order[start : start + BATCH], padding=True, truncation=True, return_tensors="pt"
        )
        batches.append((batch["input_ids"], batch["attention_mask"]))
    return batches


@torch.inference_mode()
def encode(model: Model, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Seconds of processor time."""
    return harness.seconds_of(lambda: [model(ids, mask) for ids, mask in batches])


def sts(pairs: Path, folders: Sequence[Path]) -> tuple[list[str], Rows]:
    """Rank correlation of cosines with people's scores, times 100, by backend."""
    lines = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    scores = torch.tensor([float(line["label"]) for line in lines])
    rows: Rows = []
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            models = backends(with_onnx(folder, Path(scratch)))
        sides = [[line[name] for line in lines] for name in ("sentence1", "sentence2")]
        correlations = [
            100 * float(spearman_corrcoef(similarities(model, folder, sides), scores))
            for name, model in models.items()
            if "bf16" not in name
        ]
        drop = correlations[0] - correlations[-1]
        rows.append((folder.name, *(f"{value:.2f}" for value in correlations), f"{drop:.2f}"))
    return ["model", "torch fp32", "ONNX fp32", "ONNX int8", "lost"], rows


def with_onnx(folder: Path, scratch: Path) -> Path:
    """``folder``, or for a third-party model a copy with the ONNX files of an export."""
    if (folder / INT8).is_file():
        return folder
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(scratch)
    (scratch / "onnx").mkdir()
    traced = Traced(model)
    traced.write(scratch / FP32)
    Quantizer(traced, tokenizer, tokenizer.model_max_length, scratch, "AutoModel").write()
    return scratch


@torch.inference_mode()
def similarities(model: Model, folder: Path, sides: Sequence[Sequence[str]]) -> Tensor:
    """Cosines of the mean vectors of two lists of texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vectors = []
    for side in sides:
        parts = []
        for start in range(0, len(side), BATCH):
            batch = tokenizer(
                side[start : start + BATCH], padding=True, truncation=True, return_tensors="pt"
            )
            ids, mask = batch["input_ids"], batch["attention_mask"][..., None]
            hidden = model(ids, batch["attention_mask"])[0]  # type: ignore[index]
            parts.append((hidden * mask).sum(1) / mask.sum(1))
        vectors.append(torch.cat(parts))
    return torch.cosine_similarity(vectors[0], vectors[1])


def random_folder(folder: Path, **shape: Any) -> Path:  # noqa: ANN401
    """A published folder of random weights with a tokenizer: something to export."""
    config = NeoBERTConfig(
        **shape,
        intermediate_size=4 * shape["hidden_size"],
        max_position_embeddings=512,
    )
    NeoBERT(config).save_pretrained(folder)
    train_wordpiece(lambda: read_corpus("factbook")["train"][:300], 2048).save_pretrained(folder)
    return folder


def cost() -> tuple[list[str], Rows]:
    """Time and peak memory of exporting NeoBERT's shape; the checks of the export included."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = random_folder(Path(place) / "model", **NEOBERT_250M)
        size = (folder / "model.safetensors").stat().st_size / 2**20
        for choice in (["--format", "native"], ["--format", "neobert"], ["--onnx"]):
            command = ["neobert.export", str(folder), "--overwrite", "--output"]
            seconds, peak = run_and_sample([*command, str(Path(place) / "exported"), *choice])
            rows.append((" ".join(choice), f"{seconds:.0f}", f"{peak:,.0f}", f"{peak / size:.2f}"))
    memory = ["peak memory of all processes, MiB", "peak / weights"]
    return ["export", "processor seconds", *memory], rows


def run_and_sample(command: Sequence[str]) -> tuple[float, float]:
    """Processor seconds of ``python -m command``; the largest memory of all its processes, MiB."""
    before, peak = os.times(), 0
    process = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    while process.poll() is None:
        peak = max(peak, memory_of_session(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    spent = [times.children_user + times.children_system for times in (before, after)]
    return spent[1] - spent[0], peak / 2**20


def memory_of_session(session: int) -> int:
    """Bytes of its processes; pages that several of them share are counted once."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                rollup = (stat.parent / "smaps_rollup").read_text()
                total += 1024 * int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0])
        except (OSError, IndexError):  # it has ended
            continue
    return total


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table and store it."""
    output = Path("docs/benchmarks/formats.json")
    parser = harness.command("formats", __doc__, rounds=5, output=output)
    parser.add_argument("what", choices=("errors", "speed", "sts", "cost"))
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args(argv)
    show_messages()
    paths = [Path(path) for path in options.paths]
    with tempfile.TemporaryDirectory() as scratch:
        match options.what:
            case "errors":
                head, rows = errors(paths)
            case "speed":
                head, rows = speed(options.paths, options.rounds, Path(scratch))
            case "sts":
                head, rows = sts(paths[0], paths[1:])
            case _:
                head, rows = cost()
    figures = {"rows": [dict(zip(head, row, strict=True)) for row in rows]}
    known = json.loads(options.output.read_text()) if options.output.is_file() else {}
    write_json(
        {**known, options.what: figures | {"origin": origin(command_line())}}, options.output
    )
    sys.stdout.write("\n".join(markdown_table(head, rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
