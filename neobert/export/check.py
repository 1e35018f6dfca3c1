"""Checks a folder in processes that have none of this package: see ``folder_checks``.

The expected outputs come from the trainer's own model; so what is compared is two implementations,
from the ids to the logits.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from neobert.batch import PackedBatch
from neobert.console import get_logger
from neobert.export import folder_checks, modeling_neobert
from neobert.export.convert import MODULE
from neobert.export.folder_checks import doctor, verify
from neobert.export.onnx_files import sentences
from neobert.export.source import ExportSource, Model, is_known, read_source
from neobert.files import read_json
from neobert.model.encode import EncodeSettings, TextEncoder
from neobert.model.heads import MaskedLM
from neobert.model.weight_files import PretrainedError, read_json_object

log = get_logger(__name__)

LENGTHS = (1, 5, 17, 64, 200)
"""Tokens of the texts whose outputs are compared."""

TEXTS = (
    "The capital of France is Paris.",
    "An encoder reads a text from both sides: naïve, 東京, 3.14!",
    "",
    "lower UPPER mIxEd   spaces\tand\nlines",
)
MINUTES = 30
NAMING_CODE = ("auto_map", "custom_pipelines")
"""Keys of JSON files under which libraries look for classes to import."""

KNOWN_MODULES = re.compile(r"sentence_transformers(\.\w+)*\.(Transformer|Pooling|Normalize)")
"""What ``modules.json`` may name: others are not written here, and can bring code of their own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one check."""

    name: str
    ok: bool
    detail: str


class ExportError(ValueError):
    """The exported folder fails a check; ``findings`` has all of them."""

    def __init__(self, folder: Path, findings: list[Finding]) -> None:
        self.findings = findings
        failed = [f"{finding.name}: {finding.detail}" for finding in findings if not finding.ok]
        super().__init__(f"{folder} fails its checks:\n- " + "\n- ".join(failed))


def check_folder(folder: Path, python: str, trust_remote_code: bool) -> list[Finding]:
    """Look for what is wrong with a folder, whoever made it.

    Where it is a model that this package can represent, it is compared with ours as well. Raises
    :class:`ExportError` with all findings if one is bad.
    """
    check_code(folder, trust_remote_code)
    config = read_json_object(folder / "config.json")
    options = ["--trust-remote-code"] if "auto_map" in config else []
    with tempfile.TemporaryDirectory() as scratch:
        findings = _run(doctor, [str(folder.absolute()), *options], python, Path(scratch))
    if is_known(config):
        try:
            findings += compare_with_ours(folder, read_source(folder), python)
        except ValueError as error:
            findings.append(Finding("trainer", ok=False, detail=str(error)))
    else:
        detail = f"not compared with ours: model_type {config.get('model_type')!r}"
        findings.append(Finding("trainer", ok=True, detail=detail))
    return _good(folder, findings)


def check_code(folder: Path, trust_remote_code: bool) -> None:
    """Refuse to run a folder's code unless it is the file that is shipped with this package."""
    file_to_read = other_code(folder)
    if file_to_read is None:
        return
    if not trust_remote_code:
        raise PretrainedError(
            f"{folder} comes with code that is not this package's {MODULE}.py, or asks for it "
            f"({file_to_read.relative_to(folder)}); look at it, and if you trust it, give "
            "--trust-remote-code"
        )
    log.warning("running the code that comes with %s, as --trust-remote-code allows", folder)


def other_code(folder: Path) -> Path | None:
    """What in ``folder`` is code, or has the libraries run some, beside our module and its name.

    A tokenizer's or a module's JSON can name code as ``config.json`` does, and an adapter a model
    elsewhere. In folders that are links nobody looks, so they count as well.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            return path
        if path.suffix == ".py" and not _is_shipped(path, folder):
            return path
        if path.suffix == ".json" and path.name != "tokenizer.json" and _names_code(path, folder):
            return path
    return None


def _is_shipped(path: Path, folder: Path) -> bool:
    is_there = path == folder / f"{MODULE}.py" and path.is_file()
    return is_there and path.read_bytes() == Path(modeling_neobert.__file__).read_bytes()


def _names_code(path: Path, folder: Path) -> bool:
    if path.name == "modules.json":
        try:
            modules = read_json(path)
            return not isinstance(modules, list) or not all(
                KNOWN_MODULES.fullmatch(module["type"]) for module in modules
            )
        except (OSError, ValueError, TypeError, KeyError):
            return True
    values = read_json_object(path)
    if path == folder / "config.json" and (targets := values.pop("auto_map", None)):
        has_code = (folder / f"{MODULE}.py").is_file()
        is_ours = isinstance(targets, dict) and all(
            re.fullmatch(rf"{MODULE}\.\w+", str(target)) for target in targets.values()
        )
        if not (has_code and is_ours):
            return True
    return path.name == "adapter_config.json" or not values.keys().isdisjoint(NAMING_CODE)


def run_checks(folder: Path, source: ExportSource) -> list[Finding]:
    """All findings about ``folder``, which must do what ``source`` does.

    Raises :class:`ExportError` if one is bad.
    """
    return _good(folder, compare_with_ours(folder, source, sys.executable))


def compare_with_ours(folder: Path, source: ExportSource, python: str) -> list[Finding]:
    """The findings of :mod:`neobert.export.folder_checks.verify`, good or bad."""
    with tempfile.TemporaryDirectory() as scratch:
        expected = Path(scratch) / "expected.safetensors"
        write_expected(source, expected, (folder / "onnx").is_dir())
        return _run(verify, [str(folder.absolute()), str(expected)], python, Path(scratch))


def _good(folder: Path, findings: list[Finding]) -> list[Finding]:
    if not all(finding.ok for finding in findings):
        raise ExportError(folder, findings)
    return findings


def write_expected(source: ExportSource, path: Path, with_sentences: bool = False) -> None:
    """Inputs and what the model makes of them; texts, their ids and vectors.

    ``with_sentences`` adds natural texts, on which int8 is compared with fp32.
    """
    model, encoder, tokenizer = source.model, source.encoder, source.tokenizer
    generator = torch.Generator().manual_seed(0)
    longest = encoder.config.max_position_embeddings
    rows = [
        torch.randint(0, encoder.vocab_size, (min(length, longest),), generator=generator)
        for length in LENGTHS
    ]
    # A pad id within a text takes no position of a learned table.
    rows = [row.where(row != encoder.pad_token_id, (row + 1) % encoder.vocab_size) for row in rows]
    outputs = _outputs(model, rows)
    if len(outputs) != len(rows):
        outputs = _pad(list(outputs.split([len(row) for row in rows])))
    facts = {
        "texts": TEXTS,
        "ids": tokenizer(list(TEXTS))["input_ids"],
        "sentences": sentences()[1] if with_sentences else [],
    }
    tensors = {
        "input_ids": _pad(rows, encoder.pad_token_id),
        "attention_mask": _pad([torch.ones_like(row) for row in rows]),
        "outputs": outputs.contiguous(),
    }
    if source.kind == "encoder":
        texts = TextEncoder(encoder, tokenizer, EncodeSettings(pooling=source.pooling))
        for kind, prefix in source.prompts.items():
            tensors[kind] = normalize(texts.encode(TEXTS, prefix), dim=-1)
    save_file(tensors, path, metadata={"facts": json.dumps(facts)})


@torch.no_grad()
def _outputs(model: Model, rows: list[Tensor]) -> Tensor:
    """Of all tokens end to end, or a row per text of a classifier."""
    batch = PackedBatch.from_documents([row.tolist() for row in rows])
    if isinstance(model, MaskedLM):
        return model.logits(model.hidden(batch))
    return model(batch)


def _pad(rows: list[Tensor], value: int = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _run(script: ModuleType, arguments: list[str], python: str, scratch: Path) -> list[Finding]:
    """What a module of ``folder_checks`` finds in a process that has none of this package."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment |= {
        "HF_HOME": str(scratch / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    package = Path(str(folder_checks.__file__)).parent
    code = (
        "import sys; sys.path.append(sys.argv.pop(1)); "
        f"from {package.name} import {script.__name__.rpartition('.')[2]} as script; "
        "sys.exit(script.main(*sys.argv[1:]))"
    )
    command = [python, "-I", "-c", code, str(package.parent), *arguments]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=scratch,
        env=environment,
        timeout=60 * MINUTES,
        check=False,
    )
    findings = [_finding(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    missing = script.CHECKS.keys() - {finding.name for finding in findings}
    if missing or (done.returncode and all(finding.ok for finding in findings)):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"no word of {', '.join(sorted(missing))}; it ended with: {last}"
        findings.append(Finding("process", ok=False, detail=detail))
    return findings


def _finding(line: str) -> Finding:
    values = json.loads(line)
    return Finding(str(values["check"]), bool(values["ok"]), str(values["detail"]))
