"""A damaged checkpoint is refused, or passed over for the one before, wherever weights are used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import neobert
from neobert.config.compose import compose_config
from neobert.export.__main__ import main as export
from neobert.tasks import run
from neobert.tools.embed import main as embed
from neobert.tools.mlm_predict import main as mlm_predict
from neobert.tools.pseudo_perplexity import main as pseudo_perplexity
from tests.tasks.pretraining.conftest import TINY

SMALL = [word for word in TINY if not word.startswith("scheduler.")]
SMALL += ["tokenizer.train_vocab_size=null", "trainer.max_steps=1", "trainer.save_steps=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus.txt").write_text("the river runs north of the long mountain border\n" * 60)
    words = [f"dataset.path={folder / 'corpus.txt'}", f"dataset.cache_dir={folder / 'cache'}"]
    run(compose_config([*TINY, *words, f"trainer.output_dir={folder / 'run'}"]))
    return folder / "run"


@pytest.fixture
def spoilt(trained: Path, tmp_path: Path) -> Path:
    """A copy whose checkpoint 4 has one bit flipped in its weights."""
    copy = Path(shutil.copytree(trained, tmp_path / "spoilt"))
    weights = copy / "checkpoints" / "4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 64
    weights.write_bytes(content)
    return copy


def train(*words: str) -> Callable[[Path, Path], str]:
    """The message that a run from these weights is refused with."""

    def start(model: Path, place: Path) -> str:
        own = [word.format(model) for word in words]
        output = f"trainer.output_dir={place / 'out'}"
        with pytest.raises(ValueError, match="damaged") as error:
            run(compose_config([*SMALL, "dataset.path=not-read", output, *own]))
        return str(error.value)

    return start


def tool(main: Callable[[list[str]], int], *words: str) -> Callable[[Path, Path], str]:
    """The message that a command line ends with."""

    def start(model: Path, place: Path) -> str:
        (place / "texts.txt").write_text("the river [MASK] north\n")
        texts = str(place / "texts.txt")
        errors: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            name = main.__module__
            patch.setattr(f"{name}.log.error", lambda form, *args: errors.append(form % args))
            assert main([str(model), *(word.format(texts, place) for word in words)]) in (1, 2)
        return "\n".join(errors)

    return start


ENTRIES: dict[str, Callable[[Path, Path], str]] = {
    "model.init_from": train("model.init_from={}"),
    "glue.pretrained_model_path": train("task=glue", "glue.pretrained_model_path={}"),
    "glue.pretrained_checkpoint_dir": train("task=glue", "glue.pretrained_checkpoint_dir={}"),
    "contrastive.pretrained_model_path": train(
        "task=contrastive", "contrastive.pretrained_model_path={}"
    ),
    "contrastive.pretrained_checkpoint_dir": train(
        "task=contrastive", "contrastive.pretrained_checkpoint_dir={}"
    ),
    "embed": tool(embed, "{0}", "--output", "{1}/v.npy"),
    "mlm_predict": tool(mlm_predict, "the river [MASK] north"),
    "pseudo_perplexity": tool(pseudo_perplexity, "{0}", "--output", "{1}/s.csv"),
    "export": tool(export, "--output", "{1}/model"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("place", ["checkpoint", "run"])
def test_weights_with_a_flipped_bit_are_refused(
    spoilt: Path, tmp_path: Path, entry: str, place: str
) -> None:
    shutil.rmtree(spoilt / "checkpoints" / "2")
    model = spoilt / "checkpoints" / "4" if place == "checkpoint" else spoilt
    message = ENTRIES[entry](model, tmp_path)
    assert "model.safetensors: its SHA-256 is not the recorded one" in message
    assert message.startswith(f"{entry}={model}: ") == ("." in entry)


def test_load_refuses_them_too_and_of_a_run_takes_the_one_before(
    trained: Path, spoilt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="its SHA-256 is not the recorded one"):
        neobert.load(spoilt / "checkpoints" / "4")
    with caplog.at_level("WARNING", logger="neobert"):
        model = neobert.load(spoilt)
    assert "checkpoints/4 is damaged" in caplog.text
    before = neobert.load(trained, checkpoint=2).state_dict()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_tools_take_another_checkpoint_of_a_run(trained: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "texts.txt").write_text("the river runs north\n")
    vectors = []
    for checkpoint in ("latest", "2", "4"):
        output = tmp_path / f"{checkpoint}.npy"
        words = [str(trained), str(tmp_path / "texts.txt"), "--output", str(output)]
        assert embed([*words, "--checkpoint", checkpoint]) == 0
        vectors.append(torch.from_numpy(np.load(output)))
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])
    assert mlm_predict([str(trained), "the [MASK]", "--checkpoint", "7"]) == 1
    assert "--checkpoint=7: there is no 7; " in capsys.readouterr().err
