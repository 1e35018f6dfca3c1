"""The contract: every key of the reference is there, with its type and default."""

import pytest

from docs.generate import pages, proofs_by_key, reference_keys
from neobert.config.root import Config
from neobert.config.schema import field_types
from neobert.config.section import described, section_of

NAMES = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "str | None": "text or null",
    "int | None": "integer or null",
    "float | None": "number or null",
    "bool | None": "boolean or null",
    "str | int | None": "text or integer or null",
    "list[str]": "list of texts",
    "list[float]": "list of numbers",
    "dict[str, Any]": "mapping",
    "dict[str, str]": "mapping",
}


def default_of(key: str) -> object:
    from neobert.config.optimizer import MuonConfig

    if key.startswith("optimizer.muon_config."):
        return getattr(MuonConfig(), key.rpartition(".")[2])
    value: object = Config()
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("key", [key for key in reference_keys() if "muon_config:" not in key])
def test_the_key_has_the_type_and_default_of_the_reference(key: str) -> None:
    kind, default = reference_keys()[key]
    assert default_of(key) == eval(default)
    if key == "optimizer.muon_config":
        assert section_of(Config.__dataclass_fields__["optimizer"].type)
        return
    assert described(field_types()[key]) == NAMES[kind]


def test_the_generated_pages_are_not_stale() -> None:
    for page, text in pages().items():
        assert page.read_text() == text, f"{page.name} is stale: run `make docs`"


def test_a_proof_names_a_key_that_exists() -> None:
    known = {*field_types(), "optimizer.muon_config"}
    assert set(proofs_by_key()) <= known
