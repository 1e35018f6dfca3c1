"""Where a run continues, and whether it may: the settings that exact resume rests on."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lightning.fabric.utilities.rank_zero import rank_zero_only

from neobert.config.checks import ConfigError
from neobert.config.trainer import TrainerConfig
from neobert.console import get_logger
from neobert.model.weight_files import NoWeightsError
from neobert.training.checkpoint import FINGERPRINT, remove_leftovers
from neobert.training.claim import claim
from neobert.training.start import LATEST, select
from neobert.training.summary import command_line

log = get_logger(__name__)

SKIPPED = "dataset.skip_steps"
"""Exists to be changed on resume: told, and refused only where the span is behind already."""


def resume_point(settings: TrainerConfig) -> Path | None:
    """The checkpoint to continue from; ``None`` starts anew.

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
    found = _checkpoint(run, selector)
    if found is not None and not found.name.isdigit():
        raise ConfigError(
            f"trainer.resume_from_checkpoint={selector}: a checkpoint's folder must be called "
            f"by its step, as the run wrote it; rename {found} back"
        )
    if found is None:
        log.warning("%s has no checkpoint to resume from yet: the run starts anew", run)
    else:
        log.info("resuming from %s; what the run once started from is not read again", found)
    return found


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
    checkpoint: Path, fingerprint: Mapping[str, object], accepted: list[str]
) -> None:
    """Refuse to resume under other data, tokenizer, seed, batch or schedule.

    Every difference is reported, by its key and with both values.

    Raises ``ConfigError`` with one line per setting that differs from the checkpoint's, unless
    ``trainer.accept_changes`` names it (or is ``all``).
    """
    saved = json.loads((checkpoint / FINGERPRINT).read_text())
    here = json.loads(json.dumps(fingerprint))
    changed = [key for key in sorted({*saved, *here}) if saved.get(key) != here.get(key)]
    step = int(checkpoint.name) if checkpoint.name.isdigit() else 0
    if _begun(saved.get(SKIPPED), step) == _begun(here.get(SKIPPED), step):
        accepted = [*accepted, SKIPPED]
    refused = [key for key in changed if key not in accepted and "all" not in accepted]
    for key in sorted(set(changed) - set(refused)):
        log.warning("%s changed on resume, as accepted: %s", key, _change(saved, here, key))
    if refused:
        raise ConfigError(
            *[
                f"{key} differs from the checkpoint's ({_change(saved, here, key)}), so the run "
                f"would not continue as the same one; trainer.accept_changes=[{key}] accepts it"
                for key in refused
            ]
        )


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


def _change(saved: Mapping[str, object], here: Mapping[str, object], key: str) -> str:
    return f"{saved.get(key)!r} -> {here.get(key)!r}"


def resume_command() -> str:
    """This process's command line, set to continue from the latest checkpoint."""
    key = "trainer.resume_from_checkpoint"
    words = [word for word in command_line() if not word.lstrip("+-").startswith(f"{key}=")]
    return shlex.join([*words, f"{key}=latest"])
