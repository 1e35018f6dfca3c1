"""Weights that a run, an evaluation, an export or a tool starts from: select, open, build.

A *place* is a run, its folder of checkpoints, a checkpoint, a published folder, or an id of the
Hugging Face Hub; the ``config.yaml`` in a folder stands for it. A *selector* chooses among the
checkpoints of a run: ``latest``, ``best``, a step, or a path. Every key that names weights goes
through :func:`select`, so they mean the same everywhere, and nothing damaged is used.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from neobert.config.model import ModelConfig
from neobert.config.tokenizer import TokenizerConfig
from neobert.console import get_logger
from neobert.data.saved_tokenizer import saved_tokenizer
from neobert.data.tokenizer import load_tokenizer
from neobert.errors import ConfigError
from neobert.files import LATEST, SUMMARY, reading, sha256, user_path
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier
from neobert.model.pretrained import (
    StoredModel,
    classifier_from,
    encoder_from,
    masked_lm_from,
    read_stored,
    run_settings,
    token_classifier_from,
)
from neobert.model.weight_files import (
    MANIFEST,
    WEIGHTS,
    NoWeightsError,
    PretrainedError,
    has_weights,
    weight_files,
    what_is_there,
)
from neobert.model.zero import zero_folder
from neobert.training.manifest import STATE, damages, is_step, numbered, recorded_files

log = get_logger(__name__)

CHECKPOINTS = ("checkpoints", "model_checkpoints")
"""Where a run has its checkpoints; the second is an older layout of the reference."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt")


class Pretrained:
    """Trained weights with the configuration and tokenizer beside them, each read on first use.

    A file that cannot be used is a :class:`PretrainedError` that names it, and the key that led to
    it.
    """

    def __init__(self, folder: Path, key: str = "", place: str | Path = "") -> None:
        """``key`` is the setting that names the weights, and ``place`` its value, for messages."""
        self.folder, self.key, self.place = folder, key, str(place)

    @property
    def config(self) -> ModelConfig:
        """Settings of the weights, with their vocabulary size and id of padding."""
        return self._stored.config

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer beside the weights, checked against the embedding."""
        with _naming(self.key, self.place):
            try:
                tokenizer = saved_tokenizer(self.folder)
            except ValueError as error:
                raise PretrainedError(str(error)) from error
            _check_tokenizer_fits(tokenizer, self.config.vocab_size, self.folder)
        return tokenizer

    def tokenizer_or(self, settings: TokenizerConfig) -> PreTrainedTokenizerFast:
        """The tokenizer beside the weights; that of ``settings`` where they came without one.

        A ``tokenizer.path`` beside them must have the same vocabulary.
        """
        has_own = any(
            (place / "tokenizer.json").is_file()
            for place in (self.folder / "tokenizer", self.folder)
        )
        if not has_own:
            return self._given_tokenizer(settings)
        if settings.path is not None:
            settings = replace(settings, train_vocab_size=None)
            tokenizer = load_tokenizer(settings).tokenizer
            if tokenizer.get_vocab() != self.tokenizer.get_vocab():
                raise ConfigError(
                    f"tokenizer.path={settings.path} has another vocabulary than the tokenizer of "
                    f"{self.folder}: leave it out"
                )
        return self.tokenizer

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights' file, from the manifest where there is one; of several, joined
        by ``-``."""
        if (self.folder / MANIFEST).is_file():
            return recorded_files(self.folder)[WEIGHTS][1]
        shards = None if has_weights(self.folder) else zero_folder(self.folder)
        files = weight_files(self.folder) if shards is None else sorted(shards.glob("*.pt"))
        return "-".join(sha256(file) for file in files)

    def masked_lm(self, settings: ModelConfig | None = None) -> MaskedLM:
        """The model with its decoder, in fp32 on the CPU.

        ``settings`` of the run, in place of those of the weights, must describe the same shape (see
        :func:`neobert.config.model.with_shape_of`).
        """
        with _naming(self.key, self.place):
            return masked_lm_from(self._stored, settings)

    def encoder(self, settings: ModelConfig | None = None) -> Encoder:
        """The encoder, without the heads that the weights may have."""
        with _naming(self.key, self.place):
            return encoder_from(self._stored, settings)

    def classifier(self, settings: ModelConfig | None = None) -> SequenceClassifier:
        """The encoder with its classifier."""
        with _naming(self.key, self.place):
            return classifier_from(self._stored, settings)

    def token_classifier(self, head: str = "classifier") -> TokenClassifier:
        """The encoder with a linear layer for every token, ``classifier`` or ``qa_outputs``."""
        with _naming(self.key, self.place):
            return token_classifier_from(self._stored, head)

    @cached_property
    def _stored(self) -> StoredModel:
        with _naming(self.key, self.place), reading(self.folder, self.key or "weights"):
            return read_stored(self.folder)

    def _given_tokenizer(self, settings: TokenizerConfig) -> PreTrainedTokenizerFast:
        is_set = settings.path is not None or settings.name != TokenizerConfig().name
        if settings.train_vocab_size is not None or not is_set:
            raise ConfigError(
                f"{self.folder} has no tokenizer/tokenizer.json: weights must come with their "
                "tokenizer (a fast one; slow tokenizers have no such file), or set tokenizer.path "
                "(and tokenizer.train_vocab_size=null)"
            )
        log.info(
            "%s has no tokenizer beside it: taking tokenizer.path or tokenizer.name", self.folder
        )
        tokenizer = load_tokenizer(settings).tokenizer
        _check_tokenizer_fits(tokenizer, self.config.vocab_size, self.folder)
        return tokenizer


def open_weights(
    place: str | Path,
    selector: str | int = "latest",
    key: str = "",
    selector_key: str = "pretrained_checkpoint",
) -> Pretrained:
    """What :func:`select` finds, opened; nothing is read before it is used."""
    return Pretrained(select(place, selector, key, selector_key), key, place)


def load(path: str | Path, checkpoint: str | int = "latest") -> MaskedLM:
    """The model in ``path``, in fp32 on the CPU, set to evaluation.

    ``checkpoint`` chooses that of a run: ``latest`` (the newest undamaged one), ``best``, or a
    step. Raises a ``ValueError`` that lists every weight that is missing, unexpected or of another
    shape.
    """
    return open_weights(path, checkpoint, selector_key="checkpoint").masked_lm().eval()


def select(
    place: str | Path,
    selector: str | int = "latest",
    key: str = "",
    selector_key: str = "pretrained_checkpoint",
    resumable: bool = False,
) -> Path:
    """The undamaged folder with weights that ``place`` and ``selector`` name.

    ``latest`` (also ``auto``, ``true``) is the newest undamaged checkpoint of a run, ``best`` the
    one with the best evaluation; a number is a step; anything else a path, which may begin in
    ``place``. ``key`` and ``selector_key`` are the settings that were given, for messages. With
    ``resumable`` a checkpoint must be one that a run continues from.

    Raises :class:`NoWeightsError` where there are none yet, ``ConfigError`` where there are some,
    but not these or damaged.
    """
    with reading(place, key or "weights"):  # for folders that may not be listed, and the like
        return _selected(str(place), str(selector), key, selector_key, resumable)


def _selected(place: str, selector: str, key: str, selector_key: str, resumable: bool) -> Path:
    prefix = f"{key}={place}: " if key else ""
    path = user_path(place) if resumable else _on_disk(place, prefix)
    if not _is_known(selector):
        path, selector, prefix = _path_of(path, selector, selector_key), "latest", ""
    steps = _steps(path)
    if not steps and _is_weights(path, resumable):
        if selector.lower() not in LATEST and selector != path.name:
            raise ConfigError(
                f"{selector_key}={selector}: {path} is one set of weights, not a run with "
                f"checkpoints to choose from: leave {selector_key} out"
            )
        return _undamaged(path, resumable, prefix)
    steps = steps or numbered(path)
    if not steps:
        raise NoWeightsError(prefix + _no_weights(path, resumable))
    if selector.lower() in LATEST:
        return _latest(steps, resumable, f"{selector_key}={selector}: " if resumable else prefix)
    return _step(steps, selector, resumable, selector_key)


def best_step(checkpoint: Path) -> int | None:
    """The step whose evaluation was the best until ``checkpoint`` was saved, by its own record."""
    if not (checkpoint / STATE).is_file():
        return None
    with reading(checkpoint / STATE, "checkpoint"):
        state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True, mmap=True)
        for name, record in state.get("callbacks", {}).items():
            if name.startswith("Checkpointer"):
                step = record["best_step"]
                return None if step is None else int(step)
    return None


def _latest(steps: list[Path], resumable: bool, prefix: str) -> Path:
    damaged: list[str] = []
    for folder in reversed(steps):
        problems = _problems(folder, resumable)
        if not problems:
            for line in damaged:
                log.warning("%s; using %s instead", line, folder)
            return folder
        damaged.append(f"{folder} is damaged ({'; '.join(problems)})")
    raise PretrainedError(f"{prefix}all checkpoints are damaged: {'; '.join(damaged)}")


def _step(steps: list[Path], selector: str, resumable: bool, selector_key: str) -> Path:
    """The checkpoint of a step, or the best one."""
    known = {int(folder.name): folder for folder in steps}
    listed, place = ", ".join(map(str, known)), steps[0].parent
    if selector.lower() == "best":
        step = best_step(_latest(steps, resumable, ""))
        missing = "no evaluation was the best of this run (trainer.save_strategy=best finds it)"
    else:
        step, missing = int(selector), f"there is no {selector}"
    if step is not None and step not in known:
        missing = f"there is no {step}"
    if step is None or step not in known:
        raise ConfigError(
            f"{selector_key}={selector}: {missing}; {place} has the steps {listed} (or take latest)"
        )
    return _undamaged(known[step], resumable, f"{selector_key}={selector}: ")


def _undamaged(folder: Path, resumable: bool, prefix: str) -> Path:
    if problems := _problems(folder, resumable):
        others = [checkpoint for checkpoint in numbered(folder.parent) if checkpoint != folder]
        good = next(
            (checkpoint for checkpoint in reversed(others) if not _problems(checkpoint, resumable)),
            None,
        )
        offer = f"; use {good} instead" if good else ""
        raise PretrainedError(f"{prefix}{folder} is damaged: {'; '.join(problems)}{offer}")
    return folder


def _problems(folder: Path, resumable: bool) -> list[str]:
    """What is wrong with a folder of weights; third-party ones have no checksums to verify."""
    if resumable or any((folder / name).is_file() for name in (MANIFEST, STATE)):
        return damages(folder)
    return [] if _is_weights(folder) else [what_is_there(folder)]


def _is_weights(folder: Path, resumable: bool = False) -> bool:
    if any((folder / name).is_file() for name in (MANIFEST, STATE)):
        return True
    return not resumable and (has_weights(folder) or zero_folder(folder) is not None)


def _steps(run: Path) -> list[Path]:
    """The checkpoints of a run, by ascending step."""
    folders = (numbered(run / name) for name in CHECKPOINTS)
    return next((steps for steps in folders if steps), [])


def _is_known(selector: str) -> bool:
    return selector.lower() in (*LATEST, "best") or is_step(selector)


def _path_of(run: Path, selector: str, selector_key: str) -> Path:
    for path in (user_path(selector), run / selector):
        if path.exists():
            return path
    listed = ", ".join(folder.name for folder in _steps(run) or numbered(run)) or "none"
    raise ConfigError(
        f"{selector_key}={selector}: must be latest, best, a step or a path; checkpoints in {run}: "
        f"{listed}"
    )


def _no_weights(path: Path, resumable: bool) -> str:
    if (path / SUMMARY).is_file() and _saves_nothing(path / "config.yaml"):
        return (
            f"{path} has no checkpoint: it was trained with trainer.save_strategy=no; set best, "
            "epoch or steps"
        )
    why = what_is_there(path) if path.is_dir() else "there is no such folder"
    others = ", of an exported model, or an id of the Hugging Face Hub"
    return (
        f"{path} holds neither {WEIGHTS} nor checkpoints/<step>/{WEIGHTS} ({why}): name the folder "
        f"of a run{' or' if resumable else ','} of one of its checkpoints"
        f"{'' if resumable else others}"
    )


def _saves_nothing(settings: Path) -> bool:
    trainer = run_settings(settings).get("trainer")
    strategy = trainer.get("save_strategy") if isinstance(trainer, dict) else None
    return strategy in ("no", False)  # YAML reads a bare no as false


def _on_disk(place: str, prefix: str) -> Path:
    """A folder, fetched from the Hub if ``place`` is no folder but looks like an id there."""
    path = user_path(place)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"{prefix}there is no such file")
        return path.parent
    if path.exists() or not HUB_ID.fullmatch(place):
        return path
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    log.info("%s is no folder here; fetching it from the Hugging Face Hub (data only)", place)
    try:
        return Path(snapshot_download(place, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        answer = " ".join(str(error).split())  # of several lines
        raise NoWeightsError(
            f"{prefix}{place} is no folder, and the Hugging Face Hub does not give it: {answer}"
        ) from error


def _check_tokenizer_fits(tokenizer: PreTrainedTokenizerFast, rows: int, folder: Path) -> None:
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise PretrainedError(
            f"{folder}: its embedding has {rows} rows, but the tokenizer has ids up to {largest}: "
            "they do not belong together"
        )


@contextmanager
def _naming(key: str, place: str) -> Iterator[None]:
    """Put the setting that led to the weights before each problem."""
    try:
        yield
    except PretrainedError as error:
        if not key or error.problems[0].startswith(key):
            raise
        raise type(error)(*(_named(line, key, place) for line in error.problems)) from error


def _named(line: str, key: str, place: str) -> str:
    return f"{key}={line}" if line.startswith(place) else f"{key}={place}: {line}"
