"""DeepSpeed ZeRO folders give the weights they were saved from, and cannot run code.

The folders in ``golden/zero`` were saved by DeepSpeed 0.19.8 with two processes (gloo, SGD): stage
2 of a MaskedLM, stage 3 of a module that has it as ``model``, as a LightningModule has.
``reference.safetensors`` is the state dict of that MaskedLM.
"""

import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import neobert
from neobert.model.weight_files import PretrainedError
from neobert.training.start import open_weights

GOLDEN = Path(__file__).parents[1] / "golden/zero"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose step 20 DeepSpeed saved, as Accelerate nests it."""
    step = tmp_path / "run/checkpoints/20"
    shutil.copytree(GOLDEN / "stage2/20", step / "pytorch_model")
    (step / "pytorch_model/config.yaml").rename(step / "config.yaml")
    return tmp_path / "run"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("folder", ["stage2", "stage2/20", "stage3", "stage3/20"])
def test_the_pieces_are_put_together_exactly(folder) -> None:
    pytest.importorskip("deepspeed")
    expected = load_file(GOLDEN / "reference.safetensors")
    model = neobert.load(GOLDEN / folder)
    assert model.decoder.weight is model.model.encoder.weight
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_with_nested_pieces_is_read(run, capsys) -> None:
    pytest.importorskip("deepspeed")
    expected = load_file(GOLDEN / "reference.safetensors")
    encoder = open_weights(run).encoder()
    assert torch.equal(encoder.encoder.weight, expected["model.encoder.weight"])
    assert capsys.readouterr().out == "", "standard output is for results"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim"])
def test_pickled_code_is_refused_and_does_not_run(run, tmp_path, name) -> None:
    pytest.importorskip("deepspeed")

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "was-run",)

    (file,) = (run / "checkpoints/20/pytorch_model").glob(f"{name}*")
    torch.save({"optimizer_state_dict": Bomb(), "module": Bomb()}, file, pickle_module=pickle)
    with pytest.raises(PretrainedError, match="pytorch_model"):
        neobert.load(run)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_piece_that_is_missing_or_cut_is_an_error(run) -> None:
    pytest.importorskip("deepspeed")
    pieces = run / "checkpoints/20/pytorch_model"
    last = pieces / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(PretrainedError, match="DeepSpeed cannot put it together"):
        neobert.load(run)
    last.unlink()
    with pytest.raises(PretrainedError, match="DeepSpeed cannot put it together"):
        neobert.load(run)


def test_without_deepspeed_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setitem(sys.modules, "deepspeed.utils.zero_to_fp32", None)
    with pytest.raises(PretrainedError, match=r"pip install 'neobert\[deepspeed\]'"):
        neobert.load(GOLDEN / "stage2/20")


def test_the_tag_cannot_lead_out_of_the_folder(tmp_path) -> None:
    shutil.copytree(GOLDEN / "stage2/20", tmp_path / "elsewhere")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/latest").write_text("../elsewhere")
    with pytest.raises(PretrainedError, match=r"names '\.\./elsewhere'"):
        neobert.load(tmp_path / "model")
