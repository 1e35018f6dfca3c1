"""The benchmark of QK-clip times steps that measure and steps that do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.qk_clip import main
from neobert.model.self_attention import SelfAttention


def test_steps_that_measure_and_others_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements: list[torch.Tensor] = []
    record = SelfAttention._record

    def counted(self: SelfAttention, *args: object) -> None:
        measurements.append(self.max_logits)
        record(self, *args)

    monkeypatch.setattr(SelfAttention, "_record", counted)
    output = tmp_path / "found.json"
    words = ["--shapes", "32x1", "--rows", "2", "--row-length", "16", "--rounds", "3"]
    main([*words, "--output", str(output)])
    found = json.loads(output.read_text())["shapes"]["32x1"]
    assert len(measurements) == 5  # steps 0, 2 of the warm-up; 4, 6, 8
    assert found["seconds without"] > 0
    share = found["seconds of the measurement"] / found["seconds without"]
    assert found["percent"] == pytest.approx(100 * share, abs=1)
    assert 0 < share < 1


@pytest.mark.slow
def test_a_compiled_model_is_timed_with_and_without(tmp_path: Path) -> None:
    size = ["--shapes", "32x1", "--rows", "2", "--row-length", "16", "--rounds", "2"]
    program = [sys.executable, "-m", "benchmarks.qk_clip", *size, "--compiled"]
    # In a process of its own: the shape checks of this test run would be compiled with the model.
    subprocess.run([*program, "--output", str(tmp_path / "found.json")], check=True, timeout=300)
    found = json.loads((tmp_path / "found.json").read_text())["shapes"]["32x1"]
    kinds = ("without", "not measuring", "measuring")
    assert all(found[f"seconds {kind}"] > 0 for kind in kinds)
    assert set(found) == {f"seconds {kind}" for kind in kinds} | {
        f"percent {kind}" for kind in kinds[1:]
    }
