"""The mask rate of a run moves with its step, from the settings to the batches."""

import json
import random
from pathlib import Path

import pytest

from neobert.config.compose import compose_config
from neobert.tasks.pretraining.data import PretrainingDataModule


def data(corpus: Path, cache: Path, *settings: str) -> PretrainingDataModule:
    made = PretrainingDataModule(
        compose_config(
            [
                "dataset=local",
                f"dataset.path={corpus / 'corpus.txt'}",
                f"dataset.cache_dir={cache}",
                "dataset.num_workers=0",
                "dataset.max_seq_length=32",
                "datacollator.pack_sequences=true",
                "datacollator.mlm_probability=0.2",
                "datacollator.mask_all=true",
                "tokenizer.train_vocab_size=128",
                "trainer.per_device_train_batch_size=32",
                "trainer.gradient_accumulation_steps=2",
                "trainer.max_steps=6",
                *settings,
            ]
        )
    )
    made.setup("fit")
    return made


def rates(module: PretrainingDataModule) -> list[float]:
    """Targets per token of each micro-batch, its special tokens counted too."""
    batches = list(module.train_dataloader())
    assert len({len(batch.labels) for batch in batches}) == 1  # static shapes
    return [batch.num_targets / batch.inputs.num_tokens for batch in batches]


SCHEDULE = "datacollator.mlm_schedule={0%:0.5,100%:0.1}"


def test_the_rate_falls_over_the_run(tiny_corpus: Path, tmp_path: Path) -> None:
    flat = rates(data(tiny_corpus, tmp_path))
    falling = rates(data(tiny_corpus, tmp_path, SCHEDULE))
    ratios = [moved / still for moved, still in zip(falling, flat, strict=True)]
    expected = [2.5, 2.5, 2.17, 2.17, 1.83, 1.83, 1.5, 1.5, 1.17, 1.17, 0.83, 0.83]
    assert ratios == pytest.approx(expected, abs=0.15)


def test_a_rate_in_steps_holds_until_the_next_place(tiny_corpus: Path, tmp_path: Path) -> None:
    stepped = rates(
        data(
            tiny_corpus,
            tmp_path,
            "datacollator.mlm_schedule={0%:0.5,50%:0.1}",
            "datacollator.mlm_schedule_shape=steps",
        )
    )
    flat = rates(data(tiny_corpus, tmp_path))
    ratios = [moved / still for moved, still in zip(stepped, flat, strict=True)]
    assert ratios == pytest.approx([2.5] * 6 + [0.5] * 6, abs=0.15)


def test_evaluation_is_always_at_mlm_probability(tiny_corpus: Path, tmp_path: Path) -> None:
    counts = []
    for settings in ([], [SCHEDULE]):
        held_out = "dataset.validation_split=0.4"
        batches = list(data(tiny_corpus, tmp_path, held_out, *settings).val_dataloader())
        counts.append([batch.num_targets for batch in batches])
        tokens = sum(batch.inputs.num_tokens for batch in batches)
        assert sum(counts[-1]) / tokens == pytest.approx(0.18, abs=0.03)
    assert counts[0] == counts[1]


def test_whole_words_are_masked_from_the_vocabulary_of_the_run(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 9))) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=9)) for _ in range(100)]
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    module = data(tmp_path, tmp_path, "datacollator.mask_unit=word")
    inner = {
        number
        for token, number in module.tokenizer.tokenizer.get_vocab().items()
        if token.startswith("##")
    }
    mask, shown, hidden = module.tokenizer.mask_token_id, 0, 0
    for batch in module.train_dataloader():
        seen = batch.inputs.input_ids.tolist()
        label = dict(zip(batch.positions.tolist(), batch.labels.tolist(), strict=False))
        for place, token in enumerate(seen[1:], start=1):
            if token in inner:
                shown += 1
                assert seen[place - 1] != mask
            elif token == mask and label[place] in inner:
                hidden += 1
                assert seen[place - 1] == mask
    assert min(shown, hidden) > 100


def test_evaluation_at_further_rates_is_logged_by_rate(tiny_run) -> None:
    run = tiny_run("datacollator.mlm_probability=0.3", "datacollator.eval_mlm_probabilities=[0.1]")
    after = json.loads((run / "summary.json").read_text())["after"]
    assert {"eval/loss", "eval/loss@0.1", "eval/accuracy@0.1"} <= after.keys()
    assert after["eval/loss"] != after["eval/loss@0.1"]
