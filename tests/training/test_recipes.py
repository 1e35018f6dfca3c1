"""Published recipes: each number of a paper against the configuration that the file composes."""

import pytest

from neobert.config.compose import compose_config
from neobert.config.root import Config
from neobert.data.curriculum import mask_rate
from neobert.data.stages import Stage, resolve_stages, stage_at
from neobert.tasks.pretraining.run import staged_schedule

BILLION = 10**9


def stages_of(config: Config) -> dict[str, list[Stage]]:
    """The resolved stages by the name that the recipe gives them."""
    ranks = int(config.trainer.devices)
    found: dict[str, list[Stage]] = {}
    for stage in resolve_stages(config, config.trainer.max_steps, ranks):
        found.setdefault(stage.name.partition(",")[0], []).append(stage)
    return found


def tokens(stages: list[Stage]) -> int:
    """Tokens of full rows."""
    return sum(stage.steps * rows_per_step(stage) * stage.config.row_length() for stage in stages)


def rows_per_step(stage: Stage) -> int:
    trainer = stage.config.trainer
    rows = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    return rows * int(trainer.devices)


STAGES = {
    # stage: tokens in billions, row length, rows of the last steps, rope base, lr at the end
    "neobert_paper": {
        "1024 tokens": (2097.152, 1024, 2048, 1e4, 6e-5),
        "4096 tokens": (104.8576, 4096, 512, 1e4, 6e-5),
    },
    "modernbert_base": {
        "pretraining": (1719, 1024, 4608, 1e4, 8e-4),
        "context extension": (250, 8192, 576, 1.6e5, 3e-4),
        "annealing": (50, 8192, 576, 1.6e5, 0.0),
    },
    "ettin_150m": {
        "pretraining": (1700, 1024, 4608, 1e4, 8e-4),
        "context extension": (250, 7999, 4608, 1.6e5, 4e-4),
        "decay": (50, 7999, 4608, 1.6e5, 1.6e-5),
    },
    "mmbert_base": {
        "pretraining": (2300, 1024, 4608, 1e4, 8e-4),
        "context extension": (600, 8192, 4608, 1.6e5, 8e-4),
        "decay": (100, 8192, 4608, 1.6e5, 1.6e-5),
    },
    "nexterabert": {
        "1024 tokens": (120, 1024, 672, 1e4, 8e-5),
        "8192 tokens": (10, 8192, 128, 1e4, 8e-6),
    },
}


@pytest.mark.parametrize("recipe", STAGES)
def test_tokens_rows_rope_and_rates_of_each_stage(recipe: str) -> None:
    config = compose_config([f"experiment={recipe}"])
    stages = stages_of(config)
    resolved = [part for parts in stages.values() for part in parts]
    schedule = staged_schedule(config.scheduler, config.trainer.max_steps, resolved)
    assert list(stages) == list(STAGES[recipe])
    for name, (billions, length, rows, theta, last_lr) in STAGES[recipe].items():
        parts = stages[name]
        assert tokens(parts) == pytest.approx(billions * BILLION, rel=2e-3)
        assert parts[-1].config.row_length() == length
        assert rows_per_step(parts[-1]) == rows
        assert parts[-1].config.model.rope_theta == theta
        found = config.optimizer.lr * schedule.factor(parts[-1].end_step - 1)
        assert found == pytest.approx(last_lr, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(
    ("recipe", "lr", "betas", "decay_per_step", "warmup_tokens"),
    [
        ("neobert_paper", 6e-4, [0.9, 0.95], None, None),
        ("modernbert_base", 8e-4, [0.9, 0.98], 1e-5, 3),
        ("ettin_150m", 8e-4, [0.9, 0.98], 1e-5, 3),
        ("mmbert_base", 8e-4, [0.9, 0.95], 8e-5, 3),
        ("mosaicbert", 5e-4, [0.9, 0.98], 1e-5, None),
        ("nexterabert", 8e-4, [0.9, 0.95], None, None),
        ("eurobert_anneal", 1e-4, [0.9, 0.95], None, None),
    ],
)
def test_optimizer_and_warm_up(
    recipe: str,
    lr: float,
    betas: list[float],
    decay_per_step: float | None,
    warmup_tokens: float | None,
) -> None:
    config = compose_config([f"experiment={recipe}"])
    assert config.optimizer.name == "adamw"
    assert config.optimizer.lr == lr
    assert list(config.optimizer.betas) == betas
    if decay_per_step is None:
        assert config.optimizer.weight_decay == 0.1
    else:  # theirs is not multiplied by the learning rate
        assert config.optimizer.weight_decay * lr == pytest.approx(decay_per_step)
    if warmup_tokens is not None:
        first = next(iter(stages_of(config).values()))[0]
        done = config.scheduler.warmup_steps * rows_per_step(first) * 1024
        assert done == pytest.approx(warmup_tokens * BILLION, rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "stage_rates", "evaluation"),
    [
        ("neobert_paper", [0.2, 0.2], 0.2),
        ("modernbert_base", [0.3, 0.3, 0.3], 0.15),
        ("ettin_150m", [0.3, 0.3, 0.15], 0.15),
        ("mmbert_base", [0.3, 0.15, 0.05], 0.15),
        ("mosaicbert", [0.3], 0.3),
        ("eurobert_anneal", [0.1], 0.1),
        ("nexterabert", [0.2, 0.2], 0.2),
    ],
)
def test_mask_rates_at_the_end_of_each_stage(
    recipe: str, stage_rates: list[float], evaluation: float
) -> None:
    config = compose_config([f"experiment={recipe}"])
    found = []
    for parts in stages_of(config).values():
        collator = parts[-1].config.datacollator
        rate = mask_rate(collator, config.trainer.max_steps)
        found.append(rate.at(parts[-1].end_step - 1))
    assert found == pytest.approx(stage_rates, abs=1e-4)
    assert config.datacollator.mlm_probability == evaluation


def test_the_masks_of_nexterabert_fall_from_40_percent() -> None:
    collator = compose_config(["experiment=nexterabert"]).datacollator
    rate = mask_rate(collator, 183_923)
    assert [rate.at(step) for step in (0, 87_193, 174_386)] == pytest.approx([0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("recipe", "rows", "warmup_billions"),
    [("modernbert_base", 768, 50), ("ettin_150m", 288, 50), ("mmbert_base", 384, 60)],
)
def test_the_batch_grows_over_its_tokens(recipe: str, rows: int, warmup_billions: int) -> None:
    parts = stages_of(compose_config([f"experiment={recipe}"]))["pretraining"]
    assert [rows_per_step(part) for part in parts] == [*range(rows, 4609, rows)]
    assert tokens(parts[:-1]) == pytest.approx(warmup_billions * BILLION, rel=2e-3)


def test_single_stage_recipes_see_the_published_rows() -> None:
    mosaic = compose_config(["experiment=mosaicbert"])
    (stage,) = next(iter(stages_of(mosaic).values()))
    assert (stage.steps, rows_per_step(stage), stage.config.row_length()) == (70_000, 4096, 128)
    assert mosaic.scheduler.warmup_percent == 6
    euro = compose_config(["experiment=eurobert_anneal"])
    (stage,) = next(iter(stages_of(euro).values()))
    assert tokens([stage]) == pytest.approx(200 * BILLION, rel=1e-3)
    assert rows_per_step(stage) * 8192 == pytest.approx(9.4e6, rel=5e-3)
    assert euro.dataset.crop_min_length is not None
    assert stage_at((stage,), 5) is stage


@pytest.mark.parametrize(
    ("recipe", "blocks", "width", "feed_forward"),
    [
        ("neobert_paper", 28, 768, 2048),
        ("modernbert_base", 22, 768, 1152),
        ("ettin_150m", 22, 768, 1152),
        ("mmbert_base", 22, 768, 1152),
        ("eurobert_anneal", 12, 768, 3072),
        ("mosaicbert", 12, 768, 2048),
    ],
)
def test_depth_and_widths(recipe: str, blocks: int, width: int, feed_forward: int) -> None:
    model = compose_config([f"experiment={recipe}"]).model
    assert (model.num_hidden_layers, model.hidden_size) == (blocks, width)
    assert -(-(2 * model.intermediate_size // 3) // 8) * 8 == feed_forward
