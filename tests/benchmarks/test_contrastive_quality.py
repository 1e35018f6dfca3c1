"""sentence-transformers on the batches of a run: the same pairs, and nearly the same weights."""

import json
import random
from pathlib import Path

import pytest
import torch

from benchmarks.contrastive_quality import (
    HELD_OUT,
    all_texts,
    main,
    pairs_in_order,
    write_held_out,
)
from neobert.config.compose import compose_config
from neobert.config.store import save_config
from neobert.tasks import run
from neobert.tasks.contrastive.data import ContrastiveDataModule
from neobert.tasks.contrastive.pair_encoder import text_number
from neobert.tasks.contrastive.starting_model import open_start
from neobert.training.start import open_weights
from tests.tools.conftest import WORDS


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    """A run of 5 steps on 120 pairs of different texts, of which some are held out."""
    draw = random.Random(0)
    texts = {" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(240)}
    queries, answers = sorted(texts)[::2], sorted(texts)[1::2]
    rows = [{"q": one, "a": two} for one, two in zip(queries, answers, strict=False)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "task=contrastive",
        "dataset.name=own",
        f"contrastive.sources={{own:{{path:{file},query:q,positive:a}}}}",
        f"contrastive.pretrained_model_path={model_folder}",
        f"dataset.path={tmp_path / 'prepared'}",
        "dataset.max_seq_length=16",
        "dataset.pretraining_prob=0",
        "dataset.validation_split=0.2",
        "model.dropout_prob=0",
        "optimizer.lr=1e-3",
        "trainer.per_device_train_batch_size=16",
        "trainer.max_steps=5",
        "trainer.eval_strategy=no",
        "trainer.save_steps=5",
        "trainer.mixed_precision=no",
        "trainer.tune_cpu=false",
        "trainer.disable_tqdm=true",
        f"trainer.output_dir={tmp_path / 'run'}",
    ]


@pytest.mark.filterwarnings("default")  # of sentence-transformers
def test_the_twin_of_a_run_ends_on_nearly_the_same_weights(
    words: list[str], model_folder: Path, tmp_path: Path
) -> None:
    run(compose_config(words))
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "twin")]) == 0
    start, ours, theirs = (
        torch.cat(
            [tensor.flatten() for tensor in open_weights(folder).encoder().state_dict().values()]
        )
        for folder in (model_folder, tmp_path / "run", tmp_path / "twin")
    )
    moved = float((ours - start).norm())
    assert moved > 0.01

    assert float((ours - theirs).norm()) < 0.01 * moved


def test_the_twin_s_pairs_are_those_of_the_run_in_their_order_and_none_is_held_out(
    words: list[str], tmp_path: Path
) -> None:
    start = open_start(compose_config(words), None)
    data = ContrastiveDataModule(start.config, start.tokenizer)
    data.setup("fit")
    texts = all_texts(start.config)
    pairs = list(pairs_in_order(data, texts))
    batches = [data.train_dataloader().batches[number] for number in range(5)]
    hashes = [text for batch in batches for text in batch.query_texts.tolist()]
    assert [text_number(one.query) for one in pairs] == hashes
    assert len(pairs) == 5 * 16
    write_held_out(data, texts, tmp_path / HELD_OUT)
    rows = [json.loads(line) for line in (tmp_path / HELD_OUT).read_text().splitlines()]
    assert len(rows) > 10
    answers = {one.query: one.positive for one in texts["own"]}
    assert all(answers[row["query"]] == row["document"] for row in rows)
    assert not {row["query"] for row in rows} & {one.query for one in pairs}


@pytest.mark.parametrize(
    "word",
    ["contrastive.loss_type=supcon", "optimizer.name=adam", "dataset.pretraining_prob=0.5"],
)
def test_a_run_without_a_twin_is_refused_in_a_line(
    word: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "refused"
    folder.mkdir()
    save_config(compose_config([*words, "model.dropout_prob=0.1", word]), folder / "config.yaml")
    assert main([str(folder), "--output", str(tmp_path / "twin")]) == 2
    key, value = word.split("=")
    assert f"{key}={value}: a twin needs a run with" in capsys.readouterr().err
    assert not (tmp_path / "twin").exists()
