"""Runs from settings to run folder: they learn, resume exactly, and their encoder loads."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from neobert.errors import ConfigError
from neobert.tasks import run
from neobert.tasks.contrastive.data import ContrastiveDataModule, held_out_rows
from neobert.tasks.contrastive.prepared_pairs import PAIRS, pair_encoder, prepare_sources
from neobert.training.start import open_weights
from tests.tasks.conftest import Watch
from tests.tasks.contrastive.conftest import pairs, write_jsonl


def finished(config) -> Path:
    run(config)
    return Path(config.trainer.output_dir)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def column(folder: Path, name: str) -> dict[int, float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def weights(folder: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / str(step) / "model.safetensors")


@pytest.mark.parametrize("loss", ["simcse", "supcon"])
@pytest.mark.proves("contrastive.loss_type", "dataset.validation_split")
def test_training_teaches_to_find_held_out_pairs(settings, loss: str):
    folder = finished(
        settings(
            f"contrastive.loss_type={loss}",
            "trainer.max_steps=40",
            "trainer.eval_steps=40",
            "trainer.save_steps=40",
            "trainer.logging_steps=20",
            "trainer.per_device_train_batch_size=32",
            "optimizer.lr=1e-2",
        )
    )
    found = summary(folder)
    assert found["after"]["eval/mrr_at_10"] > found["before"]["eval/mrr_at_10"] + 0.1
    assert found["after"]["eval/loss"] < found["before"]["eval/loss"]
    assert found["objective"] == found["after"]["eval/mrr_at_10"]
    assert found["pairs"] == 40 * 32
    assert column(folder, "train/own_batches")[40] == 20


def test_the_checkpoint_is_an_encoder_with_its_settings_and_tokenizer(settings, model_folder):
    from neobert.export.source import read_source

    folder = finished(settings("contrastive.pooling=cls", "trainer.eval_strategy=no"))
    source = read_source(folder)
    assert source.kind == "encoder"
    assert source.settings.contrastive.pooling == "cls"
    assert source.settings.model.hidden_size == 32
    assert source.tokenizer.get_vocab()["river"] == 5
    trained, before = open_weights(folder).encoder(), open_weights(model_folder).encoder()
    assert trained.state_dict().keys() == before.state_dict().keys()
    name = "transformer_encoder.0.qkv.weight"
    assert not torch.equal(trained.state_dict()[name], before.state_dict()[name])


@pytest.mark.proves("pretrained_checkpoint", "contrastive.pretrained_checkpoint_dir")
def test_a_run_starts_from_the_checkpoint_of_another_that_is_named(settings, tmp_path: Path):
    first = finished(
        settings("trainer.eval_steps=2", "trainer.load_best_model_at_end=true", "optimizer.lr=1e-2")
    )
    best = summary(first)["best"]["step"]
    for which, step in (("2", 2), ("latest", 4), ("best", best)):
        again = finished(
            settings(
                "contrastive.pretrained_model_path=null",
                f"contrastive.pretrained_checkpoint_dir={first}",
                f"pretrained_checkpoint={which}",
                f"trainer.output_dir={tmp_path / which}",
                "trainer.max_steps=1",
                "optimizer.lr=1e-9",
            )
        )
        for name, tensor in weights(again, 1).items():
            torch.testing.assert_close(tensor, weights(first, step)[name], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="there is no 3"):
        run(
            settings(
                "contrastive.pretrained_model_path=null",
                f"contrastive.pretrained_checkpoint_dir={first}",
                "pretrained_checkpoint=3",
            )
        )


CASES = {
    "simcse steps, negatives, GradCache": ("contrastive.micro_batch_size=4",),
    "mlm steps, a corpus of their own, workers, accumulation": (
        "contrastive.pretraining_step=mlm",
        "contrastive.pretraining_dataset=CORPUS",
        "trainer.dataloader_num_workers=1",
        "trainer.gradient_accumulation_steps=2",
        "optimizer=muonclip",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_resumed_run_ends_as_the_undisturbed_one(settings, tmp_path: Path, case):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a long river is north of the city\nthe old harbour is busy here\n" * 20)
    words = [
        *(word.replace("CORPUS", str(corpus)) for word in case),
        "dataset.pretraining_prob=0.4",
        "trainer.log_batch_digests=true",
    ]
    undisturbed = finished(settings(*words))
    stopped = tmp_path / "stopped"
    shutil.copytree(undisturbed, stopped)
    shutil.rmtree(stopped / "checkpoints" / "4")
    resume = [f"trainer.output_dir={stopped}", "trainer.resume_from_checkpoint=latest"]
    finished(settings(*words, *resume, "contrastive.pretrained_model_path=/no/longer/there"))
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(stopped)[name]), name
    for file in ("batches-0.csv",):
        assert (undisturbed / file).read_text() == (stopped / file).read_text()
    assert summary(undisturbed)["after"] == summary(stopped)["after"]
    others = ("contrastive.temperature=0.1", "contrastive.hard_negative_weight=1.0")
    with pytest.raises(ConfigError) as error:
        run(settings(*words, *resume, *others))
    for key in ("contrastive.temperature", "contrastive.hard_negative_weight"):
        assert f"{key} differs" in str(error.value)


@pytest.mark.proves("contrastive.pretraining_dataset", "contrastive.pretraining_step")
def test_pretraining_steps_are_logged_apart(settings, tmp_path: Path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a long river is north of the city\nthe old harbour is busy here\n" * 20)
    folder = finished(
        settings(
            "dataset.pretraining_prob=1",
            "contrastive.pretraining_step=mlm",
            f"contrastive.pretraining_dataset={corpus}",
            "trainer.max_steps=2",
            "trainer.eval_strategy=no",
        )
    )
    assert column(folder, "train/pretraining_batches") == {1: 1, 2: 1}
    assert column(folder, "train/loss") == {}
    losses = column(folder, "train/pretraining_loss").values()
    assert all(loss == pytest.approx(4.85, abs=0.3) for loss in losses)  # ln 128


@pytest.mark.proves("trainer.metric_for_best_model", "trainer.load_best_model_at_end")
def test_the_best_model_is_that_of_the_best_evaluation(settings):
    folder = finished(settings("trainer.eval_steps=1", "trainer.load_best_model_at_end=true"))
    scores = {step: one for step, one in column(folder, "eval/mrr_at_10").items() if step > 0}
    best = summary(folder)["best"]
    assert best["value"] == max(scores.values())
    assert scores[best["step"]] == best["value"]
    assert summary(folder)["after"]["eval/mrr_at_10"] == best["value"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("contrastive.temperature=0",), "contrastive.temperature=0.0: must be greater than 0"),
        (("contrastive.pooling=median",), "contrastive.pooling=median: must be one of avg, cls"),
        (("contrastive.loss_type=triplet",), "loss_type=triplet: must be one of simcse, supcon"),
        (("dataset.name=nothing",), "dataset.name=nothing: is no source of pairs"),
        (("dataset.pretraining_prob=1.5",), "pretraining_prob=1.5: must be between 0 and 1"),
        (("dataset.alpha=0",), "dataset.alpha=0.0: must be greater than 0"),
        (
            ("trainer.per_device_train_batch_size=1",),
            "give batches of 1, in which a pair has no negatives; at least 2",
        ),
        (
            ("dataset.pretraining_prob=0.3", "model.dropout_prob=0"),
            "unsupervised SimCSE needs dropout",
        ),
    ],
)
def test_bad_settings_are_one_clear_error(settings, words, message):
    with pytest.raises(ConfigError, match=message):
        run(settings(*words))


def test_a_source_of_one_pair_is_refused(settings, tmp_path: Path):
    file = write_jsonl(tmp_path / "one.jsonl", pairs(1))
    with pytest.raises(ConfigError, match="source own: 1 training pairs"):
        run(
            settings(
                f"contrastive.sources={{own:{{path:{file},query:question,positive:answer}}}}",
                "dataset.validation_split=null",
            )
        )


def test_a_single_held_out_pair_is_trained_on_and_a_folder_with_others_evaluates(
    settings, info, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def source(path: Path) -> str:
        return f"contrastive.sources={{own:{{path:{path},query:question,positive:answer}}}}"

    rows = [{"question": f"river {row}", "answer": f"city {row}"} for row in range(80)]
    (tmp_path / "data").mkdir()
    file = write_jsonl(tmp_path / "data/pairs.jsonl", rows)
    config = settings(source(file))
    (prepared,) = prepare_sources(config, pair_encoder(config, info))
    table = Dataset.from_file(str(prepared.folder / PAIRS))
    shares = (number / 1000 for number in range(1000))
    share = next(share for share in shares if held_out_rows(table, share).sum() == 1)
    with caplog.at_level("INFO", logger="neobert"):
        config = settings(source(file), f"dataset.validation_split={share}")
        ContrastiveDataModule(config, info).setup("fit")
    assert "own: 80 pairs to train on, 0 to evaluate on" in caplog.text
    assert "fewer than 2 of 80 pairs are held out" in caplog.text
    assert "let contrastive.sources.own.path be a folder that has a val.jsonl" in caplog.text
    write_jsonl(tmp_path / "data/val.jsonl", rows[:2])
    with caplog.at_level("INFO", logger="neobert"):
        config = settings(source(file.parent), f"dataset.validation_split={share}")
        ContrastiveDataModule(config, info).setup("fit")
    assert "own: 80 pairs to train on, 2 to evaluate on" in caplog.text


@pytest.mark.parametrize("words", [(), ("trainer.gradient_accumulation_steps=2",)])
def test_a_steady_step_reads_nothing_back(settings, watch: Watch, words: tuple[str, ...]) -> None:
    quiet = ("trainer.logging_steps=100", "trainer.eval_strategy=no", "trainer.save_strategy=no")
    steps = ("trainer.max_steps=10", "trainer.gradient_clipping=1.0", "trainer.log_grad_norm=true")
    run(settings(*quiet, *steps, *words))
    assert watch.reads.places == []
