"""What users of Hydra expect of ``python -m neobert.train``, each by a real command."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def train(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neobert.train", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def job(*arguments: str, cwd: Path) -> dict[str, Any]:
    """The settings that ``--cfg job`` prints."""
    done = train("--cfg", "job", "--resolve", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def error(*arguments: str, cwd: Path) -> str:
    """What a command says that is refused."""
    done = train(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with configuration files of its own."""
    files = {
        "own/experiment/mine.yaml": """\
            # @package _global_
            defaults:
              - override /model: tiny
              - override /optimizer: muonclip
            seed: 3
            trainer: {output_dir: "run-${seed}", bf16: false}
            model: {max_position_embeddings: "${dataset.max_seq_length}"}
            dataset: {config: 1.10}
            """,
        "own/experiment/team/a.yaml": """\
            # @package _global_
            optimizer: {lr: 1e-3}
            trainer: {mixed_precision: no}
            """,
        "own/model/tiny.yaml": "{hidden_size: 48, num_attention_heads: 3}\n",
        "own/optimizer/slow.yaml": "defaults: [muonclip]\nlr: 1e-6\n",
        "own/extras/x.yaml": "foo: 1\n",
        "own/primary.yaml": "defaults: [config, _self_]\nseed: 77\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines(keepends=True)
        path.write_text("".join(line.removeprefix(" " * 12) for line in lines))
    return tmp_path


def test_a_file_or_an_override_can_make_a_run_a_sweep(folder: Path) -> None:
    text = "{hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,x'}}}}\n"
    (folder / "own/experiment/sweep.yaml").write_text(f"# @package _global_\n{text}")
    said = error("--config-dir", "own", "experiment=sweep", cwd=folder)
    assert "seed=x: must be integer" in said
    with_values = ("seed=1,2", "optimizer.lr=1e-3,2e-3", "hydra.mode=MULTIRUN", "trainer.foo=1")
    assert "names several values" not in error(*with_values, cwd=folder)
    assert error(*with_values[:2], "trainer.foo=1", cwd=folder).count("names several values") == 2


@pytest.mark.parametrize("option", ["experiment=mine", "+experiment=mine"])
def test_an_experiment_of_one_s_own(option: str, folder: Path) -> None:
    settings = job("--config-dir", "own", option, "seed=9", "dataset.max_seq_length=64", cwd=folder)
    assert settings["model"]["hidden_size"] == 48
    assert settings["optimizer"]["name"] == "muonclip"
    # Interpolations in a group file see the command line.
    assert settings["trainer"]["output_dir"] == "run-9"
    assert settings["model"]["max_position_embeddings"] == 64
    assert settings["trainer"]["mixed_precision"] == "no"  # an older key, translated there too
    assert settings["dataset"]["config"] == "1.10"  # text as it was written


def test_nested_options_and_several_of_a_group(folder: Path) -> None:
    arguments = ("hydra.searchpath=[file://own]", "experiment=[mine,team/a]")
    settings = job(*arguments, cwd=folder)
    assert (settings["seed"], settings["optimizer"]["lr"]) == (3, 1e-3)
    assert job(arguments[0], "experiment=team/a", cwd=folder)["seed"] == 0


def test_defaults_of_a_group_file(folder: Path) -> None:
    optimizer = job("-cd", "own", "optimizer=slow", cwd=folder)["optimizer"]
    assert (optimizer["name"], optimizer["lr"]) == ("muonclip", 1e-6)
    assert optimizer["muon_config"] is not None


def test_a_primary_file_of_one_s_own(folder: Path) -> None:
    arguments = ("--config-dir", "own", "--config-name", "primary")
    assert job(*arguments, cwd=folder)["seed"] == 77
    path = ("--config-path", str(folder / "own/model"), "-cn", "tiny")
    assert "unknown key hidden_size" in error(*path, "--cfg", "job", cwd=folder)


def test_a_group_of_one_s_own_is_checked_like_every_other(folder: Path) -> None:
    said = error("--config-dir", "own", "+extras=x", cwd=folder)
    assert f"{folder}/own/extras/x.yaml: unknown key extras.foo" in said


@pytest.mark.proves("debug")
@pytest.mark.parametrize(
    ("arguments", "debug", "max_steps"),
    [
        (("debug=true",), True, 1_000_000),
        (("--debug",), True, 1_000_000),
        (("debug=${oc.env:DEBUG,yes}",), True, 1_000_000),
        (("debug=fast",), False, 2),
        (("debug=fast", "trainer.max_steps=5"), False, 5),
        (("debug=fast", "config_path=file.yaml"), True, 2),  # stronger than the file
        (("config_path=file.yaml",), True, 9),
        (("-cd", "own", "experiment=fast"), False, 2),
    ],
)
def test_debug_is_a_setting_and_a_group(
    arguments: tuple[str, ...], debug: bool, max_steps: int, folder: Path
) -> None:
    (folder / "file.yaml").write_text("debug: yes\ntrainer: {max_steps: 9}\n")
    (folder / "own/experiment/fast.yaml").write_text(
        "# @package _global_\ndefaults: [override /debug: fast]\ntrainer: {max_steps: 7}\n"
    )
    settings = job(*arguments, cwd=folder)
    assert (settings["debug"], settings["trainer"]["max_steps"]) == (debug, max_steps)


def test_an_unknown_debug_profile_is_refused(folder: Path) -> None:
    assert "debug=nope: must be one of fast, overfit, profiler, true, false" in error(
        "debug=nope", cwd=folder
    )


@pytest.mark.parametrize("name", ["experiment=null", "strategy=null", "~experiment"])
def test_a_group_can_be_left_out(name: str, folder: Path) -> None:
    assert job(name, cwd=folder)["model"]["hidden_size"] == 768


def test_a_setting_can_be_deleted(folder: Path) -> None:
    arguments = ("experiment=quickstart", "optimizer=adamw", "~optimizer.muon_config")
    optimizer = job(*arguments, "~optimizer.lr", cwd=folder)["optimizer"]
    assert (optimizer["muon_config"], optimizer["lr"]) == (None, 1e-4)


def test_a_package_that_no_default_has_is_refused(folder: Path) -> None:
    assert "Could not override 'optimizer@x'" in error("optimizer@x=adam", cwd=folder)
    assert "unknown key x.name" in error("+optimizer@x=adam", cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--info", "searchpath", "--config-dir", "own"), "/own "),
        (("--info", "defaults"), "hydra/launcher/processes"),
        (("--cfg", "hydra"), "ProcessLauncher"),
        (("--cfg", "all"), "override_dirname: seed=4"),
        (("--cfg", "job", "--package", "trainer"), "# @package trainer"),
        (("--hydra-help",), "Hydra (1.3"),
        (("--version",), "Hydra 1.3"),
        (("--shell-completion", "install=bash"), "hydra_bash_completion"),
    ],
)
def test_hydra_s_own_flags(arguments: tuple[str, ...], text: str, folder: Path) -> None:
    overrides = () if "install=bash" in arguments else ("seed=4",)
    done = train(*overrides, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout


@pytest.mark.parametrize(
    ("override", "output_dir"),
    [
        ("hydra.run.dir=runs/x", "runs/x"),
        ("hydra.run.dir=runs/${seed}", "runs/5"),
        ("trainer.output_dir=${hydra:job.name}/${seed}", "train/5"),
        ("trainer.output_dir=${hydra:runtime.cwd}/x", "{cwd}/x"),
        ("trainer.output_dir=runs/${now:%Y}/${now:%Y}", "runs/{year}/{year}"),
        ("hydra.run.dir=runs/${now:%Y}", "runs/{year}"),
        ("hydra.job.name=mine", "./output"),
    ],
)
def test_the_folder_has_two_names(override: str, output_dir: str, folder: Path) -> None:
    expected = output_dir.replace("{cwd}", str(folder)).replace("{year}", f"{datetime.now():%Y}")
    settings = job(override, "seed=5", cwd=folder)
    assert settings["trainer"]["output_dir"] == expected


def test_two_folders_contradict_each_other(folder: Path) -> None:
    said = error("hydra.run.dir=a", "trainer.output_dir=b", cwd=folder)
    assert "hydra.run.dir=a and trainer.output_dir=b" in said


def test_interpolations_within_mappings(folder: Path) -> None:
    settings = job('pretraining_metadata={a: "${seed}", b: ["x${seed}"]}', "seed=4", cwd=folder)
    assert settings["pretraining_metadata"] == {"a": 4, "b": ["x4"]}


def test_a_config_path_file_may_have_defaults(folder: Path) -> None:
    (folder / "base.yaml").write_text("optimizer: {weight_decay: 0.3}\nseed: 1\n")
    (folder / "mine.yaml").write_text(
        "defaults:\n  - base\n  - experiment: quickstart\n  - override /optimizer: adamw\n"
        "model: neobert_small\nseed: 2\nwandb: {name: 1.10, tags: [1.10, yes], enabled: no}\n"
    )
    settings = job("config_path=mine.yaml", "~optimizer.muon_config", cwd=folder)
    assert settings["optimizer"]["name"] == "adamw"
    assert settings["optimizer"]["weight_decay"] == 0.3
    assert settings["model"]["hidden_size"] == 384
    assert settings["trainer"]["max_steps"] == 1280
    assert settings["seed"] == 2
    wandb = settings["wandb"]
    assert (wandb["name"], wandb["tags"], wandb["enabled"]) == ("1.10", ["1.10", "yes"], False)


def test_what_is_printed_loads_again(folder: Path) -> None:
    shown = train("--cfg", "job", "experiment=quickstart", "wandb.name='1e-4'", cwd=folder).stdout
    (folder / "printed.yaml").write_text(shown)
    again = job("config_path=printed.yaml", cwd=folder)
    assert again | {"config_path": None} == yaml.safe_load(shown)
    assert again["wandb"]["name"] == "1e-4"


def test_all_problems_at_once_with_their_origin(folder: Path) -> None:
    (folder / "own/experiment/bad.yaml").write_text(
        "# @package _global_\ntrainer: {max_stepz: 3, logging_steps: x}\n"
    )
    said = error("-cd", "own", "experiment=bad", "seed=y", "learning_rate=1", cwd=folder)
    assert said.splitlines() == [
        f"error: {folder}/own/experiment/bad.yaml: unknown key trainer.max_stepz; "
        "did you mean trainer.max_steps?",
        "error: command line: unknown key learning_rate; did you mean optimizer.lr?",
        f"error: {folder}/own/experiment/bad.yaml: trainer.logging_steps=x: must be integer",
        "error: command line: seed=y: must be integer",
    ]


def test_flags_may_stand_among_overrides(folder: Path) -> None:
    done = train("seed=1", "--cfg", "job", "--trainer.max_steps", "7", "seed=2", cwd=folder)
    settings = yaml.safe_load(done.stdout)
    assert (settings["seed"], settings["trainer"]["max_steps"]) == (2, 7)
    assert "--trainer.max_steps is accepted" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("task=glue",), "glue starts from no weights"),
        (("task=contrastive",), "contrastive starts from no weights"),
        (("task=token_classification",), "or tokens.allow_random_weights=true"),
        (("-m", "task=question_answering", "seed=0,1"), "or answers.allow_random_weights=true"),
        (("trainer.output_dir=file/x",), "trainer.output_dir: cannot be made"),
        (("-m", "seed=0,x", "optimizer.lr=1e-3,-1"), "seed=x: must be integer"),
        (("-m", "seed=0,x", "optimizer.lr=1e-3,-1"), "optimizer.lr=-1.0: must be at least 0"),
        (("-m", "model.hidden_size=64,96", "model.num_attention_heads=2,5"), "must be a multiple"),
        (("-m", "task=glue", "seed=0,1"), "glue starts from no weights"),
        (("-m", "seed=0,1", "trainer.output_dir=a,b"), "each job has a folder of its own"),
        (("-m", "optimizer.lr=interval(1e-3,1e-2)"), "hydra/sweeper=optuna"),
        (("-m", "sweep=lr", "optimizer.lr=interval(-1,1)"), "optimizer.lr=-1.0: must be at least"),
        (("-m", "hydra/launcher=nope", "seed=0,1"), "joblib processes"),
        (("-m", "hydra.sweeper.paramz=3", "seed=0,1"), "'paramz' not in 'BasicSweeperConf'"),
        (("-m", "--cfg", "job"), "Only one of --run, --multirun, --cfg"),
        (("dataset.path=/data/a,b",), "\"dataset.path='/data/a,b'\""),
    ],
)
def test_what_is_known_from_settings_is_refused_before_anything_starts(
    arguments: tuple[str, ...], said: str, folder: Path
) -> None:
    (folder / "file").write_text("")
    before = sorted(folder.rglob("*"))
    code = (
        f"import sys; sys.argv = {['train', *arguments]!r}\n"
        "from neobert.train import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    left = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert [path.name for path in left if path.is_file()] in ([], ["multirun.yaml"])


def test_composing_leaves_another_hydra_program_alone(folder: Path) -> None:
    (folder / "app.py").write_text(
        "import hydra\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "from hydra.core.hydra_config import HydraConfig\n"
        "from neobert.config.compose import compose_config\n"
        "@hydra.main(version_base='1.3', config_path=None)\n"
        "def app(config):\n"
        "    seed = compose_config(['seed=${hydra:job.num}']).seed\n"
        "    print(seed, GlobalHydra.instance().is_initialized(), HydraConfig.get().job.name)\n"
        "app()\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "+x=1,2", "hydra.job.name=happ"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 True happ" in done.stdout, done.stderr
    assert "1 True happ" in done.stdout


def test_the_schemas_are_in_the_config_store(folder: Path) -> None:
    (folder / "own/typed.yaml").write_text("defaults: [neobert_schema, config, _self_]\nseed: 5\n")
    assert job("-cd", "own", "-cn", "typed", "model=schema", cwd=folder)["seed"] == 5


FAILING = ("+hydra.job.env_set.RANK=no", "trainer.output_dir=sweep")
"""Makes the jobs of a sweep fail at their start, which is soon."""


JOBLIB = ("hydra/launcher=joblib", "dataset=local", "dataset.path=nowhere", FAILING[-1])
"""The same under joblib, in whose processes a wrong environment would stop Hydra itself."""


@pytest.mark.parametrize("failing", [FAILING, pytest.param(JOBLIB, marks=pytest.mark.slow)])
def test_equal_settings_run_once_and_none_counts_as_lost(
    failing: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = train("-m", "optimizer.lr=1e-3,0.001,2e-3", *failing, cwd=tmp_path)
    assert done.returncode == 1
    assert "lost" not in done.stderr
    assert len(re.findall(r"job [01]: has the settings of job [01]", done.stderr)) == 1
    jobs = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert sorted(n for job in jobs for n in (job["number"], *job["repeats"])) == [0, 1, 2]
    for job in jobs:  # each started with its own folder
        (record,) = (tmp_path / "sweep").glob(f".job-*{digest_of(job, tmp_path)}.yaml")
        assert f"output_dir: {job['folder']}" in record.read_text()


def digest_of(job: dict, folder: Path) -> str:
    """The name of the record that holds a job of ``sweep.json``."""
    records = (folder / "sweep").glob(".job-*.json")
    (found,) = (path for path in records if json.loads(path.read_text()) == job)
    return found.stem.removeprefix(".job-")


def test_the_folder_of_a_failed_job_is_no_other_jobs(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-3"):
        assert train("-m", f"optimizer.lr={rate}", *FAILING, cwd=tmp_path).returncode == 1
    jobs = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [Path(job["folder"]).name for job in jobs] == ["0", "0-2"]


def test_jobs_of_a_sweep_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("print('CANARY')\n")
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/canary.py").write_text("print('CANARY')\n")
    # -P: as the installed program is started. The job fails at its start, which is soon.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "neobert.train", "-m", "seed=0", "+hydra.job.env_set.RANK=no"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "job 0: FAILED (exit code 1)" in done.stderr
    assert "CANARY" not in done.stdout + done.stderr
