"""Every setting of the model belongs to a part, from which the lists of settings follow."""

from dataclasses import fields

import pytest

from neobert.config.model import PARTS, ModelConfig, fields_of
from neobert.config.schema import sections
from neobert.config.section import Section


@pytest.mark.parametrize("name", [one.name for one in fields(ModelConfig)])
def test_every_setting_belongs_to_a_part(name: str) -> None:
    part = {one.name: one.metadata.get("part") for one in fields(ModelConfig)}[name]
    assert part in PARTS, f"model.{name}: give its field a part (neobert/config/model.py)"


def test_each_part_has_its_settings() -> None:
    assert fields_of("machine") == ("attn_backend", "kernel_backend")
    assert fields_of("vocabulary", "training") == ("vocab_size", "dropout_prob", "pad_token_id")
    assert sorted(fields_of(*PARTS)) == sorted(one.name for one in fields(ModelConfig))


def test_every_section_is_checked_with_the_others() -> None:
    assert [name for name, kind in sections().items() if not issubclass(kind, Section)] == []
