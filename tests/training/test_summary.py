import pytest

from neobert.training.summary import command_line


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("/somewhere/neobert/neobert/train.py", "neobert.train"),
        ("/somewhere/neobert/benchmarks/encode.py", "benchmarks.encode"),
        ("/site-packages/neobert/export/__main__.py", "neobert.export"),
    ],
)
def test_a_command_is_recorded_as_it_is_typed(
    monkeypatch: pytest.MonkeyPatch, program: str, module: str
) -> None:
    monkeypatch.setattr("sys.argv", [program, "trainer.max_steps=3"])
    assert command_line() == ["python", "-m", module, "trainer.max_steps=3"]


def test_another_program_is_recorded_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", "-q"])
    assert command_line() == ["pytest", "-q"]
