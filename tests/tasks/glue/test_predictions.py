"""Files of predictions in GLUE's form."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neobert.tasks.glue.module import Predictions
from neobert.tasks.glue.predictions import predicted_texts, write_examples, write_submission
from neobert.tasks.glue.tasks import TASKS


@pytest.mark.parametrize(
    ("task", "scores", "texts"),
    [
        # As in the sample files of gluebenchmark.com: names for NLI tasks, else numbers.
        ("cola", [[2.0, 1.0], [0.0, 1.0]], ["0", "1"]),
        ("wnli", [[2.0, 1.0]], ["0"]),
        ("rte", [[2.0, 1.0], [0.0, 1.0]], ["entailment", "not_entailment"]),
        ("qnli", [[0.0, 1.0]], ["not_entailment"]),
        ("mnli", [[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]], ["neutral", "contradiction"]),
        ("ax", [[3.0, 2.0, 1.0]], ["entailment"]),
        ("stsb", [[2.34567], [-1.0], [6.0]], ["2.346", "0.000", "5.000"]),
    ],
)
def test_a_prediction_is_written_as_glue_takes_it(
    task: str, scores: list[list[float]], texts: list[str]
) -> None:
    assert predicted_texts(TASKS[task], torch.tensor(scores)) == texts


def test_a_submission_has_an_index_and_a_prediction(tmp_path: Path) -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    part = Predictions(scores, torch.tensor([-1, -1]), torch.arange(2))
    write_submission(TASKS["rte"], np.array([7, 8]), part, tmp_path / "out.tsv")
    expected = "index\tprediction\n7\tentailment\n8\tnot_entailment\n"
    assert (tmp_path / "out.tsv").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.tsv"]


def test_an_evaluation_set_shows_each_example(tmp_path: Path) -> None:
    scores = torch.tensor([[0.0, 0.0], [0.0, 50.0]])
    part = Predictions(scores, torch.tensor([1, 0]), torch.arange(2))
    write_examples(TASKS["rte"], np.arange(2), part, tmp_path / "out.tsv")
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    assert lines[0] == "index\tlabel\tprediction\tp(entailment)\tp(not_entailment)"
    assert lines[1] == "0\tnot_entailment\tentailment\t0.500000\t0.500000"
    assert lines[2] == "1\tentailment\tnot_entailment\t0.000000\t1.000000"
