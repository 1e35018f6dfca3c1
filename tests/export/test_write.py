"""Exporting whole folders, and refusing to."""

from pathlib import Path

import pytest

from neobert.export.__main__ import main
from neobert.export.verify import CHECKS
from neobert.export.write import export

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "learned": {"rope": False, "rms_norm": False, "hidden_act": "gelu"},
    "untied": {"tie_word_embeddings": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_architecture_exports_and_passes_its_checks(make_run, tmp_path, variant) -> None:
    findings = export(make_run(**VARIANTS[variant]), tmp_path / "model")
    assert [finding.name for finding in findings] == list(CHECKS)
    assert all(finding.ok for finding in findings)
