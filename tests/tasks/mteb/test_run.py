"""Scores beside the run, finished tasks left alone, one clear line for what goes wrong."""

import json
from pathlib import Path

import pytest

import neobert
from neobert.errors import ConfigError, RunError
from neobert.model.encode import TextEncoder
from neobert.tasks.mteb.run import run_mteb


def results(folder: Path) -> dict[str, Path]:
    return {
        path.stem: path
        for path in folder.glob("mteb/*/results/*/*/*.json")
        if path.stem != "model_meta"
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "mteb" not in path.relative_to(folder).parts
    }


@pytest.mark.proves("task", "mteb_task_type", "trainer.output_dir")
def test_the_packaged_tasks_are_better_than_chance_with_random_embeddings(
    make_run, compose
) -> None:
    folder = make_run()
    before = contents(folder)
    mean = run_mteb(compose(f"trainer.output_dir={folder}", "mteb_task_type=local"))
    assert contents(folder) == before
    summary = json.loads((folder / "mteb/20/summary.json").read_text())
    scores = {name: one["score"] for name, one in summary["tasks"].items()}
    assert mean == pytest.approx(sum(scores.values()) / 5)
    assert sorted(results(folder)) == sorted(scores)
    floors = {  # about what guessing gets; retrieval left out, whose questions share no words
        "FactbookSections": 0.25,
        "FactbookFields": 0.60,
        "FactbookPairs": 0.60,
        "FactbookSTS": 0.20,
    }
    assert {name for name, floor in floors.items() if scores[name] <= floor} == set()
    assert (folder / "mteb/20/config.yaml").is_file()
    assert json.loads((folder / "mteb/20/own_tasks.json").read_text())["FactbookSTS"] == "STS"


@pytest.mark.proves("mteb_overwrite_results")
def test_a_finished_task_is_run_again_only_if_asked(
    make_run, compose, local_sts, monkeypatch, caplog
) -> None:
    folder = make_run()
    words = [f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts]
    with caplog.at_level("INFO", logger="neobert"):
        first = run_mteb(compose(*words))
    assert "mteb/20: 1 task with " in caplog.text
    (file,) = results(folder).values()
    written = file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.delattr(TextEncoder, "encode")  # whoever encodes fails
        assert run_mteb(compose(*words)) == first
    assert file.stat().st_mtime_ns == written
    assert run_mteb(compose(*words, "mteb_overwrite_results=true")) == first
    assert file.stat().st_mtime_ns > written


def test_the_command_that_evaluates_a_run_finds_its_finished_tasks(
    make_run, compose, local_sts, monkeypatch
) -> None:
    folder = make_run()
    first = run_mteb(compose(f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts))
    (folder.parent / "elsewhere").mkdir()  # the run's own settings have another output_dir, too
    moved = folder.rename(folder.parent / "elsewhere" / folder.name)
    monkeypatch.delattr(TextEncoder, "encode")
    words = ["task=mteb", "trainer.use_cpu=true", "mteb_task_type=local", local_sts]
    assert neobert.evaluate(moved, words) == {"Pairs": first}
    assert [path.name for path in (moved / "mteb").iterdir()] == ["20"]


def test_changed_data_is_evaluated_anew(make_run, compose, local_sts, sts_file) -> None:
    folder = make_run()
    words = [f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts]
    first = run_mteb(compose(*words))
    lines = sts_file.read_text().splitlines()
    sts_file.write_text("\n".join(lines[: len(lines) // 2]))
    assert run_mteb(compose(*words)) != first


def test_a_failing_task_is_told_at_the_end_and_loses_no_other(make_run, compose, local_sts) -> None:
    folder = make_run()
    words = [f"trainer.output_dir={folder}", "mteb_task_type='STS12,local'", local_sts]
    with pytest.raises(RunError) as error:
        run_mteb(compose(*words))
    first, last = error.value.problems
    assert first.startswith("STS12 failed: ")  # tests have no network
    assert "1 of 2 tasks failed" in last
    assert list(results(folder)) == ["Pairs"]
    summary = json.loads((folder / "mteb/20/summary.json").read_text())
    assert summary["tasks"]["STS12"]["score"] is None
    assert summary["tasks"]["Pairs"]["score"] > 0


@pytest.mark.proves("mteb_pooling", "mteb_max_length", "mteb_prompts", "tokenizer.max_length")
def test_whatever_changes_vectors_has_results_of_its_own(make_run, compose, local_sts) -> None:
    folder = make_run()
    words = [f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts]
    assert run_mteb(compose(*words, "mteb_pooling=mean")) == run_mteb(
        compose(*words, "mteb_pooling=avg")
    )
    assert len(list(folder.glob("mteb/20/results/*/*/Pairs.json"))) == 1
    changes = [
        "mteb_pooling=cls",
        "mteb_pooling=max",
        "mteb_max_length=6",
        "tokenizer.max_length=7",
        "mteb_prompts={STS: 'the river '}",
    ]
    for change in changes:
        run_mteb(compose(*words, change))
    files = list(folder.glob("mteb/20/results/*/*/Pairs.json"))
    assert len(files) == 1 + len(changes)
    scores = [json.loads(file.read_text())["scores"]["test"][0]["pearson"] for file in files]
    assert len(set(scores)) == len(scores)


@pytest.mark.proves("pretrained_checkpoint")
def test_the_checkpoint_is_the_one_that_was_asked_for(make_run, compose, local_sts) -> None:
    folder = make_run(steps=(10, 20, 30))
    words = [f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts]
    for selector, step in (("latest", "30"), ("best", "10"), ("20", "20")):
        run_mteb(compose(*words, f"pretrained_checkpoint={selector}"))
        assert (folder / "mteb" / step / "summary.json").is_file()
    with pytest.raises(ConfigError, match=r"there is no 25; .* has the steps 10, 20, 30"):
        run_mteb(compose(*words, "pretrained_checkpoint=25"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mteb_pooling=median", "mteb_pooling=median: must be one of mean, avg, cls, max"),
        ("mteb_batch_size=0", "mteb_batch_size=0: must be at least 1"),
        ("mteb_max_length=2", "mteb_max_length=2: must be at least 3"),
        ("mteb_task_type=STSbenchmrk", "did you mean STSBenchmark"),
        ("mteb_task_type='MTEB(english)'", "mteb_task_type=MTEB(english): is neither one of"),
        ("mteb_prompts={Retrival_: x}", "mteb_prompts.Retrival_: must be query, document, a type"),
        ("trainer.output_dir=nowhere", "trainer.output_dir=nowhere is no run with checkpoints"),
        ("mteb_model=nowhere", "mteb_model=nowhere: nowhere holds neither model.safetensors"),
        ("mteb_model=nobody/nothing", "the Hugging Face Hub does not give it"),
        ("model.from_hub=true", "model.from_hub=true needs model.name"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_line(
    make_run, compose, local_sts, word, message
) -> None:
    folder = make_run()
    words = [f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts]
    with pytest.raises(ConfigError) as error:
        run_mteb(compose(*words, word))
    assert len(error.value.problems) == 1
    assert message in str(error.value)


def test_a_run_without_a_complete_checkpoint_is_named(make_run, compose, local_sts) -> None:
    folder = make_run()
    (folder / "checkpoints/20/manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"all checkpoints are damaged: .*manifest\.json"):
        run_mteb(compose(f"trainer.output_dir={folder}", "mteb_task_type=local", local_sts))
