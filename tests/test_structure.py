"""The rules of CONTRIBUTING.md that the code itself can be asked about."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "neobert"
EXPORTED = PACKAGE / "export" / "modeling_neobert.py"
"""One file, since it travels with exported weights."""

LINES_OF_FILE, LINES_OF_FUNCTION = 400, 50

PER_PROGRAM = {"main", "parser"}
"""What each program has: its entry and its command line."""

PER_TASK = {"run", "data", "module"}
"""The modules that each task has."""

LINES_OF_TASK = 300
"""Of the three modules of the task that CONTRIBUTING.md tells to follow."""


def sources(*folders: str) -> list[Path]:
    return sorted(
        file
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        if file != EXPORTED and "__pycache__" not in file.parts
    )


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize(
    "file", sources("neobert", "benchmarks", "hydra_plugins", "docs"), ids=relative
)
def test_files_and_functions_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= LINES_OF_FILE
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(file)}
    assert {name: n for name, n in lengths.items() if n > LINES_OF_FUNCTION} == {}


def public_names() -> dict[str, set[str]]:
    """Files that define a public class or function of this name at their top level."""
    places = defaultdict(set)
    for file in sources("neobert", "hydra_plugins"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places[node.name].add(relative(file))
    return {name: files for name, files in places.items() if not name.startswith("_")}


def test_no_two_public_classes_or_functions_share_a_name() -> None:
    shared = {name: files for name, files in public_names().items() if len(files) > 1}
    assert {n: f for n, f in shared.items() if n not in PER_PROGRAM} == {}


def module_file(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    module = path.with_suffix(".py")
    return module if module.is_file() else path / "__init__.py"


@cache
def names_in(file: Path) -> set[str]:
    """Classes, functions and variables that a file defines."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    imported = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return names - imported | {node.name for node in nodes if isinstance(node, kinds)}


@pytest.mark.parametrize("folder", ["neobert", "benchmarks", "hydra_plugins", "tests"])
def test_a_name_is_imported_from_the_module_that_defines_it(folder: str) -> None:
    elsewhere = [
        f"{relative(file)}: {node.module}.{alias.name}"
        for file in sources(folder)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] in ("neobert", "benchmarks")
        for alias in node.names
        if not module_file(f"{node.module}.{alias.name}").is_file()
        and alias.name not in names_in(module_file(str(node.module)))
    ]
    assert elsewhere == []


def test_no_two_modules_share_a_name() -> None:
    """But sections of the configuration, which have the names of what they configure."""
    places = defaultdict(set)
    for file in sources("neobert"):
        if not file.stem.startswith("__") and file.parent != PACKAGE / "config":
            places[file.stem].add(relative(file))
    for name in PER_TASK:
        places[name] = {file for file in places[name] if not file.startswith("neobert/tasks/")}
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_the_task_to_follow_is_short() -> None:
    task = PACKAGE / "tasks" / "token_classification"
    lines = [(task / f"{module}.py").read_text().count("\n") for module in PER_TASK]
    assert sum(lines) <= LINES_OF_TASK


def test_every_part_of_the_package_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers, independence = contracts["contracts"]
    named = {part.strip() for layer in layers["layers"] for part in layer.split("|")}
    parts = {
        f"neobert.{path.stem}"
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert parts - {"neobert.__init__"} == named
    assert independence["modules"] == ["neobert.tasks.*"]


LIBRARIES = ("torch", "lightning", "hydra", "omegaconf", "deepspeed", "transformers", "datasets")


def own_names() -> set[str]:
    """Functions, classes, fields and attributes that the package defines."""
    names = set()
    for file in sources("neobert"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def private_names(file: Path, own: set[str]) -> Iterator[str]:
    """Private modules and names of libraries that a file imports, private attributes of others."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARIES):
            if "._" in str(node.module):
                yield str(node.module)
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = ast.unparse(node.value)
            is_own = owner in ("self", "cls") and node.attr in own
            if not (is_own or owner == "os" or node.attr.endswith("_")):
                yield node.attr


def test_private_interfaces_of_libraries_are_listed_with_who_uses_them_and_what_to_check() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("## Private interfaces of the libraries") :].splitlines()
    own = own_names()
    missing = [
        (name, relative(file))
        for file in sources("neobert", "hydra_plugins")
        for name in private_names(file, own)
        if not any(name in row and relative(file).removeprefix("neobert/") in row for row in table)
    ]
    assert missing == []
