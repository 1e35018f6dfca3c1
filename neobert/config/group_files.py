"""Files of settings: the groups of ``conf/`` and of the user, and what ``config_path`` names."""

from itertools import chain
from pathlib import Path

from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from neobert.config.layers import Layer
from neobert.config.overrides import is_value
from neobert.config.schema import Flat
from neobert.config.yaml_file import read_settings
from neobert.files import user_path

PRIMARY = "config"
"""The primary file of ``conf/``."""


def conf_dir() -> Path:
    """The folder of the group files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise FileNotFoundError(f"neobert: conf/ is neither in {package} nor beside it")


def group_names() -> list[str]:
    """The groups of ``conf/``."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The files of a group of ``conf/``."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def layer_of(name: str, package: str, result: ConfigResult) -> Layer:
    """The layer of a group file: read again where it is a file, so that text stays as written."""
    folder = Path(str(result.path).removeprefix("file://"))
    file = folder / f"{name.removesuffix('.yaml')}.yaml"
    shipped = folder == conf_dir() or result.provider in ("neobert", "schema")
    package = package.replace("_global_", "")
    if file.is_file():
        origin = f"conf/{name}.yaml" if shipped else str(file)
        values = read_settings(file, "config file", package)
    else:
        origin = f"{result.path}/{name}"
        values = OmegaConf.to_container(result.config, resolve=False)  # type: ignore[assignment]
        package = ""
    settings = {key: value for key, value in values.items() if key not in ("defaults", "hydra")}
    for part in reversed(package.split(".") if package else []):
        settings = {part: settings}
    return Layer.read(origin, settings, [], by_user=not shipped)


def settings_files(path: object, problems: list[str], seen: tuple[Path, ...] = ()) -> list[Layer]:
    """The ``config_path`` file and those it names in ``defaults``, weakest first.

    Each with the groups that it chooses: in its ``defaults``, or as ``model: neobert_tiny``.
    """
    if path in (None, "", "null"):
        return []
    file = user_path(str(path))
    if file in seen:
        problems.append(f"{file}: defaults lead back to this file")
        return []
    values = read_settings(file)
    groups, names = _defaults(values.pop("defaults", None) or [], file, problems)
    for group in group_names():
        option = values.get(group)
        if isinstance(option, str) and group != "task" and not is_value(group, option):
            groups[group] = values.pop(group)
    if (task := values.get("task")) in options("task"):
        groups.setdefault("task", task)
    weaker = [settings_files(file.parent / name, problems, (*seen, file)) for name in names]
    own = Layer.read(str(file), values, problems)
    own.groups = {group: f"{group}={_option(option)}" for group, option in groups.items()}
    return [*chain.from_iterable(weaker), own]


def _defaults(entries: object, file: Path, problems: list[str]) -> tuple[Flat, list[str]]:
    """The groups and the files that a defaults list chooses."""
    groups: Flat = {}
    names: list[str] = []
    if not isinstance(entries, list):
        problems.append(f"{file}: defaults={entries}: must be a list")
        return groups, names
    for entry in entries:
        if isinstance(entry, dict):
            for group, option in entry.items():
                groups[str(group).removeprefix("override ").strip().lstrip("/")] = option
        elif entry not in ("_self_", "neobert_schema"):  # a primary file's: checked anyway
            names.append(_with_suffix(str(entry)))
    return groups, names


def _with_suffix(name: str) -> str:
    return name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"


def _option(option: object) -> str:
    """A choice of a group as an override writes it."""
    if isinstance(option, list):
        return f"[{','.join(str(name) for name in option)}]"
    return "null" if option is None else str(option)
