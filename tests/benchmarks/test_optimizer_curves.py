"""The report of optimizers says what the runs' files say."""

import json
from pathlib import Path

import pytest

from benchmarks.optimizer_curves import best_rates, main, read_curves
from neobert.config.compose import compose_config
from neobert.config.store import save_config

HEADER = (
    "step,eval/loss,train/tokens,train/tokens_per_sec,train/cores_busy,"
    "train/max_attention_logit,train/clipped_heads\n"
)


def add_run(folder: Path, losses: tuple[float, float], words: list[str], logits: bool) -> None:
    """A run's files as training leaves them: 100 tokens in 5 seconds of half a core, twice."""
    folder.mkdir(parents=True)
    save_config(compose_config(words), folder / "config.yaml")
    measured = ("7.5,2", "9.5,3") if logits else (",", ",")
    rows = [
        "0,9.0,,,,,\n",
        f"10,{losses[0]},100,20,0.5,{measured[0]}\n",
        f"20,{losses[1]},200,20,0.5,{measured[1]}\n",
    ]
    (folder / "metrics.csv").write_text(HEADER + "".join(rows))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    adamw = ["optimizer=adamw"]
    add_run(tmp_path / "sweep/0", (7.0, 6.0), [*adamw, "optimizer.lr=1e-3", "seed=0"], False)
    add_run(tmp_path / "sweep/1", (7.5, 6.5), [*adamw, "optimizer.lr=3e-3", "seed=0"], False)
    add_run(tmp_path / "sweep/2", (7.2, 6.2), [*adamw, "optimizer.lr=1e-3", "seed=1"], False)
    add_run(tmp_path / "sweep/3", (6.0, 5.0), ["optimizer=muonclip", "seed=0"], True)
    return tmp_path / "sweep"


def test_a_run_is_read_with_its_tokens_and_its_processor_time(sweep: Path) -> None:
    curve = read_curves([sweep])[-1]
    assert curve.optimizer == "MuonClip, threshold 50"
    assert (curve.tokens, curve.seconds) == ([0, 100, 200], [0, 2.5, 5.0])
    assert (curve.loss, curve.logits, curve.clipped_heads) == ([9.0, 6.0, 5.0], [7.5, 9.5], 5)


def test_each_optimizer_is_shown_at_its_best_rate_and_all_seeds(sweep: Path) -> None:
    shown = [
        (curve.optimizer, curve.rate, curve.seed) for curve in best_rates(read_curves([sweep]))
    ]
    assert shown == [
        ("AdamW", 1e-3, 0),
        ("AdamW", 1e-3, 1),
        ("MuonClip, threshold 50", 1e-4, 0),
    ]


def test_tables_curves_and_plot_are_written(
    sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "muonclip.json"
    main([str(sweep), "--output", str(output)])
    told = "".join(capfd.readouterr())
    assert "| AdamW |  | 6.000 | 6.500 |" in told
    assert "| AdamW, lr 0.001 | 6.000 | 6.200 | 6.100 | 5 | – | – |" in told
    assert "| MuonClip, threshold 50, lr 0.0001 | 5.000 |  | 5.000 | 5 | 9.5 | 5 |" in told
    assert len(json.loads(output.read_text())) == 4
    assert "<svg" in output.with_suffix(".svg").read_text()


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--output", str(tmp_path / "x.json")])
