"""The benchmark of optimizer steps measures every variant on the same matrices."""

import json
from pathlib import Path

from benchmarks.optimizers import main


def measured(output: Path, *words: str) -> dict:
    size = ["--hidden-size", "64", "--layers", "2", "--rounds", "1"]
    main([*size, *words, "--output", str(output)])
    return json.loads(output.read_text())


def test_every_variant_is_timed_and_compared_with_torchs_loop(tmp_path: Path) -> None:
    found = measured(tmp_path / "found.json")
    loop = found["seconds"]["torch.optim.Muon + AdamW"]
    assert found["matrices"] == 10
    assert set(found["seconds"]) == set(found["ratio to torch.optim.Muon"])
    assert len(found["seconds"]) == 5
    for name, seconds in found["seconds"].items():
        assert seconds > 0
        assert abs(found["ratio to torch.optim.Muon"][name] - seconds / loop) < 0.05


def test_torchs_loop_may_be_measured_on_fewer_layers(tmp_path: Path) -> None:
    found = measured(tmp_path / "found.json", "--torch-layers", "1")
    assert (found["model"], found["layers of torch's loop"]) == ("64 x 2", 1)
    assert found["ratio to torch.optim.Muon"]["torch.optim.Muon + AdamW"] == 1
