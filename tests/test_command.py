"""``neobert COMMAND``: one place for every program."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import neobert
from neobert.command import OWN, PROGRAMS, main, usage
from neobert.commands import settings
from neobert.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neobert", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_help_lists_every_program_of_the_package() -> None:
    tools = {f"neobert.tools.{file.stem}" for file in (ROOT / "neobert" / "tools").glob("*.py")}
    programs = {name for name in tools if find_spec(name) and "__main__" in source(name)}
    assert programs <= {module for module, _ in PROGRAMS.values()}
    for name in (*PROGRAMS, *OWN, *map(str, map(int, ExitCode))):
        assert f"  {name}" in usage()
    assert all(find_spec(module) for module, _ in PROGRAMS.values())


def test_the_help_of_each_command_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, meaning) in (PROGRAMS | OWN).items():
        assert f"  {name} " in usage()
        assert f" {meaning}\n" in usage()
    assert f"All but {', '.join(OWN)} are modules too" in usage()
    assert main(["completion", "--help"]) == 0
    assert "usage: neobert completion [bash|zsh|fish]" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        settings.parser().parse_args(["--help"])
    assert "`" not in capsys.readouterr().out


def source(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text()


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"neobert {neobert.__version__}\n"
    assert main(["evalute"]) == ExitCode.WRONG_SETTINGS
    assert "did you mean neobert evaluate?" in capsys.readouterr().err


def test_a_program_runs_with_its_own_arguments_and_exit_code() -> None:
    shown = command("train", "--cfg", "job", "experiment=quickstart")
    assert shown.returncode == 0
    assert "train_vocab_size: 8192" in shown.stdout
    assert command("train", "optimizer.lr=fast").returncode == ExitCode.WRONG_SETTINGS


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    for name in ("yaml.py", "hydra_plugins/mine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("open('was-run', 'w')\nraise ImportError\n")
    script = "from neobert.command import main; main(['train', 'seed=1', '--cfg', 'job'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "seed: 1" in done.stdout
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_line_for_the_shell_defines_the_completion(shell: str) -> None:
    assert "_neobert" in command("completion", shell).stdout


def test_fish_offers_no_files_where_a_command_goes() -> None:
    words = command("completion", "fish").stdout.split()
    assert "-f" in words
    assert {*PROGRAMS, *OWN} <= set(" ".join(words).partition("'")[2].rstrip("'").split())


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("neobert eval", ["evaluate"]),
        ("neobert train exper", ["experiment="]),
        (
            "neobert train seed=1 model=neobert_",
            ["neobert_28", "neobert_mini", "neobert_small", "neobert_tiny"],
        ),
        ("neobert prepare trainer.max_st", ["trainer.max_steps="]),
    ],
)
def test_the_shell_completes_commands_groups_and_keys(line: str, replies: list[str]) -> None:
    split = line.replace("=", " = ")
    script = f"""{command("completion", "bash").stdout}
        COMP_LINE='{line}' COMP_WORDS=({split}) COMP_CWORD={len(split.split()) - 1}
        _neobert; echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == replies
    assert done.stderr == ""


def test_a_copied_file_can_be_edited_checked_and_used(tmp_path: Path) -> None:
    copied = command("config", "copy", "model=neobert_tiny", "my conf", cwd=tmp_path)
    assert copied.returncode == 0, copied.stderr
    assert "neobert train --config-dir 'my conf' model=my_neobert_tiny" in copied.stderr
    file = tmp_path / "my conf" / "model" / "my_neobert_tiny.yaml"
    file.write_text(file.read_text() + "\ndropout_prob: 0.3\n")
    words = ("--config-dir", "my conf", "model=my_neobert_tiny")
    assert "dropout_prob: 0.3" in command("train", "--cfg", "job", *words, cwd=tmp_path).stdout
    again = command("config", "copy", "model=neobert_tiny", "my conf", cwd=tmp_path)
    assert again.returncode == ExitCode.WRONG_SETTINGS
    assert "exists" in again.stderr
    assert command("config", "check", str(file)).returncode == 0
    file.write_text("dropout_prob: 3\nhiden_size: 8\n")
    wrong = command("config", "check", str(file))
    assert wrong.returncode == ExitCode.WRONG_SETTINGS
    assert "model.dropout_prob=3" in wrong.stderr
    assert "did you mean model.hidden_size?" in wrong.stderr


def test_groups_and_their_files_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    assert "experiment=   " in capsys.readouterr().out
    assert main(["config", "list", "experiment"]) == 0
    assert "quickstart                Five to eight minutes" in capsys.readouterr().out
    assert main(["config", "list", "experiments"]) == ExitCode.WRONG_SETTINGS
    assert main(["config", "copy", "model=huge", "x"]) == ExitCode.WRONG_SETTINGS


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_by_a_command(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one small text about the sea and the hills\n" * 40)
    overrides = [
        "dataset=local",
        f"dataset.path={tmp_path / 'text.txt'}",
        f"dataset.cache_dir={tmp_path / 'cache'}",
        "dataset.num_workers=0",
        "dataset.max_seq_length=32",
        "tokenizer.train_vocab_size=64",
        "model=neobert_tiny",
        "model.num_hidden_layers=1",
        "model.hidden_size=32",
        "model.num_attention_heads=2",
        "dataset.eval_samples=8",
        "trainer.per_device_train_batch_size=2",
        "trainer.max_steps=2",
        "trainer.tune_cpu=false",
        f"trainer.output_dir={tmp_path / 'run'}",
    ]
    run = neobert.train(neobert.compose(overrides))
    done = command("evaluate", str(run.folder), "--checkpoint", "2")
    assert done.returncode == 0, done.stderr
    logged = run.summary["after"]["eval/loss"]
    assert json.loads(done.stdout)["eval/loss"] == pytest.approx(logged, rel=1e-6)
    assert command("evaluate", str(tmp_path / "none")).returncode == ExitCode.WRONG_SETTINGS
