"""The Hydra application: Hydra's own, with our loader, and with sweeps that keep a table."""

import os
import sys
import time
from typing import Any

import hydra
from hydra._internal import hydra as hydra_internal
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from neobert.config.compose import SettingsLoader, register_schemas
from neobert.config.group_files import PRIMARY, conf_dir
from neobert.config.ready import folder_problems
from neobert.console import get_logger
from neobert.errors import ConfigError, ExitCode
from neobert.files import first_line
from neobert.sweep_jobs import SWEEP
from neobert.sweep_report import report

log = get_logger(__name__)


class Application(Hydra):
    """Hydra with :class:`SettingsLoader`, whose errors are raised instead of printed."""

    @classmethod
    def create_main_hydra2(cls, task_name: str, config_search_path: ConfigSearchPath) -> Hydra:
        """As Hydra's, which knows one loader only."""
        application = cls(task_name, SettingsLoader(config_search_path))
        GlobalHydra.instance().initialize(application)
        return application

    def get_mode(self, config_name: str | None, overrides: list[str]) -> RunMode | None:
        """What ``hydra.mode`` is without ``-m``. Composing takes half of the time of a refusal, so
        what Hydra asks for here is kept for the run, and its problems are raised here."""
        if {"-m", "--multirun"} & set(sys.argv):
            return None
        loader: Any = self.config_loader
        try:
            loader.kept = loader.load_configuration(config_name, overrides, RunMode.RUN)
        except ConfigError:
            if loader.mode != RunMode.MULTIRUN:
                raise
        return loader.mode or RunMode.RUN

    def multirun(
        self,
        config_name: str | None,
        task_function: TaskFunction,
        overrides: list[str],
        with_log_configuration: bool = True,
    ) -> Any:
        """Run a sweep, write its table, and exit: 0 if every job succeeded, 75 if a signal ended
        it, else 1. No job starts if the settings of one are wrong."""
        os.environ[SWEEP] = f"{time.time_ns()}"
        master = self.compose_config(config_name, overrides, RunMode.MULTIRUN)
        folder = str(master.hydra.sweep.dir)
        expected = check_jobs(self.config_loader, master, folder)
        code = None
        try:
            super().multirun(config_name, task_function, overrides, with_log_configuration)
        except KeyboardInterrupt:
            code, expected = ExitCode.INTERRUPTED, 0
            log.warning("the sweep was interrupted; the same command runs what is left of it")
        except (ConfigError, OSError):
            raise
        except Exception as error:  # a launcher's or a sweeper's: what has run is kept
            code, expected = ExitCode.FAILED, max(expected, 1)
            log.error("error: the sweep ended early: %s", first_line(error))
        failed = report(folder, os.environ[SWEEP], expected)
        sys.exit(int(failed) if code is None else code)


def run_application(task: TaskFunction) -> None:
    """Run ``sys.argv`` as a Hydra application whose task function is ``task``.

    Raises ``ConfigError`` for wrong settings, and whatever Hydra or the task raises.
    """
    register_schemas()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what Hydra would print is raised
    hydra_internal.Hydra = Application  # type: ignore[misc]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=PRIMARY)(task)()


def check_jobs(loader: Any, master: DictConfig, folder: str) -> int:
    """Check every value that is swept; return the number of jobs, 0 if the sweeper decides it.

    Raises ``ConfigError`` with all problems. Combinations of values are checked by Hydra's own
    sweeper, before it starts the first job too.
    """
    params = OmegaConf.select(master, "hydra.sweeper.params") or {}
    words = [f"{key}={value}" for key, value in params.items()]
    words += list(master.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=loader)
    chosen = {override.get_key_element(): override for override in parser.parse_overrides(words)}
    basic = str(master.hydra.sweeper._target_).endswith("BasicSweeper")
    ranges = [
        override.input_line
        for override in chosen.values()
        if basic and override.is_sweep_override() and not override.is_discrete_sweep()
    ]
    if ranges:
        hint = "needs a sweeper that searches: hydra/sweeper=optuna (extra: sweep)"
        raise ConfigError(*[f"{line}: {hint}" for line in ranges])
    values = {key: _values_of(override) for key, override in chosen.items()}
    first = {key: options[0] for key, options in values.items() if options}
    jobs = [{**first, key: option} for key, options in values.items() for option in options]
    problems = dict.fromkeys(folder_problems(folder))
    for job in {tuple(job.values()): None for job in jobs or [first]}:
        try:
            loader.load_sweep_config(master, list(job))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(*problems)
    return len(BasicSweeper.split_arguments(list(chosen.values()), None)[0]) if basic else 0


def _values_of(override: Override) -> list[str]:
    """An override for each value; for an interval its ends."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={option}" for option in override.sweep_string_iterator()]
