"""Every setting that a message proposes is pasted back: it is a key with a value that it takes.

The hints are collected from the texts of the package itself, so a new one is tried as well.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import neobert
from neobert.config.compose import compose_config
from neobert.config.overrides import pasteable
from neobert.config.schema import field_types
from neobert.errors import ConfigError
from neobert.training.resume import MEANING, accepting

PACKAGE = Path(neobert.__file__).parent
HINT = re.compile(r"(?<![\w./*{-])([a-z_]+(?:\.[a-z_]+)+)=(\[[^\]\s]*\]|[\w./-]+)")
PLACEHOLDER = re.compile(r"^[A-Z_]+$|…|<.*>")
"""Words in capitals stand for what a user has: RUN, FOLDER, STEP."""


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a module but its docstrings; what is filled in is a line break."""
    left_out = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    left_out |= {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in left_out:
            yield str(node.value)


def hints() -> list[str]:
    collected = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in texts(ast.parse(path.read_text())):
            for match in HINT.finditer(text):
                key, value = match.groups()
                filled_in = text[match.end() :].startswith("\n") or "\n" in value
                named = key in field_types() and not PLACEHOLDER.search(value.strip("[]"))
                if named and not filled_in:
                    collected.add(f"{key}={value.rstrip('.')}")
    return sorted(collected)


def test_there_are_hints() -> None:
    assert len(hints()) > 20
    assert "trainer.resume_from_checkpoint=latest" in hints()


@pytest.mark.parametrize("hint", hints())
def test_a_hint_is_a_setting_that_can_be_pasted(hint: str) -> None:
    key = hint.partition("=")[0]
    try:
        compose_config([hint])
    except ConfigError as error:
        # Another setting may be needed beside it; the hint itself must be understood.
        wrong = ("unknown key", "cannot be read", "is not a", "must be one of", "takes quotes")
        mine = [line for line in error.problems if key in line]
        assert not [line for line in mine if any(word in line for word in wrong)]


@pytest.mark.parametrize("key", [*MEANING, "dataset", "contrastive.sources.my source, 2"])
def test_the_override_that_accepts_a_change_is_understood(key: str) -> None:
    config = compose_config([accepting([key, "seed"])])
    assert config.trainer.accept_changes == [key, "seed"]


@pytest.mark.parametrize("folder", ["/a/b-1.0", "/my runs/a", "/a=b,c", "/it's", "/x(1)/[2]{3}"])
def test_a_hint_with_a_folder_is_taken_by_a_shell_and_by_the_grammar(folder: str) -> None:
    (word,) = shlex.split(pasteable("trainer.output_dir", folder))
    assert compose_config([word]).trainer.output_dir == str(Path(folder).expanduser())
