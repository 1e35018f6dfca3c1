"""From a command line to a ``Config``: Hydra's loader, whose result is typed and checked.

Stronger wins: dataclass < group file < task < experiment < ``config_path`` < ``debug`` < command
line. Hydra finds and orders the files; all that is wrong in any of them is reported at once, with
its origin.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from neobert.config.effects import adapt, ineffective
from neobert.config.group_files import PRIMARY, conf_dir, group_names, layer_of, settings_files
from neobert.config.layers import Layer, Merged, build, expanded
from neobert.config.overrides import (
    Request,
    config_folder,
    read_overrides,
    split_flags,
)
from neobert.config.ready import start_problems
from neobert.config.root import Config
from neobert.config.schema import field_types, sections
from neobert.config.yaml_file import syntax_problem
from neobert.console import get_logger, process_rank
from neobert.errors import ConfigError
from neobert.files import first_line

log = get_logger(__name__)

OUTPUT_DIR = "${trainer.output_dir}"
HYDRAS_FOLDERS = (
    "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}",
    "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}",
)
"""Hydra's defaults (hydra/output/default.yaml), in whose place ``trainer.output_dir`` stands."""

REFERENCE = "reference"
"""Option of the group ``dataset`` that leaves the dataclass's defaults as they are."""

SHOWN = 3
"""Settings that a warning lists."""


def compose_config(arguments: Sequence[str], config_dir: str | Path | None = None) -> Config:
    """The checked ``Config`` of ``python -m neobert.train <arguments>``.

    ``config_dir``: a folder of group files, as ``--config-dir`` among the arguments. Leaves Hydra's
    global state alone, so it can be called in another Hydra program. Raises ``ConfigError`` with
    everything that is wrong.
    """
    setup_globals()
    if version.getbase() is None:
        version.setbase("1.3")
    register_schemas()
    flags, overrides = split_flags(arguments)
    search_path = create_config_search_path(str(conf_dir()))
    if (folder := config_dir or config_folder(flags)) is not None:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder")
        search_path.prepend("command-line", str(Path(folder).absolute()), "schema")
    loader = SettingsLoader(search_path)
    loader.in_run = True
    loader.load_configuration(PRIMARY, overrides, RunMode.RUN)
    return loader.config


def to_config(settings: DictConfig) -> Config:
    """The checked ``Config`` of a composed configuration, as Hydra hands it to a task function.

    ``${hydra:…}`` is resolved, so this has to happen in the run or the job itself.
    """
    return build(settings, {}, [])


@cache
def register_schemas() -> None:
    """Put the dataclasses into Hydra's ConfigStore: ``neobert_schema``, ``model/schema``, …"""
    store = ConfigStore.instance()
    store.store("neobert_schema", Config, provider="neobert")
    for group in group_names():
        if (section := sections().get(group)) is not None:
            store.store("schema", section, group=group, provider="neobert")


class SettingsLoader(ConfigLoaderImpl):
    """Hydra's configuration loader with this program's layers, types and checks."""

    config: Config
    """The result of the last composition."""

    in_run = False
    """Whether ``${hydra:…}`` is that of a run that has begun; else it is resolved there."""

    mode: RunMode | None = None
    """``hydra.mode`` of the last composition."""

    kept: DictConfig | None = None
    """The result of a composition that the next call with ``RunMode.RUN`` gets."""

    _files: list[Layer]
    """The group files of the composition at hand, weakest first, except ``debug``."""

    _debug: list[Layer]
    """The files of the group ``debug``, which are stronger than ``config_path`` files."""

    _sweep: DictConfig | None = None
    """The sweep that the composition at hand is a job of."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The checked configuration; raises ``ConfigError`` with all that is wrong."""
        kept, self.kept = self.kept, None
        if kept is not None and run_mode == RunMode.RUN:
            return kept
        problems: list[str] = []
        # hydra.searchpath, which may be among the overrides, decides which groups there are.
        search = [word for word in overrides if word.startswith("hydra.searchpath=")]
        with _one_line(problems):
            _, repo = self._parse_overrides_and_create_caching_repo(config_name, search)
        is_sweep = run_mode == RunMode.MULTIRUN
        request = read_overrides(overrides, repo.group_exists, problems, is_sweep)
        files = settings_files(request.values.get("config_path"), problems)
        self._files, self._debug = [], []
        with _one_line(problems):
            chosen = _chosen_groups(files, request, config_name, repo, problems)
            words = [*_as_hydra_takes_them(chosen, config_name, repo), *request.hydra]
            composed = super().load_configuration(config_name, words, run_mode)
        self.mode = composed.hydra.mode
        merged = Merged([*self._files, *files, *self._debug, request])
        adapt(merged)
        problems = merged.problems(problems)
        settings = merged.tree
        _join(settings, composed, request.task)
        with nullcontext() if self.in_run else hydra_config(settings):
            problems += self._choose_folder(settings, request, run_mode)
            self.config = build(settings, merged.layers, problems, hydra_later=not self.in_run)
        typed = {group: chosen[group] for group in request.groups}
        for line in [*ineffective(self.config, merged), *self._overruled(typed, files, merged)]:
            log.warning("%s", line)
        return settings

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The checked configuration of a job, whose folder is below that of the sweep."""
        self._sweep = master_config
        try:
            settings: DictConfig = super().load_sweep_config(master_config, sweep_overrides)
            if problems := start_problems(self.config):
                raise ConfigError(*problems)
        finally:
            self._sweep = None
        with open_dict(settings.hydra):
            settings.hydra.mode = RunMode.MULTIRUN
            settings.hydra.sweep.dir = str(master_config.hydra.sweep.dir)
        return settings

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        result = super()._load_single_config(default, repo)
        name = str(default.config_path)
        group = name.partition("/")[0]
        if group != "hydra" and result.provider != "hydra":
            layers = self._debug if group == "debug" else self._files
            layers.append(layer_of(name, str(default.package or ""), result))
        return result

    def _overruled(
        self, chosen: Mapping[str, Override], files: Sequence[Layer], merged: Merged
    ) -> Iterator[str]:
        """A line for each group of the command line that a ``config_path`` file overrides."""
        groups = {layer.origin: layer.values for layer in self._files}
        for file in files:
            for group, override in chosen.items():
                option = override.value()
                lost = [
                    f"{key}={file.values[key]}"
                    for key, value in groups.get(f"conf/{group}/{option}.yaml", {}).items()
                    if merged.layers.get(key) is file and file.values[key] not in (None, value)
                ]
                more = ", …" if lost[SHOWN:] else ""
                if lost:
                    shown = ", ".join(lost[:SHOWN])
                    yield f"{file.origin} is stronger than {group}={option}: {shown}{more}"

    def _choose_folder(
        self, settings: DictConfig, request: Request, run_mode: RunMode
    ) -> list[str]:
        """Make ``trainer.output_dir`` and Hydra's folder one, whichever was set; the problems."""
        if self._sweep is not None:
            settings.trainer.output_dir = "${hydra:runtime.output_dir}"
            return []
        # Hydra makes the folder before the run begins, and would make one that is called ~.
        trainer, hydra = settings.trainer, settings.hydra
        trainer.output_dir = expanded(trainer._get_node("output_dir")._value())
        for section in (hydra.run, hydra.sweep):
            path = section._get_node("dir")._value()
            section.dir = OUTPUT_DIR if path in HYDRAS_FOLDERS else expanded(path)
        name = "sweep" if run_mode == RunMode.MULTIRUN else "run"
        key = f"hydra.{name}.dir"
        if hydra[name]._get_node("dir")._value() == OUTPUT_DIR:
            return []
        try:
            folder, ours = OmegaConf.select(settings, key), trainer.output_dir
        except OmegaConfBaseException as error:
            return [f"{key}: {first_line(error)}"]
        # Lightning starts the other processes of a run with the first one's hydra.run.dir.
        both = "trainer.output_dir" in request.values and process_rank() == 0
        if both and Path(folder) != Path(ours):
            return [
                f"command line: {key}={folder} and trainer.output_dir={ours} are one folder by two "
                "names: keep one of them"
            ]
        if folder != ours:
            trainer.output_dir = folder
        return []


def _chosen_groups(
    files: Sequence[Layer],
    request: Request,
    config_name: str | None,
    repo: Any,
    problems: Sequence[str],
) -> dict[str, Override]:
    """The groups that ``config_path`` files and the command line choose; the latter is stronger.

    A file that names its own corpus gets the dataclass's defaults for the rest of the section.
    Raises ``ConfigError``, with the ``problems`` so far, if there is no such option: the rest of
    the settings cannot be judged without it.
    """
    chosen: dict[str, tuple[str, str]] = {}
    for layer in (*files, request):
        names_corpus = {"dataset.name", "dataset.path"} & set(layer.values)
        if names_corpus and layer is not request and config_name == PRIMARY:
            chosen.setdefault("dataset", (f"dataset={REFERENCE}", layer.origin))
        chosen |= {group: (word, layer.origin) for group, word in layer.groups.items()}
    parser = OverridesParser.create()
    groups = {group: parser.parse_override(word) for group, (word, _) in chosen.items()}
    missing = [
        line
        for group, override in groups.items()
        for line in _unknown_options(override, repo, chosen[group][1])
    ]
    if missing:
        raise ConfigError(*problems, *missing)
    return groups


def _unknown_options(override: Override, repo: Any, origin: str) -> list[str]:
    group, value = override.key_or_group, override.value()
    if override.is_delete() or value is None:
        return []
    names = value if isinstance(value, list) else [value]
    values = ["true", "false"] if field_types().get(group) is bool else []
    listed = [option for option in repo.get_group_options(group) if option != "schema"]
    known = ", ".join([*listed, *values])
    return [
        f"{origin}: {group}={name}: must be one of {known}"
        for name in names
        if not repo.config_exists(f"{group}/{name}")
    ]


def _as_hydra_takes_them(
    groups: Mapping[str, Override], config_name: str | None, repo: Any
) -> Iterator[str]:
    """``+group=x`` of a group that the primary file has too, and ``group=null``, in its words."""
    primary = repo.load_config(config_name) if config_name else None
    defaults = (primary.defaults_list if primary else None) or ()
    in_defaults = {default.group for default in defaults if isinstance(default, GroupDefault)}
    for group, override in groups.items():
        if override.value() is None and not override.is_delete():
            yield f"~{group}"
        elif group in in_defaults and override.is_add():
            yield str(override.input_line).lstrip("+")
        else:
            yield str(override.input_line)


def _join(settings: DictConfig, composed: DictConfig, overrides: list[Override]) -> None:
    """Add Hydra's own settings, with the overrides as the user gave them."""
    with open_dict(settings):
        settings.hydra = composed.hydra
    with open_dict(settings.hydra):
        settings.hydra.overrides.task = [str(override.input_line) for override in overrides]
        form = OmegaConf.to_container(settings.hydra.job.config.override_dirname)
        settings.hydra.job.override_dirname = get_overrides_dirname(overrides, **form)  # type: ignore[arg-type]
    OmegaConf.set_struct(settings, True)


@contextmanager
def _one_line(problems: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra raises into a ``ConfigError`` with the ``problems`` so far."""
    try:
        yield
    except yaml.YAMLError as error:  # Hydra reads a group file before it is a layer
        mark = getattr(error, "problem_mark", None) or error
        text = f"{getattr(mark, 'name', 'group file')}: {syntax_problem(error)}"
        raise ConfigError(*problems, text) from error
    except (UnicodeDecodeError, RecursionError) as error:  # neither says in which file
        raise ConfigError(*problems, f"a group file cannot be read ({error})") from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({first_line(error.__cause__)})" if error.__cause__ is not None else ""
        text = " ".join(str(error).split()) + cause
        if re.search(r"'hydra/(launcher|sweeper)/(joblib|submitit|optuna)", text):
            text = f"pip install 'neobert[sweep]': {text}"
        raise ConfigError(*problems, text) from error


@contextmanager
def hydra_config(settings: DictConfig) -> Iterator[None]:
    """Let ``${hydra:…}`` see the composition at hand."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.cfg = settings  # type: ignore[assignment]
    try:
        yield
    finally:
        instance.cfg = before
