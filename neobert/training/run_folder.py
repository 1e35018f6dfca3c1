"""The folder of a run: its layout, and how nothing in it is lost.

::

    config.yaml  metrics.csv  summary.json  loss.png  checkpoints/<step>/
"""

from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from neobert.config.root import Config
from neobert.config.store import save_config
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import SUMMARY, free_name
from neobert.training.claim import claim

log = get_logger(__name__)

CHECKPOINTS = "checkpoints"
MARKS = ("config.yaml", "metrics.csv", CHECKPOINTS)
"""A folder that has one of them holds a run."""

EVALUATION = "evaluation.json"
"""The metrics of a checkpoint that was evaluated without training."""

OTHERS = (
    SUMMARY,
    EVALUATION,
    "loss.png",
    "wandb_run_id.txt",
    "tensorboard",
    "mteb",
    "evaluations",
    "mlflow.db",
    "profile",
)
PREDICTIONS = ("predictions_*.tsv", "predictions_*.json", "nbest_*.json", "null_odds_*.json")
PATTERNS = (*MARKS, *OTHERS, "batches-*.csv", *PREDICTIONS)
"""What runs and evaluations write into their folder."""


class RunFolder:
    """Paths of one run. Make it with ``open_run_folder``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        """The resolved configuration; composing it again gives the same run."""

        self.metrics_file = path / "metrics.csv"
        """Every logged number, a row per step."""

        self.summary_file = path / SUMMARY
        """What came out, and with which versions and command."""

        self.plot_file = path / "loss.png"
        """Training and evaluation loss over the steps."""

        self.wandb_id_file = path / "wandb_run_id.txt"
        """Id of the W&B run, so that ``wandb.resume`` finds it again."""

        self.checkpoints = path / CHECKPOINTS
        """One folder per saved step."""


def run_of_checkpoint(checkpoint: Path) -> RunFolder | None:
    """The run that a folder is a checkpoint of; ``None`` for published folders and the like."""
    is_in_run = checkpoint.parent.name == CHECKPOINTS
    return RunFolder(checkpoint.parent.parent) if is_in_run else None


def label_of_run(folder: Path) -> str:
    """``quickstart-830`` for ``…/quickstart/checkpoints/830``, else the folder's name."""
    folder = folder.resolve()
    run = run_of_checkpoint(folder)
    return folder.name if run is None else f"{run.path.name}-{folder.name}"


def open_run_folder(config: Config, resuming: bool) -> RunFolder:
    """Make ``trainer.output_dir`` ready and write ``config.yaml`` into it.

    A resumed run continues in its folder. Else an earlier run in it is moved aside
    (``trainer.overwrite_output_dir=true``), or a folder that is not empty refused (``false``);
    nothing in it is deleted, and what is not of that run (other runs below it, files of the user's)
    stays where it is. A folder that another process trains in is always refused.
    """
    run = RunFolder(Path(config.trainer.output_dir))
    if getattr(rank_zero_only, "rank", 0) != 0:
        return run  # the first rank prepares it, once
    try:
        _prepare(run, config, resuming)
    except OSError as error:
        raise ConfigError(
            f"trainer.output_dir={run.path}: cannot be written into ({error.strerror})"
        ) from error
    return run


def _prepare(run: RunFolder, config: Config, resuming: bool) -> None:
    used = not resuming and run.path.is_dir() and any(run.path.iterdir())
    if used and not config.trainer.overwrite_output_dir:
        raise ConfigError(
            f"trainer.output_dir: {run.path} is not empty and "
            "trainer.overwrite_output_dir is false; choose another folder, resume with "
            "trainer.resume_from_checkpoint=latest, or set overwrite_output_dir=true, "
            "which moves the old run aside"
        )
    if run.path.is_dir():
        claim(run.path)
    if used and any((run.path / name).exists() for name in MARKS):
        log.warning("%s held an earlier run, which was moved to %s", run.path, _move_run(run.path))
    run.path.mkdir(parents=True, exist_ok=True)
    claim(run.path)
    save_config(config, run.config_file)


def _move_run(path: Path) -> Path:
    """Move the files of the run in ``path`` beside it, into a folder of such a name."""
    old = free_name(path.resolve())
    old.mkdir()
    for pattern in reversed(PATTERNS):  # the marks last: cut short, it still is a run
        for entry in path.glob(pattern):
            entry.rename(old / entry.name)
    return old
