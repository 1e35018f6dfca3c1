"""Writes docs/configuration.md and docs/parity.md: ``make docs``.

The first comes from the dataclasses, the second from the marks
``@pytest.mark.proves("section.key")`` on the tests: for every key of the
configuration reference, the test that proves its effect.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from neobert.config.help import help_sections, shown
from neobert.console import get_logger, show_messages

log = get_logger("neobert.docs")

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
REFERENCE_KEYS = TESTS / "config" / "reference_keys.txt"

CONFIGURATION = """\
# Configuration

<!-- Written by `make docs` from the dataclasses in neobert/config/. -->

Every key with its type, default and meaning. How to set them: [training.md](training.md).
"""
PARITY = """\
# Keys of the configuration reference

<!-- Written by `make docs` from the marks `@pytest.mark.proves(…)` in tests/. -->

Every key of the configuration reference that this project implements ([README](../README.md)),
and the tests that prove its effect here.

| key | proved by |
|---|---|
"""


def main() -> None:
    """Write both pages."""
    show_messages()
    for page, text in pages().items():
        page.write_text(text)
        log.info("wrote %s", page.relative_to(ROOT))


def pages() -> dict[Path, str]:
    """The pages and what they should say."""
    return {
        ROOT / "docs" / "configuration.md": configuration_page(),
        ROOT / "docs" / "parity.md": parity_page(),
    }


def configuration_page() -> str:
    """A table for each section."""
    parts = [CONFIGURATION]
    for section, keys in help_sections():
        parts.append(f"\n## {section or 'Top level'}\n\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|\n")
        for key in keys:
            meaning = key.meaning.replace("``", "`").replace("|", "\\|")
            parts.append(f"| `{key.name}` | {key.type} | `{shown(key.default)}` | {meaning} |\n")
    return "".join(parts)


def parity_page() -> str:
    """A row for each key of the configuration reference."""
    proofs = proofs_by_key()
    rows = [f"| `{key}` | {_links(proofs[key])} |\n" for key in reference_keys()]
    return PARITY + "".join(rows)


def reference_keys() -> dict[str, tuple[str, str]]:
    """Type and default of every key of the configuration reference, by name, as written there."""
    found = {}
    for line in REFERENCE_KEYS.read_text().splitlines():
        name, kind, default = line.split("\t")
        found[name] = (kind, default)
    return found


def proofs_by_key() -> dict[str, list[str]]:
    """Tests by the key they are marked to prove: ``file::test``."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for key in _proved(node.decorator_list):
                    found[key].append(f"{file.relative_to(ROOT).as_posix()}::{node.name}")
    return found


def _proved(decorators: list[ast.expr]) -> Iterator[str]:
    for decorator in decorators:
        call = decorator if isinstance(decorator, ast.Call) else None
        if call is not None and ast.unparse(call.func) == "pytest.mark.proves":
            for one in call.args:
                yield str(one.value) if isinstance(one, ast.Constant) else ast.unparse(one)


def _links(tests: list[str]) -> str:
    if not tests:
        return "–"
    return "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests[:3])


if __name__ == "__main__":
    main()
