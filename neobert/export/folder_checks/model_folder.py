"""A folder of weights as transformers loads it, and how checks of it are run and reported."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

AUTO_CLASSES = (
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModel",
)


class CheckFailedError(Exception):
    """What is wrong with the folder."""


def demand(condition: object, message: str) -> None:
    """Fail the check that is running unless ``condition`` holds."""
    if not condition:
        raise CheckFailedError(message)


class ModelFolder:
    """The folder; its parts are loaded on first use, its own code only if ``trust``."""

    def __init__(self, folder: Path, trust: bool) -> None:
        self.folder, self.trust = folder, trust

    @cached_property
    def config(self) -> dict:
        """``config.json``."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """All stored tensors."""
        files = sorted(self.folder.glob("*.safetensors"))
        demand(files, "there is no *.safetensors file")
        tensors: dict[str, Tensor] = {}
        for path in files:
            tensors |= read_tensors(path)[0]
        return tensors

    @cached_property
    def auto_classes(self) -> dict[str, set[str]]:
        """The Auto classes that load the folder, and the classes that each of them may make."""
        settings = transformers.AutoConfig.from_pretrained(
            self.folder, trust_remote_code=self.trust
        )
        auto_map = self.config.get("auto_map") or {}
        classes = {}
        for auto in AUTO_CLASSES:
            mapped = getattr(transformers, auto)._model_mapping.get(type(settings), ())
            names = {cls.__name__ for cls in (mapped if isinstance(mapped, tuple) else (mapped,))}
            if auto in auto_map:
                names = {auto_map[auto].rpartition(".")[2]}
            if names:
                classes[auto] = names
        return classes

    @cached_property
    def auto_class(self) -> str | None:
        """The Auto class of the architecture that was saved; ``None`` if none is known."""
        architecture = (self.config.get("architectures") or [None])[0]
        classes = self.auto_classes
        return next((auto for auto in classes if architecture in classes[auto]), None)

    def load(self, auto_class: str, **options: object) -> tuple[transformers.PreTrainedModel, dict]:
        """A model, in fp32 by default, and transformers' account of weights that do not fit."""
        options = {"dtype": torch.float32} | options
        return getattr(transformers, auto_class).from_pretrained(
            self.folder, trust_remote_code=self.trust, output_loading_info=True, **options
        )

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """Transformers 5 wants trust even here: it reads the model's configuration first."""
        return transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust)

    def check_finite(self) -> str:
        """Fail for stored numbers that are not finite."""
        bad = [
            name
            for name, tensor in self.weights.items()
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        demand(not bad, f"NaN or infinite: {first_names(bad)}")
        count = sum(tensor.numel() for tensor in self.weights.values())
        return f"{len(self.weights)} tensors, {count:,} numbers, all finite"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def first_names(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")


Folder = TypeVar("Folder", bound=ModelFolder)


def report_checks(checks: Mapping[str, Callable[[Folder], str]], folder: Folder) -> int:
    """Run all checks, one line of JSON each; 1 if one failed."""
    failed = False
    for name, check in checks.items():
        try:
            line = {"check": name, "ok": True, "detail": check(folder)}
        except CheckFailedError as error:
            line = {"check": name, "ok": False, "detail": str(error)}
        except Exception as error:  # whatever foreign code or a damaged folder raises is a finding
            first_line = (str(error).strip().splitlines() or [""])[0][:400]
            detail = f"{type(error).__name__}: {first_line}"
            line = {"check": name, "ok": False, "detail": detail}
        failed |= not line["ok"]
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    return int(failed)
