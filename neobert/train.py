"""``python -m neobert.train …``: a Hydra application; compose, check, run.

A wrong setting is answered before torch is imported.
"""

import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from neobert.application import run_application
from neobert.config.compose import to_config
from neobert.config.overrides import hydra_arguments
from neobert.config.ready import folder_problems, start_problems, weights_of
from neobert.config.root import Config
from neobert.console import ROOT, get_logger, show_messages
from neobert.errors import ConfigError, ExitCode
from neobert.failures import report_failure
from neobert.files import first_line
from neobert.sweep_jobs import run_as_process

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from neobert.library import Run

log = get_logger("neobert.train")  # __name__ is __main__ here


class Ended(BaseException):
    """Carries an error of the run itself past Hydra, which would report it in its own way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def main() -> None:
    """Run the command line; exit with one of :class:`~neobert.errors.ExitCode`."""
    show_messages()
    try:
        _dispatch(sys.argv[1:])
        code = int(ExitCode.DONE)
    except Ended as ended:
        code = report_failure(ended.error)
    except BaseException as error:
        code = report_failure(error)
    sys.exit(code)


def _dispatch(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        from neobert.config.help import help_text

        sys.stdout.write(help_text())
        return
    for handler in logging.getLogger(ROOT).handlers:
        handler.addFilter(_unless_repeated)
    sys.argv[1:] = hydra_arguments(arguments)
    try:
        run_application(job)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except ConfigError:
        raise
    except OSError as error:  # Hydra makes the folder of a run or a sweep
        raise ConfigError(f"trainer.output_dir: cannot be made ({first_line(error)})") from error
    except Exception as error:  # Hydra's, about its own settings
        raise ConfigError(first_line(error)) from error


_remarks: set[str] = set()


def _unless_repeated(record: logging.LogRecord) -> bool:
    """Whether to show a message; a remark on the settings, which Hydra composes several times, is
    shown once."""
    text = record.getMessage()
    is_repeated = record.name.startswith(f"{ROOT}.config") and text in _remarks
    _remarks.add(text)
    return not is_repeated


def job(settings: DictConfig) -> float | None:
    """Hydra's task function: a single run, or a job of a sweep by one of Hydra's launchers."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        show_messages()  # it may be the first that runs in this process
        return run_as_process(settings)
    try:
        config = to_config(settings)
        if hydra.job.chdir:
            config.trainer.output_dir = hydra.runtime.output_dir
        config.debug = config.debug or hydra.verbose is True
        code = _run(config, hydra.overrides.task)
    except BaseException as error:
        raise Ended(error) from error
    if code != ExitCode.DONE:
        sys.exit(code)
    return None


def _run(config: Config, words: Sequence[str]) -> int:
    if problems := start_problems(config) + folder_problems(config.trainer.output_dir):
        raise ConfigError(*problems)
    show_messages(config.debug)
    log.info("%s", chosen(config, words))
    from neobert.library import run_task
    from neobert.training.callbacks.interrupt import Interrupted

    try:
        run_task(config)
    except Interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def chosen(config: Config, words: Sequence[str]) -> str:
    """One line: what runs, and how to choose otherwise."""
    model, start, hint = config.model, weights_of(config), ""
    if config.task == "mteb":
        name = model.name if model.from_hub else config.mteb_model or config.trainer.output_dir
        return f"mteb: {config.mteb_task_type} with {name} (all settings: --help)"
    if config.task == "glue":
        what = f"{config.glue.task_name} from {start or 'random weights'}"
    else:
        begin = (
            f"from {start}" if start else f"model {model.hidden_size} × {model.num_hidden_layers}"
        )
        data = ", ".join(config.dataset.mixture) or config.dataset.path or config.dataset.name
        groups = ["dataset", "optimizer"] if start else ["model", "dataset", "optimizer"]
        if config.task == "contrastive":  # whose dataset.path is that of the tokens
            data = config.dataset.name
            groups.remove("dataset")
        what = f"{begin}, dataset {data}"
        set_by_user = {word.lstrip("+-").partition("=")[0] for word in words}
        others = " ".join(f"{group}=…" for group in groups if group not in set_by_user)
        if others and "config_path" not in set_by_user:
            hint = f"; choose others with {others}"
    where = f"{config.optimizer.name}, into {config.trainer.output_dir}"
    return f"{config.task}: {what}, {where}{hint} (all settings: --help)"


class _Callable(ModuleType):
    def __call__(
        self,
        config: Config,
        callbacks: "Sequence[Callback]" = (),
        loggers: "Sequence[Logger]" = (),
    ) -> "Run":
        """``neobert.train(config)``: see :func:`neobert.library.train_config`."""
        from neobert.library import train_config

        return train_config(config, callbacks, loggers)


sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    # By its name, so that launchers find the task function in other processes.
    from neobert.train import main as run_main

    run_main()
