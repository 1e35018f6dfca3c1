"""Where a run continues, and whether it may: the settings that exact resume rests on."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

from lightning.fabric.utilities.rank_zero import rank_zero_only

from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import LATEST, read_json, reading
from neobert.model.weight_files import NoWeightsError
from neobert.training.checkpoint import FINGERPRINT, remove_leftovers
from neobert.training.claim import claim
from neobert.training.node import once_per_node
from neobert.training.start import select
from neobert.training.strategy import planned_processes
from neobert.training.summary import command_line

log = get_logger(__name__)

PLAIN = re.compile(r"[\w.-]+")
"""Names that need no quotes in a list on the command line."""

ROWS_PER_STEP = "trainer.per_device_train_batch_size"
TOTAL_STEPS = "trainer.max_steps"
MEANING = {
    ROWS_PER_STEP: "rows per step: batch size × accumulation × devices",
    TOTAL_STEPS: "steps of the whole run, also where trainer.num_train_epochs sets them",
}
"""What a fingerprint holds under a key that decides it together with others."""

FREE_IN_A_BRANCH = (
    "scheduler.",
    "optimizer.lr",
    "stages",
    "trainer.batch_warmup",
    "datacollator.mlm_",
    TOTAL_STEPS,
)
"""Beginnings of the keys that a branch may set otherwise than its trunk."""

SKIPPED = "dataset.skip_steps"
"""Meant to be changed on resume: logged, and an error only if the span is in the past."""


def resume_point(settings: TrainerConfig) -> Path | None:
    """The checkpoint to continue from; ``None`` starts a new run.

    Raises ``ConfigError`` if another run writes into the folder, whose half-written checkpoint
    would look like a leftover.
    """
    selector = settings.resume_from_checkpoint
    if selector is None or selector.lower() in ("", "false", "none", "null"):
        return None
    run = Path(settings.output_dir)
    if (run / "checkpoints").is_dir() and getattr(rank_zero_only, "rank", 0) == 0:
        claim(run)
        remove_leftovers(run / "checkpoints")
    checkpoint = _on_this_node(settings, f"{run} {selector}", lambda: _checkpoint(run, selector))
    if checkpoint is not None and not checkpoint.name.isdigit():
        raise ConfigError(
            f"trainer.resume_from_checkpoint={selector}: a checkpoint's folder must be called "
            f"by its step, as the run wrote it; rename {checkpoint} back"
        )
    if checkpoint is None:
        log.warning("%s has no checkpoint to resume from yet: a new run starts", run)
    else:
        log.info("resuming from %s; what the run once started from is not read again", checkpoint)
    return checkpoint


def branch_point(settings: TrainerConfig) -> Path | None:
    """The checkpoint of another run that a new run branches off from, if it does.

    Raises ``ConfigError`` if it is not there, damaged, or of the run's own folder.
    """
    if settings.branch_from is None:
        return None
    key = "trainer.branch_from"
    trunk = settings.branch_from

    checkpoint = _on_this_node(
        settings, trunk, lambda: select(trunk, "latest", key, resumable=True)
    )
    assert checkpoint is not None
    if checkpoint.resolve().is_relative_to(Path(settings.output_dir).resolve()):
        raise ConfigError(
            f"{key}={settings.branch_from}: is in trainer.output_dir={settings.output_dir}; a "
            "branch needs a folder of its own, or resume with "
            "trainer.resume_from_checkpoint=latest"
        )
    log.info("branching off from %s, which stays as it is", checkpoint)
    return checkpoint


def _on_this_node(
    settings: TrainerConfig, question: str, find: Callable[[], Path | None]
) -> Path | None:
    """The checkpoint that ``find`` finds and verifies, in one process of each machine."""
    if planned_processes(settings) == 1:
        return find()
    return once_per_node(f"{Path.cwd()} {question}", find)


def _checkpoint(run: Path, selector: str) -> Path | None:
    """The checkpoint that ``selector`` names; ``None`` where ``latest`` finds none yet."""
    key = "trainer.resume_from_checkpoint"
    try:
        return select(run, selector, "trainer.output_dir", key, resumable=True)
    except NoWeightsError:
        if selector.lower() not in LATEST:
            raise
        return None


def check_same_run(
    checkpoint: Path,
    fingerprint: Mapping[str, object],
    accepted: list[str],
    is_branch: bool = False,
) -> None:
    """Refuse to resume under other data, tokenizer, seed, batch or schedule.

    Every difference is reported, by its key and with both values.

    Raises ``ConfigError`` with one line per setting that differs from the checkpoint's, unless
    ``trainer.accept_changes`` names it (or is ``all``). A branch may have another schedule, length
    and mask rate.
    """
    saved = read_fingerprint(checkpoint)
    requested = json.loads(json.dumps(fingerprint))
    changed = [key for key in sorted({*saved, *requested}) if saved.get(key) != requested.get(key)]
    step, before = int(checkpoint.name), accepted
    if _begun(saved.get(SKIPPED), step) == _begun(requested.get(SKIPPED), step):
        accepted = [*accepted, SKIPPED]
    if is_branch:
        accepted = [*accepted, *(key for key in changed if key.startswith(FREE_IN_A_BRANCH))]
    refused = [key for key in changed if key not in accepted and "all" not in accepted]
    for key in sorted(set(changed) - set(refused)):
        how = "differs from the trunk's" if is_branch else "changed on resume"
        how += ", as accepted" if key in before or "all" in before else ""
        log.warning("%s %s: %s", key, how, _change(saved, requested, key))
    if refused:
        raise ConfigError(
            *[
                f"{key}{_meaning(key)} differs from the checkpoint's "
                f"({_change(saved, requested, key)})"
                for key in refused
            ],
            "the run would not continue as the same one; set the old values, or accept the new "
            f"ones with {shlex.quote(accepting([*before, *refused]))}",
        )


def read_fingerprint(checkpoint: Path) -> dict[str, object]:
    """The settings that a checkpoint was trained with.

    Raises ``ConfigError`` if its ``fingerprint.json`` cannot be read.
    """
    path = checkpoint / FINGERPRINT
    with reading(path, "trainer.resume_from_checkpoint"):
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise ValueError("it holds no settings")
    return saved


def accepting(keys: Iterable[str]) -> str:
    """The override that accepts changes of ``keys``."""
    names = [key if PLAIN.fullmatch(key) else f"'{key}'" for key in dict.fromkeys(keys)]
    return f"trainer.accept_changes=[{','.join(names)}]"


def _meaning(key: str) -> str:
    return f" ({MEANING[key]})" if key in MEANING else ""


def realign(checkpoint: dict[str, object], accumulation: int) -> None:
    """Count the finished steps of a checkpoint in micro-batches of this run.

    Lightning's place is a number of micro-batches; with another
    ``trainer.gradient_accumulation_steps`` (accepted) as many steps are another number of them.
    """
    before = cast(int, checkpoint.get("accumulation", accumulation))
    if before == accumulation:
        return
    loops = cast(dict[str, dict[str, object]], checkpoint["loops"])
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        counts = cast(dict[str, dict[str, int]], progress)[part]
        shift = counts["ready"] // before * accumulation - counts["ready"]
        for name in counts:
            counts[name] += shift


def _begun(spans: object, step: int) -> list[str]:
    """The spans of steps to skip that lie, with their beginning, before the data of ``step``."""
    begun, last = [], step - 1
    ordered = sorted(cast(list[str], spans or []), key=lambda span: int(span.partition("-")[0]))
    for span in ordered:
        first, _, end = span.partition("-")
        if last >= int(first):
            begun.append(span)
            last += int(end) - int(first) + 1
    return begun


def _change(saved: Mapping[str, object], requested: Mapping[str, object], key: str) -> str:
    return f"{saved.get(key)!r} -> {requested.get(key)!r}"


def resume_command() -> str:
    """This process's command line, set to continue from the latest checkpoint."""
    key = "trainer.resume_from_checkpoint"
    words = [word for word in command_line() if not word.lstrip("+-").startswith(f"{key}=")]
    return shlex.join([*words, f"{key}=latest"])
