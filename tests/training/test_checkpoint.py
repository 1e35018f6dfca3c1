import json
import logging
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neobert.errors import ConfigError, RunError
from neobert.files import sha256 as real_sha256
from neobert.model.weight_files import NoWeightsError, write_weights
from neobert.training import manifest
from neobert.training.checkpoint import (
    FolderCheckpointIO,
    load_weights,
    remove_leftovers,
    set_aside_later,
)
from neobert.training.manifest import damages, list_checkpoints
from neobert.training.start import select


def io() -> FolderCheckpointIO:
    return FolderCheckpointIO(lambda folder: (folder / "config.yaml").write_text("seed: 0\n"))


def state(value: float = 1.0, step: int = 3) -> dict[str, object]:
    shared = torch.full((4, 3), value)
    return {
        **dict.fromkeys(("loops", "lr_schedulers", "callbacks", "epoch")),
        "global_step": step,
        "optimizer_states": [{"momentum": torch.arange(3.0)}],
        "state_dict": {"model.model.encoder.weight": shared, "model.decoder.weight": shared},
    }


def save(run: Path, *steps: int) -> None:
    for step in steps:
        io().save_checkpoint(state(float(step), step), run / "checkpoints" / str(step))


def find_checkpoint(run: Path, selector: str) -> Path:
    """As a run that resumes."""
    key = "trainer.resume_from_checkpoint"
    return select(run, selector, "trainer.output_dir", key, resumable=True)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 3)
    loaded = io().load_checkpoint(tmp_path / "checkpoints" / "3")
    assert loaded["global_step"] == 3
    weights = loaded["state_dict"]
    assert torch.equal(weights["model.decoder.weight"], torch.full((4, 3), 3.0))
    assert torch.equal(weights["model.model.encoder.weight"], weights["model.decoder.weight"])
    assert torch.equal(loaded["optimizer_states"][0]["momentum"], torch.arange(3.0))


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    shared = {f"model.{name}.weight": torch.ones(2) for name in "abcdefgh"}
    weights = {**shared, **{f"{name}.again": tensor for name, tensor in shared.items()}}
    contents = set()
    for step in range(5):
        io().save_checkpoint({"state_dict": weights}, tmp_path / str(step))
        contents.add((tmp_path / str(step) / "model.safetensors").read_bytes())
        assert len(load_file(tmp_path / str(step) / "model.safetensors")) == len(shared)
        assert len(load_weights(tmp_path / str(step))) == len(weights)
    assert len(contents) == 1


def test_a_shared_tensor_is_stored_once(tmp_path: Path) -> None:
    save(tmp_path, 3)
    size = (tmp_path / "checkpoints" / "3" / "model.safetensors").stat().st_size
    assert size < 2 * 4 * 3 * 4 + 400


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    save(tmp_path, 3)
    marker = tmp_path / "run"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"x": Hostile()}, tmp_path / "checkpoints" / "3" / "trainer_state.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        io().load_checkpoint(tmp_path / "checkpoints" / "3")
    assert not marker.exists()


def test_latest_passes_over_a_damaged_checkpoint_and_names_the_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 10, 20)
    flip_a_byte(tmp_path / "checkpoints" / "20" / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(tmp_path, "latest")
    assert found == tmp_path / "checkpoints" / "10"
    assert "model.safetensors: its SHA-256" in caplog.text


def test_checkpoints_after_the_one_that_is_resumed_are_set_aside_and_kept(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for _ in range(2):
        save(tmp_path, 10, 20, 30)
        set_aside_later(checkpoints, 20)
    names = {folder.name for folder in checkpoints.iterdir()}
    assert names == {"10", "20", "30.old-1", "30.old-2"}
    assert not damages(checkpoints / "30.old-1")
    assert find_checkpoint(tmp_path, "latest") == checkpoints / "20"


@pytest.mark.parametrize("selector", ["latest", "auto", "true"])
def test_the_newest_is_the_one_with_the_largest_step(tmp_path: Path, selector: str) -> None:
    save(tmp_path, 100, 20, 3)
    assert find_checkpoint(tmp_path, selector) == tmp_path / "checkpoints" / "100"


def test_a_step_and_a_path_are_found(tmp_path: Path) -> None:
    save(tmp_path, 3, 9)
    wanted = tmp_path / "checkpoints" / "3"
    assert find_checkpoint(tmp_path, "3") == wanted
    assert find_checkpoint(tmp_path / "other", str(wanted)) == wanted
    assert find_checkpoint(tmp_path / "other", str(tmp_path)) == tmp_path / "checkpoints" / "9"
    assert find_checkpoint(tmp_path, "checkpoints/9") == tmp_path / "checkpoints" / "9"


def test_latest_of_a_run_without_checkpoints_finds_none_and_asks_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoWeightsError, match="output/run holds neither"):
        find_checkpoint(Path("output/run"), "latest")  # which looks like an id of the Hub


@pytest.mark.parametrize("broken", [(9,), (3, 9)])
def test_latest_is_an_error_where_all_checkpoints_are_damaged(
    tmp_path: Path, broken: tuple[int, ...]
) -> None:
    save(tmp_path, 3, 9)
    for step in broken:
        (tmp_path / f"checkpoints/{step}/trainer_state.pt").write_bytes(b"cut")
    if len(broken) == 1:
        assert find_checkpoint(tmp_path, "latest").name == "3"
        return
    with pytest.raises(ConfigError, match=r"all checkpoints are damaged: .*9 is.*3 is damaged"):
        find_checkpoint(tmp_path, "latest")


def test_a_named_checkpoint_that_is_damaged_is_refused_with_the_one_to_use(tmp_path: Path) -> None:
    save(tmp_path, 3, 9)
    (tmp_path / "checkpoints" / "9" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config.yaml: missing.*checkpoints/3 instead"):
        find_checkpoint(tmp_path, "9")


def test_a_missing_step_lists_those_that_are_there(tmp_path: Path) -> None:
    save(tmp_path, 3, 9)
    with pytest.raises(ConfigError, match=r"there is no 4; .*checkpoints has the steps 3, 9"):
        find_checkpoint(tmp_path, "4")


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{", "{}"])
def test_a_broken_manifest_is_damage(tmp_path: Path, content: str) -> None:
    save(tmp_path, 3)
    folder = tmp_path / "checkpoints" / "3"
    (folder / "manifest.json").write_text(content)
    assert "manifest.json: " in damages(folder)[0]


def test_a_manifest_leading_out_of_the_checkpoint_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 3)
    folder = tmp_path / "checkpoints" / "3"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["../../secret"] = manifest["config.yaml"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert any("'../../secret', which is outside" in problem for problem in damages(folder))


def test_an_unfinished_save_does_not_look_like_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 3)
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "3", checkpoints / ".incomplete-9-1234")
    (checkpoints / "5").mkdir()  # no manifest
    assert [folder.name for folder in list_checkpoints(checkpoints)] == ["3"]
    remove_leftovers(checkpoints)
    assert not (checkpoints / ".incomplete-9-1234").exists()
    assert (checkpoints / "3").is_dir()


def test_a_crash_between_the_renames_of_a_second_save_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, 3)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "3").rename(checkpoints / ".replaced-3")
    remove_leftovers(checkpoints)
    assert damages(checkpoints / "3") == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    io().save_checkpoint(state(5.0), tmp_path / "checkpoints" / "3")
    weights = io().load_checkpoint(tmp_path / "checkpoints" / "3")["state_dict"]
    assert float(weights["model.decoder.weight"][0, 0]) == 5.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_latest_names_a_half_written_folder_and_takes_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 10, 20)
    (tmp_path / "checkpoints" / "20" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(tmp_path, "latest")
    assert found == tmp_path / "checkpoints" / "10"
    assert "checkpoints/20 is damaged (manifest.json: cannot be read" in caplog.text


def test_a_damaged_step_is_refused_and_the_last_good_one_offered(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30)
    for step in ("20", "30"):
        flip_a_byte(tmp_path / "checkpoints" / step / "model.safetensors")
    with pytest.raises(ConfigError, match=r"20 is damaged: model.*use .*checkpoints/10 instead"):
        find_checkpoint(tmp_path, "20")


@pytest.mark.parametrize("limit", [200, 3000])
def test_a_full_disk_leaves_the_checkpoints_before_it_and_nothing_half_written(
    tmp_path: Path, limit: int
) -> None:
    save(tmp_path, 10)
    big = {**state(), "optimizer_states": [{"momentum": torch.zeros(2000)}]}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RunError, match=r"checkpoints/20 could not be written.*make room"):
            io().save_checkpoint(big, tmp_path / "checkpoints" / "20")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoints" / "10"


def test_digests_are_made_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = manifest.sha256
    monkeypatch.setattr(manifest, "sha256", lambda path: read.append(path.name) or real(path))
    save(tmp_path, 3)
    assert sorted(read) == ["config.yaml"]  # nothing that grows with the model
    assert damages(tmp_path / "checkpoints" / "3") == []
    read.clear()
    assert damages(tmp_path / "checkpoints" / "3", contents=False) == []
    assert read == []


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    for run in ("a", "b"):
        save(tmp_path / run, 3)
    one, two = ((tmp_path / run / "checkpoints" / "3" / "manifest.json") for run in ("a", "b"))
    assert (
        json.loads(one.read_text())["model.safetensors"]
        == json.loads(two.read_text())["model.safetensors"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_weights_of_every_type_and_shape_are_read_back_by_safetensors(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    given = {
        "scalar": torch.tensor(3, dtype=dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "matrix": torch.arange(6).reshape(2, 3).to(dtype).T,
        "half": torch.ones(3, dtype=torch.float16),
    }
    digest = write_weights(given, tmp_path / "w.safetensors", {"format": "pt", "é": "b"})
    assert digest == real_sha256(tmp_path / "w.safetensors")
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in given.items())
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {
        name: tensor.dtype for name, tensor in given.items()
    }
