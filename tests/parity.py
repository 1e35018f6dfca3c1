"""``make test-parity``: does some test notice when a key of the contract has no effect?

For each key of ``tests/config/reference_keys.txt`` the tests that are marked
``@pytest.mark.proves(key)`` run with the effect of the key taken away (:mod:`mutant`). One of them
has to fail; where all pass, the claim is empty and this program fails. A test that fails without
the mutation, too, proves nothing: those that failed run once more as they are.

Each run is a fork of a process that has imported the libraries, two at a time.
"""

import argparse
import fnmatch
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTATION = ROOT / "tests" / "mutation"
sys.path[:0] = [str(ROOT), str(MUTATION)]

import mutant  # noqa: E402
import pytest  # noqa: E402

import tests.conftest  # noqa: E402, F401  (environment variables, before the libraries load)
from docs.generate import proofs_by_key, reference_keys  # noqa: E402

LIBRARIES = (
    "datasets",
    "hydra",
    "lightning.pytorch",
    "matplotlib.figure",
    "pandas",
    "torch",
    "torchmetrics.classification",
    "transformers",
)
"""What most tests import, a large part of their time."""

TIMEOUT = 300
"""Seconds of a test; a mutant that hangs has been noticed, too."""

PASSED, FAILED, NONE = 0, 1, 5
"""Exit codes of pytest: all pass, some fail, there is none."""


@dataclass(eq=False)
class Marked:
    """A plugin of pytest: runs the tests that prove a key, the quick ones first."""

    key: str
    failed: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        chosen = [item for item in items if self.key in proved(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = sorted(chosen, key=lambda item: "slow" in item.keywords)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def proved(item: pytest.Item) -> set[str]:
    """The keys whose effect a test claims to prove."""
    return {key for mark in item.iter_markers("proves") for key in mark.args}


@dataclass
class Run:
    """A forked run of pytest."""

    name: str
    log: Path
    started: float
    code: int = -1
    seconds: float = 0.0

    @property
    def failed(self) -> list[str]:
        """The tests that failed."""
        file = self.log.with_suffix(".failed")
        return file.read_text().splitlines() if file.is_file() else []

    def verdict(self) -> str:
        """What the run says of its key."""
        match self.code:
            case _ if self.code == FAILED and self.failed:
                return "noticed"
            case _ if self.code == PASSED:
                return "SURVIVED"
            case _ if self.code == NONE:
                return "NO TEST"
            case _:
                return f"BROKEN (exit code {self.code})"


def main() -> int:
    """Run all keys, or those that are named; 1 if the effect of one can go unnoticed."""
    parser = argparse.ArgumentParser(prog="python tests/parity.py", description=__doc__)
    parser.add_argument("keys", nargs="*", default=["*"], help="patterns of keys, such as wandb.*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--logs", type=Path, help="a folder for what pytest wrote")
    options = parser.parse_args()
    keys = [
        key
        for key in reference_keys()
        if any(fnmatch.fnmatch(key, pattern) for pattern in options.keys)
    ]
    if not keys:
        parser.error(f"no key matches {' '.join(options.keys)}")
    started = time.perf_counter()
    for library in LIBRARIES:
        __import__(library)
    logs = options.logs or Path(tempfile.mkdtemp(prefix="neobert-parity-"))
    logs.mkdir(parents=True, exist_ok=True)
    tests = {key: files_of(key) for key in keys}
    runs = {}
    for run in forks(tests, logs, options.jobs):
        runs[run.name] = run
        seen = run.failed[0] if run.failed else ""
        say(f"{run.name}: {run.verdict()} in {run.seconds:.0f} s {seen}")
    bad = {key: runs[key].verdict() for key in keys if runs[key].verdict() != "noticed"}
    witnesses = {key: runs[key].failed[0] for key in keys if key not in bad}
    for test in failing_anyway(set(witnesses.values()), logs):
        bad |= {key: f"BROKEN TEST {test}" for key in keys if witnesses.get(key) == test}
    minutes = (time.perf_counter() - started) / 60
    say(f"{len(keys)} keys in {minutes:.1f} min, {len(keys) - len(bad)} proved; logs in {logs}")
    for key, verdict in bad.items():
        say(f"  {key}: {verdict}\n    " + "\n    ".join(proofs_by_key()[key]))
    return 1 if bad else 0


def say(line: str) -> None:
    """Write a line at once, before a fork copies the buffer."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def files_of(key: str) -> list[str]:
    """The test files with a proof of ``key``."""
    return sorted({proof.partition("::")[0] for proof in proofs_by_key()[key]})


def forks(tests: dict[str, list[str]], logs: Path, jobs: int) -> Iterator[Run]:
    """A mutated run for each key, ``jobs`` at a time, in the order in which they end."""
    waiting, running = list(tests), dict[int, Run]()
    while waiting or running:
        while waiting and len(running) < jobs:
            key = waiting.pop(0)
            run = Run(key, logs / f"{key}.log", time.perf_counter())
            marked = Marked(key)
            running[fork(run, tests[key], marked)] = run
        pid, status = os.wait()
        run = running.pop(pid)
        run.code = os.waitstatus_to_exitcode(status)
        run.seconds = time.perf_counter() - run.started
        yield run


def fork(run: Run, tests: list[str], marked: Marked | None) -> int:
    """Start pytest in a fork, mutated if ``marked`` names a key; the number of its process."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(ROOT)
        plugins: list[object] = []
        if marked is not None:
            mutate(marked.key)
            plugins = [marked]
        words = ["-x"] if marked is not None else []
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported above
        words += ["-p", "no:cacheprovider", f"--timeout={TIMEOUT}"]
        code = pytest.main([*words, *tests], plugins)
        if marked is not None:
            run.log.with_suffix(".failed").write_text("\n".join(marked.failed))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def mutate(key: str) -> None:
    """Take the effect of ``key`` away here and in the processes that the tests start."""
    os.environ[mutant.VARIABLE] = key
    paths = [str(MUTATION), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    mutant.install(key)


def failing_anyway(tests: set[str], logs: Path) -> list[str]:
    """Which of ``tests`` fail without a mutation, too."""
    if not tests:
        return []
    run = Run("unmutated", logs / "unmutated.log", time.perf_counter())
    marked = None
    pid = fork(run, sorted(tests), marked)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == PASSED:
        return []
    text = run.log.read_text()
    return [
        test for test in sorted(tests) if f"FAILED {test}" in text or f"ERROR {test}" in text
    ] or sorted(tests)


if __name__ == "__main__":
    sys.exit(main())
