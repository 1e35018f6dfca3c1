"""Every command in the documentation is one that works: as written, and scaled down.

A shell runs the code blocks of a page with programs that only note how they were called; each
call is then composed or parsed by the program itself. All that need no hub, GPU, cluster or day
are executed, small.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from neobert.config.compose import SettingsLoader, compose_config
from neobert.config.group_files import PRIMARY, conf_dir
from neobert.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPERIMENTS = sorted((ROOT / "conf").rglob("*.yaml"))

PROGRAMS = ("python", "neobert", "pytest", "make", "torchrun", "srun", "env", "git", "pip", "apt")
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
    if call[0] == "neobert":
        return list(call)
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
    if module == "neobert":
        return  # executed below
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
        if module in ("neobert.tools.inspect_data", "neobert.tools.launch", "neobert.tools.plan"):
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
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
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
OF_A_RUN = [word for word in SMALL if not word.startswith("tokenizer.")]
"""For runs whose tokenizer is that of another."""

FINE = ["trainer.max_steps=1", "trainer.per_device_train_batch_size=2", "trainer.eval_steps=1"]
FINE += ["dataset.eval_samples=16", "dataset.num_proc=0"]

EXECUTED: list[tuple[str, list[str]]] = [
    ("neobert.train experiment=quickstart", SMALL),
    ("neobert evaluate output/quickstart", []),
    ("neobert evaluate output/quickstart --checkpoint", ["dataset.eval_samples=8"]),
    ("neobert config list experiment", []),
    ("neobert config copy experiment=quickstart", []),
    ("neobert config check", []),
    ("neobert --version", []),
    ("neobert completion bash", []),
    ("neobert.export output/quickstart --output my-encoder", []),
    ("neobert.export --check DIR --json", []),
    ("neobert.tools.mlm_predict", []),
    ("neobert.tools.pseudo_perplexity", []),
    ("neobert.tools.embed", []),
    ("neobert.tools.inspect_data --step 120 --rows", ["tokenizer.train_vocab_size=512"]),
    ("neobert.train experiment=glue_tutorial", FINE),
    ("neobert.tools.glue_report output/glue", []),
    ("neobert.train experiment=contrastive_factbook", [*FINE, "dataset.path=factbook-pairs"]),
    ("neobert.train task=pretraining optimizer=muonclip trainer.max_steps=1000", SMALL),
    ("neobert.train task=pretraining dataset=local dataset.path=my_texts/", SMALL),
    ("neobert.train task=pretraining model=neobert_small model.init_from", OF_A_RUN),
    ("neobert.train -m experiment=quickstart optimizer.lr", SMALL),
    ("neobert.train experiment=modernbert_base --cfg job", []),
    ("neobert.train experiment=quickstart datacollator.mlm_schedule={0%: 0.4", SMALL),
    ("neobert.train experiment=quickstart datacollator.mlm_schedule={0%: 0.3", SMALL),
    ("neobert.train experiment=quickstart scheduler=constant", SMALL),
    (
        "neobert.train experiment=quickstart scheduler=wsd",
        [*SMALL, "trainer.max_steps=4", "scheduler.decay_length=2"],
    ),
    ("neobert.tools.average", ["--no-evaluation"]),
    ("neobert.train dataset=local dataset.path=texts", SMALL),
    ("neobert.train dataset=local dataset.path=ids", OF_A_RUN),
    (
        "neobert.train model.init_from=output/checkpoints/100000",
        [*SMALL, "dataset.min_length=16"],
    ),
    (
        "neobert.train trainer.resume_from_checkpoint=output/checkpoints/100000",
        [*SMALL, "trainer.max_steps=4", "optimizer=muonclip"],
    ),
    ("neobert.train task=token_classification", FINE),
    ("neobert.export output/token_classification", []),
    ("neobert.train task=question_answering", FINE),
    ("neobert.train config_path=my_task.yaml", FINE),
    ("neobert.train config_path=emotions.yaml", FINE),
    ("neobert.tools.fine_tuning_report output", []),
    ("neobert.train --config-dir my_conf experiment=first --cfg job", []),
    ("neobert.train --config-dir my_conf experiment=first seed=1", SMALL),
    ("neobert.train --help", []),
    ("neobert.tools.launch --to slurm", []),
    ("neobert.tools.launch --to k8s", []),
    ("neobert.tools.launch --to skypilot", []),
]
"""Beginning of a documented command, and what is added to make it small; in this order."""

OWN_FOLDER = r"output_dir|experiment|--|task=(token|question)|my_task"
"""In commands whose runs have a folder other than ``output``, which holds those of others here."""

PLACES = {
    "output/my-run": "output/quickstart",
    "my_run": "output/quickstart",
    "output/checkpoints/100000": "output/quickstart/checkpoints/2",
    "output/quickstart/checkpoints/2000": "output/quickstart/checkpoints/2",
    "output/trunk/checkpoints/800": "output/trunk/checkpoints/2",
    "RUN/checkpoints/900": "output/trunk/checkpoints/2",
    "RUN/checkpoints/1000": "output/decay/checkpoints/4",
    "DIR": "my-encoder",
}
"""Where the commands of a page put what they need, and where it is here."""

NOT_EXECUTED = {
    r"task_name=(sst2|cola|mnli|rte|cola,)|experiment=glue_(quick|modernbert|neobert)": "hub",
    r"chandar-lab|dataset.name=ALL|MTEB|mteb_task_type=sts|from_hub=true": "hub",
    r"experiment=(ettin|eurobert|mmbert|modernbert|mosaicbert|neobert_paper|nexterabert)": "GPUs",
    r"strategy=": "processes: tests/distributed",
    r"mteb_task_type=local|config_path=(tasks|my_tasks|mine)|mteb_report": "minutes: tests/tasks",
    r"^neobert.train (.* )?-m ": "many jobs; one sweep is executed",
    r"output/contrastive|wordnet|--output (exported|my-model)|--onnx|--python|--check DIR$": (
        "as others, or minutes: tests/export"
    ),
    r"^neobert.train task=glue|glue_report sweep": "hub",
    r"^benchmarks\.": "tests/benchmarks",
    r"experiment/mine.yaml": "a file of the reader",
    r"^neobert.tools.plan ": "tests/tools/test_plan.py",
}
"""Commands that need what CI lacks, and what; or the tests that execute them."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The words of all calls with arguments, page by page."""
    folder = tmp_path_factory.mktemp("pages")
    words = []
    for number, page in enumerate([*PAGES, *EXPERIMENTS]):
        script = "\n".join([*blocks(page, "bash"), *inline(page)])
        words += [modules_called(call) for call in calls(script, folder / str(number))]
    return [call for call in words if len(call) > 1]


def test_what_is_not_executed_has_a_reason(commands: list[list[str]]) -> None:
    texts = [" ".join(words) for words in commands]
    beginnings = tuple(beginning for beginning, _ in EXECUTED)
    others = [text for text in texts if not text.startswith(beginnings)]
    assert [text for text in others if not any(re.search(one, text) for one in NOT_EXECUTED)] == []
    assert [one for one in beginnings if not any(text.startswith(one) for text in texts)] == []


def make_files(folder: Path) -> None:
    """What the commands read."""
    texts = "The capital of France is Paris.\nA river runs north.\n" * 20
    for name in ("texts.txt", "my_texts/a.txt", "texts/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(texts)
    rows = {
        "conll": [{"tokens": ["Ada", "sang"], "tags": ["B-PER", "O"]}] * 4,
        "squad": [
            {
                "id": str(number),
                "context": "Rome is old.",
                "question": "What is old?",
                "answers": {"text": ["Rome"], "answer_start": [0]},
            }
            for number in range(4)
        ],
        "my_data": [
            {"title": "a", "body": "b", "topic": name, "text": "c", "emotions": [name, "z"][:count]}
            for count, name in enumerate(("x", "y"), 1)
        ]
        * 2,
    }
    for name, table in rows.items():
        (folder / name).mkdir()
        for split in ("train", "validation"):
            text = "".join(json.dumps(row) + "\n" for row in table)
            (folder / name / f"{split}.jsonl").write_text(text)
    for yaml in blocks(ROOT / "docs/fine-tuning.md", "yaml"):
        name = yaml.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(yaml.replace("my_run", "output/quickstart"))
    script = next(block for block in blocks(ROOT / "docs/training.md", "bash") if "cat >" in block)
    files = re.sub(r"^python .*\n?", "", script, flags=re.MULTILINE)
    subprocess.run(["/bin/bash", "-c", files], cwd=folder, check=True)


def matching(word: str, folder: Path) -> list[str]:
    """What a shell makes of a word in ``folder``."""
    if "*" not in word:
        return [word]
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(word))]


def execute(words: list[str], folder: Path, log: Path) -> None:
    """Run a program in this process; a fork, in which the libraries are loaded already."""
    os.chdir(folder)
    os.environ["NEOBERT_CACHE"] = str(folder / "cache")
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # over forty programs
def test_documented_commands_run_one_after_the_other_scaled_down(
    tmp_path: Path, commands: list[list[str]]
) -> None:
    make_files(tmp_path)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["datasets", "lightning.pytorch", "torch", "transformers"])
    for number, (beginning, more) in enumerate(EXECUTED):
        words = next(words for words in commands if " ".join(words).startswith(beginning))
        for place, here in PLACES.items():
            words = [re.sub(rf"(?<![\w/]){place}(?![\w])", here, word) for word in words]
        words = ["2" if word == "400" else word for word in words]
        words = [name for word in words for name in matching(word, tmp_path)]
        words += more
        if words[0] == "neobert.train" and not re.search(OWN_FOLDER, " ".join(words)):
            words.append(f"trainer.output_dir=output/{number}")  # not into one that holds others
        log = tmp_path / f"{number}.log"
        process = processes.Process(target=execute, args=(words, tmp_path, log))
        process.start()
        process.join()
        assert process.exitcode == 0, f"{' '.join(words)}\n{log.read_text()[-3000:]}"
    assert (tmp_path / "my-encoder" / "model.safetensors").is_file()
    assert (tmp_path / "scores.csv").is_file()
    assert (tmp_path / "vectors.npy").is_file()
    assert list(tmp_path.glob("output/quickstart*/evaluations/*"))  # a later run set it aside
    assert (tmp_path / "my-tagger" / "model.safetensors").is_file()
    report = (tmp_path / "output/fine_tuning.md").read_text()
    assert all(f"| {name} |" in report for name in ("conll", "squad", "emotions"))
