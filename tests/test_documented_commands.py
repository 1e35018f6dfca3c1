"""Every command in the documentation is one that works: as written, and scaled down.

A shell runs the code blocks of a page with programs that only note how they were called; each
call is then composed or parsed by the program itself. A few run in full, small.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from neobert.config.compose import PRIMARY, SettingsLoader, compose_config, conf_dir
from neobert.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPERIMENTS = sorted((ROOT / "conf").rglob("*.yaml"))

PROGRAMS = ("python", "pytest", "make", "torchrun", "srun", "env", "git", "pip", "apt")
NOTE = """\
#!{python}
import json, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
"""
FILE_PROGRAMS = ("mkdir", "cat")
"""What a page makes its files with; these do run."""

PLACEHOLDERS = {"SEED": "0", "LR": "1e-5", "EPOCHS": "3", "TASK": "rte", "…": ""}
"""What a reader fills in, and what a test does."""


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page; of a YAML file the commands in its comments."""
    if page.suffix == ".yaml":
        lines = re.findall(r"^#   (.*)$", page.read_text(), re.MULTILINE)
        return lines if language == "bash" else []
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def inline(page: Path) -> list[str]:
    """Whole commands in the text of a page."""
    found = re.findall(r"`(python -m (?:neobert|benchmarks)[^`]*)`", page.read_text())
    return [" ".join(line.split()) for line in found]


def calls(script: str, folder: Path) -> list[list[str]]:
    """How the shell calls programs in ``script``: their names and arguments."""
    folder.mkdir()
    log = folder / "calls.jsonl"
    log.touch()
    for name in PROGRAMS:
        program = folder / name
        program.write_text(NOTE.format(python=sys.executable, log=str(log), name=name))
        program.chmod(0o755)
    for name in FILE_PROGRAMS:
        (folder / name).symlink_to(str(shutil.which(name)))
    script = "cd() { :; }\n" + script
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=folder.parent,
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "command not found" not in done.stderr, done.stderr
    assert "syntax error" not in done.stderr, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def modules_called(call: Sequence[str]) -> list[str]:
    """``module, arguments…`` of a call of ours, also below a launcher; else nothing."""
    if call[0] not in ("python", "torchrun", "srun", "env") or "-m" not in call:
        return []
    words = [word for word in call[list(call).index("-m") + 1 :] if word != "…"]
    for placeholder, value in PLACEHOLDERS.items():
        words = [re.sub(rf"=([^=]*,)?{placeholder}$", rf"=\g<1>{value}", word) for word in words]
    return words if words[0].startswith(("neobert", "benchmarks")) else []


class ParsedError(Exception):
    """Ends a program when its command line has been read."""


def check_call(words: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Compose or parse a command line; raises what the program would say against it."""
    module, *arguments = words
    if not arguments:  # a program is mentioned
        assert find_spec(module) is not None, f"there is no {module}"
        return
    if module in ("neobert.train", "neobert.tools.prepare"):
        check_settings(arguments, folder)
        return
    parse = argparse.ArgumentParser.parse_args
    known = argparse.ArgumentParser.parse_known_args

    def then_stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        parse(self, args)
        raise ParsedError

    def then_compose(self: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        check_settings(known(self, args)[1], folder)
        raise ParsedError

    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [module, *arguments])
        patched.setattr(argparse.ArgumentParser, "parse_args", then_stop)
        if module in ("neobert.tools.inspect_data", "neobert.tools.launch"):
            patched.setattr(argparse.ArgumentParser, "parse_known_args", then_compose)
        try:
            program = "neobert.export.__main__" if module == "neobert.export" else module
            importlib.import_module(program).main()
        except ParsedError:
            return
        except SystemExit as end:
            code = end.code
    assert code == 0, f"exit code {code}"


def check_settings(words: Sequence[str], folder: Path) -> None:
    """Compose a run, or every job of a sweep."""
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    from neobert.application import check_jobs
    from neobert.config.overrides import hydra_arguments

    if {"--help", "-h"} & set(words):
        return
    kept = [word for word in words if word not in ("--cfg", "job", "-m", "--multirun")]
    if "--config-dir" in kept:
        place = kept.index("--config-dir")
        searched = (folder / kept[place + 1]).resolve()
        kept[place : place + 2] = [f"hydra.searchpath=[file://{searched}]"]
    if not {"-m", "--multirun"} & set(words):
        compose_config(kept)
        return
    loader = SettingsLoader(create_config_search_path(str(conf_dir())))
    sweep = [*hydra_arguments(kept), "hydra.mode=MULTIRUN"]
    master = loader.load_configuration(PRIMARY, sweep, RunMode.MULTIRUN)
    check_jobs(loader, master, str(folder / "sweep"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, *EXPERIMENTS], ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore")  # of the libraries that the programs import
def test_every_command_of_the_page_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "\n".join([*blocks(page, "bash"), *inline(page)])
    if not script.strip():
        pytest.skip("no command on this page")
    found = calls(script, tmp_path / "bin")
    assert found
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"config_path=([\w./-]+)", script)
    for name in dict.fromkeys(files):  # the YAML of the page that is nearest to its own name
        named = [block for block in blocks(page, "yaml") if name in block.split("\n")[0]]
        own = [*named, *blocks(page, "yaml"), "task: mteb"]  # or the reader's
        (tmp_path / name).write_text(own[0])
    problems = []
    for call in found:
        if call[0] == "make":
            targets = [word for word in call[1:] if "=" not in word and not word.startswith("-")]
            problems += [f"make {name}" for name in targets if name not in make_targets()]
        words = modules_called(call)
        if words:
            try:
                check_call(words, monkeypatch, tmp_path)
            except (ConfigError, ImportError, AssertionError) as error:
                problems.append(f"{' '.join(words)}: {error}")
    assert not problems, "\n".join(problems)


SMALL = [
    "model.hidden_size=32",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.intermediate_size=48",
    "tokenizer.train_vocab_size=512",
    "dataset.num_workers=0",
    "dataset.eval_samples=64",
    "trainer.max_steps=2",
    "trainer.per_device_train_batch_size=2",
    "trainer.eval_strategy=no",
    "trainer.eval_on_start=false",
    "trainer.save_strategy=steps",
    "trainer.save_steps=2",
    "trainer.load_best_model_at_end=false",
]
CHAIN = [
    ("README.md", "neobert.train experiment=quickstart", SMALL),
    ("README.md", "neobert.export output/quickstart --output my-encoder", []),
    ("docs/export.md", "neobert.tools.mlm_predict", []),
    ("docs/export.md", "neobert.tools.pseudo_perplexity", []),
    ("docs/export.md", "neobert.tools.embed", []),
    ("docs/data.md", "neobert.tools.inspect_data", SMALL[4:6]),
]
"""Page, beginning of a documented command, what is added to make it small."""


@pytest.mark.slow
def test_documented_commands_run_one_after_the_other_scaled_down(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("The capital of France is Paris.\nA river runs north.\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEOBERT_CACHE": str(tmp_path / "cache")}
    for number, (page, beginning, more) in enumerate(CHAIN):
        script = "\n".join(blocks(ROOT / page, "bash"))
        commands = map(modules_called, calls(script, tmp_path / f"bin{number}"))
        words = next(words for words in commands if " ".join(words).startswith(beginning))
        words = [word.replace("output/my-run", "output/quickstart") for word in words]
        done = subprocess.run(
            [sys.executable, "-m", *words, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
    assert (tmp_path / "my-encoder" / "model.safetensors").is_file()
    assert (tmp_path / "scores.csv").is_file()
    assert (tmp_path / "vectors.npy").is_file()
