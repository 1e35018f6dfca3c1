"""Which weights a run starts from, and that nothing that does not fit is loaded."""

import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from neobert.batch import PackedBatch
from neobert.errors import ConfigError
from neobert.model.heads import SequenceClassifier
from neobert.tasks.glue.classifier import build_classifier
from neobert.tasks.glue.starting_weights import find_start
from neobert.tasks.glue.tasks import TASKS
from tests.tasks.glue.conftest import Settings, make_tokenizer


@pytest.fixture
def folder(encoder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder that a test may spoil."""
    return Path(shutil.copytree(encoder_folder, tmp_path / "copy"))


def run_with(steps: list[int], encoder_folder: Path, run: Path) -> Path:
    for step in steps:
        shutil.copytree(encoder_folder, run / "checkpoints" / str(step))
    return run


@pytest.mark.proves("glue.pretrained_model_path")
def test_the_weights_of_a_folder_are_all_used(
    settings: Settings, encoder_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(f"glue.pretrained_model_path={encoder_folder}")
    with caplog.at_level("INFO", logger="neobert"):
        start = find_start(config)
    assert f"starting from {encoder_folder}: 32 × 2; shape and vocabulary" in caplog.text
    assert find_start(settings(f"model.init_from={encoder_folder}")).record == start.record
    model, _ = build_classifier(config, start, TASKS["sst2"])
    stored = load_file(encoder_folder / "model.safetensors")
    own = model.state_dict()
    encoder = [name for name in own if name.startswith("model.")]
    assert len(encoder) == len([name for name in stored if name.startswith("model.")])
    assert all(torch.equal(own[name], stored[name]) for name in encoder)
    assert start.record["folder"] == str(encoder_folder)
    assert len(str(start.record["sha256"])) == 64


@pytest.mark.proves(
    "glue.pretrained_checkpoint_dir", "glue.pretrained_checkpoint", "pretrained_checkpoint"
)
@pytest.mark.parametrize(
    ("words", "step"),
    [
        ([], "30"),
        (["glue.pretrained_checkpoint=20"], "20"),
        (["glue.pretrained_checkpoint=latest", "pretrained_checkpoint=10"], "30"),
        (["pretrained_checkpoint=10"], "10"),
    ],
)
def test_a_checkpoint_is_chosen(
    settings: Settings, encoder_folder: Path, tmp_path: Path, words: list[str], step: str
) -> None:
    run = run_with([10, 20, 30], encoder_folder, tmp_path / "run-before")
    start = find_start(settings(f"glue.pretrained_checkpoint_dir={run}", *words))
    assert start.weights is not None
    assert start.weights.folder == run / "checkpoints" / step


@pytest.mark.proves("glue.allow_random_weights")
def test_a_random_start_must_be_asked_for(settings: Settings, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    words = [f"tokenizer.path={tmp_path / 'tokenizer'}", "model.hidden_size=32"]
    words += ["model.num_hidden_layers=1", "model.num_attention_heads=2"]
    with pytest.raises(ConfigError, match=r"allow_random_weights=true to learn from a random"):
        find_start(settings(*words))
    start = find_start(settings(*words, "glue.allow_random_weights=true"))
    assert (start.kind, start.model.hidden_size, start.model.vocab_size) == ("random", 32, 128)


def test_a_config_file_may_lend_its_architecture_alone(
    settings: Settings, encoder_folder: Path, tmp_path: Path
) -> None:
    run = run_with([5], encoder_folder, tmp_path / "before")
    (run / "config.yaml").write_text("model: {hidden_size: 32}\n")
    words = [f"glue.pretrained_model_path={run / 'config.yaml'}"]
    assert find_start(settings(*words)).kind == "encoder"
    start = find_start(settings(*words, "glue.allow_random_weights=true"))
    assert (start.kind, start.model.hidden_size, start.weights) == ("random", 32, None)


@pytest.mark.proves("model.dropout_prob")
def test_dropout_and_backend_are_the_runs_own(settings: Settings, encoder_folder: Path) -> None:
    words = [f"glue.pretrained_model_path={encoder_folder}", "model.dropout_prob=0.2"]
    assert find_start(settings(*words)).model.dropout_prob == 0.2


@pytest.mark.proves("glue.classifier_activation", "glue.classifier_pooling")
def test_the_head_has_the_chosen_activation_and_pooling(
    settings: Settings, encoder_folder: Path
) -> None:
    batch = PackedBatch.from_documents([[2, 5, 3], [2, 9, 8, 3]])

    def scores(*words: str) -> Tensor:
        config = settings(f"glue.pretrained_model_path={encoder_folder}", *words)
        torch.manual_seed(0)
        model = build_classifier(config, find_start(config), TASKS["mnli"])[0].eval()
        assert ("dense.weight" in model.state_dict()) == ("none" not in str(words))
        return model(batch).detach()

    ways = [(), ("avg",), ("cls", "gelu"), ("avg", "gelu"), ("mean", "none")]
    keys = ("glue.classifier_pooling", "glue.classifier_activation")
    found = [
        scores(*(f"{key}={value}" for key, value in zip(keys, way, strict=False))) for way in ways
    ]
    for first, second in combinations(found, 2):
        assert not torch.allclose(first, second, atol=1e-4)


@pytest.mark.proves("glue.classifier_dropout", "glue.classifier_init_range")
def test_the_head_is_as_asked_for(settings: Settings, encoder_folder: Path) -> None:
    config = settings(
        f"glue.pretrained_model_path={encoder_folder}",
        "glue.classifier_dropout=0.4",
        "glue.classifier_init_range=0.5",
    )
    model, _ = build_classifier(config, find_start(config), TASKS["mnli"])
    assert isinstance(model, SequenceClassifier)
    assert model.dropout.p == 0.4
    assert model.classifier.weight.shape == (3, 32)
    assert 0.4 < model.dense.weight.std().item() < 0.6


@pytest.mark.proves("model.classifier_init_range", "glue.classifier_init_range")
@pytest.mark.parametrize(
    ("words", "spread"),
    [
        (["model.classifier_init_range=0.3"], 0.3),
        (["model.classifier_init_range=0.3", "glue.classifier_init_range=0.02"], 0.02),
        (["glue.classifier_init_range=0.2", "model.classifier_init_range=0.3"], 0.2),
    ],
)
def test_the_head_s_spread_is_the_model_s_where_glue_sets_none(
    settings: Settings, encoder_folder: Path, words: list[str], spread: float
) -> None:
    config = settings(f"glue.pretrained_model_path={encoder_folder}", *words)
    model, _ = build_classifier(config, find_start(config), TASKS["mnli"])
    assert isinstance(model, SequenceClassifier)
    assert model.dense is not None
    assert model.dense.weight.std().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.proves("glue.pretrained_checkpoint", "pretrained_checkpoint")
@pytest.mark.parametrize("key", ["glue.pretrained_checkpoint", "pretrained_checkpoint"])
def test_the_checkpoint_of_a_model_path_is_chosen_too(
    settings: Settings, encoder_folder: Path, tmp_path: Path, key: str
) -> None:
    run = run_with([10, 20, 30], encoder_folder, tmp_path / "before")
    start = find_start(settings(f"glue.pretrained_model_path={run}", f"{key}=20"))
    assert start.record["folder"] == str(run / "checkpoints/20")
    with pytest.raises(ConfigError, match=rf"^{key}=25: there is no 25; .* steps 10, 20, 30"):
        find_start(settings(f"glue.pretrained_model_path={run}", f"{key}=25"))
    with pytest.raises(ConfigError, match=rf"^{key}=20: .* is one set of weights.*leave {key} out"):
        find_start(settings(f"glue.pretrained_model_path={run / 'checkpoints/10'}", f"{key}=20"))


def test_a_key_that_loses_against_another_is_reported(
    settings: Settings, encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with([10], encoder_folder, tmp_path / "before")
    (run / "config.yaml").write_text("model: {hidden_size: 32}\n")
    place = f"glue.pretrained_checkpoint_dir={run}"
    with caplog.at_level("WARNING", logger="neobert"):
        find_start(settings(place, f"glue.pretrained_model_path={run / 'config.yaml'}"))
        assert not caplog.text  # as in the configuration reference: both name one run
        find_start(settings(place, f"glue.pretrained_model_path={encoder_folder}"))
        find_start(settings(place, "glue.allow_random_weights=true"))
    assert f"glue.pretrained_model_path={encoder_folder} has no effect" in caplog.text
    assert f"glue.allow_random_weights=True has no effect: {place} names" in caplog.text


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["pretrained_checkpoint=best", "glue.allow_random_weights=true"], "no key names a run"),
        (["glue.pretrained_checkpoint=3", "model.from_hub=true"], "no key names a run"),
        (["task=pretraining", "pretrained_checkpoint=3"], "model.init_from names no run"),
        (
            ["pretrained_checkpoint=2", "glue.pretrained_checkpoint=3"],
            "glue.pretrained_checkpoint is set",
        ),
        (["pretrained_checkpoint=2", "glue.pretrained_model_path=run"], None),
        (["task=pretraining", "pretrained_checkpoint=3", "model.init_from=run"], None),
    ],
)
def test_a_selector_without_a_run_is_reported(
    settings: Settings, caplog: pytest.LogCaptureFixture, words: list[str], reported: str | None
) -> None:
    with caplog.at_level("WARNING", logger="neobert"):
        settings(*words)
    if reported is None:
        assert "checkpoint has no effect" not in caplog.text
    else:
        assert f"pretrained_checkpoint has no effect: {reported}" in caplog.text
