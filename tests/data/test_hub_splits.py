"""Datasets of the hub: presets name pinned ones, and a converted one is read by its folder."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neobert.config.compose import compose_config
from neobert.data.task_splits import CONVERTED, REVISIONS, HubReader, TableTask

PRESETS = {
    "conll2003": "token_classification",
    "wnut_17": "token_classification",
    "universal_dependencies": "token_classification",
    "go_emotions": "glue",
    "squad": "question_answering",
    "squad_v2": "question_answering",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_a_dataset_whose_revision_is_pinned(preset: str) -> None:
    start = {
        "glue": "glue.allow_random_weights=true",
        "token_classification": "tokens.allow_random_weights=true",
        "question_answering": "answers.allow_random_weights=true",
    }
    task = PRESETS[preset]
    config = compose_config([f"task={task}", f"dataset={preset}", start[task]])
    assert config.dataset.name in REVISIONS


def test_a_converted_dataset_is_read_by_the_folder_of_its_configuration(tmp_path: Path) -> None:
    for treebank, word in (("en_ewt", "good"), ("de_gsd", "gut")):
        for split in ("train", "test"):
            folder = tmp_path / "data" / treebank / split
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"tokens": [[word]], "upos": [[1]]}), folder / "0000.parquet")
    source = str(tmp_path / "data")  # a folder with the layout of the branch
    task = TableTask(("tokens",), "upos", source, "en_ewt", CONVERTED)
    reader = HubReader(task, tmp_path / "cache")
    rows = reader.split("train", "train")
    assert rows is not None
    assert rows["tokens"] == [["good"]]
    assert reader.split("validation", "validation") is None
