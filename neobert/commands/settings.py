"""``neobert config``: list the group files, copy one to edit it, check a file."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from neobert.config.compose import compose_config
from neobert.config.group_files import conf_dir, group_names, options
from neobert.config.overrides import quote
from neobert.config.schema import type_of
from neobert.config.yaml_file import read_settings
from neobert.console import get_logger
from neobert.errors import ConfigError
from neobert.files import first_line, user_path, write_atomically

log = get_logger(__name__)

DESCRIPTION = "List the group files, copy one to edit it, or check files of settings."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="neobert config", description=DESCRIPTION)
    commands = arguments.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the groups and their files")
    listing.add_argument("group", nargs="?", help="only this group, with what each file is for")
    copying = commands.add_parser("copy", help="copy a group file to edit it")
    copying.add_argument("choice", metavar="group=option", help="e.g. experiment=quickstart")
    copying.add_argument("folder", type=user_path, help="your folder of group files, e.g. my_conf/")
    copying.add_argument("--name", help="name of the copy (default: my_OPTION)")
    checking = commands.add_parser("check", help="check files of settings; run nothing")
    checking.add_argument("files", nargs="+", type=user_path, metavar="FILE")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Raises ``ConfigError`` for what cannot be listed, copied or used."""
    arguments = parser().parse_args(argv)
    if arguments.command == "list":
        sys.stdout.write(listed(arguments.group))
    elif arguments.command == "copy":
        copy(arguments.choice, arguments.folder, arguments.name)
    else:
        check_settings_files(arguments.files)
    return 0


def listed(group: str | None) -> str:
    """A line for each group, or for each file of one."""
    if group is None:
        return "".join(f"{name + '=':14}{', '.join(options(name))}\n" for name in group_names())
    _check_group(group)
    lines = [
        (option, _first_comment(conf_dir() / group / f"{option}.yaml")) for option in options(group)
    ]
    return "".join(f"{option:26}{comment}".rstrip() + "\n" for option, comment in lines)


def copy(choice: str, folder: Path, name: str | None) -> None:
    """Copy a group file to ``folder/group/name.yaml``; nothing is overwritten."""
    group, equals, option = choice.partition("=")
    if not equals:
        raise ConfigError(f"{choice}: must be group=option, such as experiment=quickstart")
    _check_group(group)
    if option not in options(group):
        raise ConfigError(f"{choice}: must be one of {', '.join(options(group))}")
    name = name or f"my_{option}"
    if name in options(group):
        raise ConfigError(f"--name {name}: the package has {group}={name}, which is found first")
    file = folder / group / f"{name}.yaml"
    if file.exists():
        raise ConfigError(f"{file} exists: choose another --name or folder")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (conf_dir() / group / f"{option}.yaml").read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({first_line(error)})") from error
    command = f"neobert train --config-dir {shlex.quote(str(folder))} {group}={name}"
    log.info("wrote %s; edit it, then: %s", file, command)


def check_settings_files(files: Sequence[Path]) -> None:
    """Compose each file: a group file as the option of its group, else by itself."""
    problems = []
    for file in files:
        try:
            compose_config(*_composition_of(file))
        except ConfigError as error:
            problems += [
                line if str(file) in line else f"{file}: {line}" for line in error.problems
            ]
        else:
            log.info("ok  %s", file)
    if problems:
        raise ConfigError(*problems)


def _composition_of(file: Path) -> tuple[list[str], Path | None]:
    """The overrides that select a file, and the folder of group files that it is in."""
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    by_itself = [f"config_path={quote(str(file))}"]
    groups = [folder for folder in file.absolute().parents if folder.name in group_names()]
    if not groups:
        return by_itself, None
    folder = groups[0]
    option = file.absolute().relative_to(folder).with_suffix("").as_posix()
    if option in options(folder.name) or ("/" in option and _is_complete(file)):
        return by_itself, None
    return [f"{folder.name}={option}"], folder.parent


def _is_complete(file: Path) -> bool:
    """Whether a file has sections, as that of a run in a folder such as ``~/model/``."""
    values = read_settings(file)
    has_package = re.search(r"^# *@package", file.read_text("utf-8"), re.MULTILINE)
    return not has_package and any(type_of(str(key)) is not None for key in values)


def _check_group(group: str) -> None:
    if group not in group_names():
        raise ConfigError(f"{group}: unknown group; must be one of {', '.join(group_names())}")


def _first_comment(file: Path) -> str:
    lines = re.findall(r"^# +(?!@package)(.*)$", file.read_text("utf-8"), re.MULTILINE)
    return lines[0] if lines else ""
