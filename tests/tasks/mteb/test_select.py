"""What ``mteb_task_type`` stands for."""

from collections import Counter

import pytest

from neobert.errors import ConfigError
from neobert.tasks.mteb.select import check_prompts, select_tasks


def names(asked: str) -> list[str]:
    return [task.metadata.name for task in select_tasks(asked, [])[0]]


@pytest.mark.proves("mteb_task_type")
def test_families_are_those_of_the_reference() -> None:
    sizes = {
        "classification": 12,
        "clustering": 11,
        "pair_classification": 3,
        "reranking": 4,
        "retrieval": 15,  # CQADupstack's twelve parts are one
        "sts": 11,  # SummEval among them
    }
    assert {family: len(names(family)) for family in sizes} == sizes
    together = [name for family in sizes for name in names(family)]
    assert sorted(names("all")) == sorted(together)
    assert len(names("all")) == 56
    tasks = {task.metadata.name: task for task in select_tasks("retrieval", [])[0]}
    assert len(tasks["CQADupstackRetrieval"].metadata.tasks) == 12
    assert tasks["MSMARCO"].eval_splits == ["dev"]


def test_names_come_in_any_case_and_count_once() -> None:
    assert names("sts12, STS12 ,sts13") == ["STS12", "STS13"]
    assert names("STS,stsbenchmark") == names("sts")
    english = select_tasks("STS22", [])[0][0]
    assert english.hf_subsets == ["en"]


@pytest.mark.parametrize("asked", ["MTEB(eng, v2)", "mteb(ENG, V2)"])
def test_a_benchmark_has_commas_in_its_name(asked) -> None:
    tasks, benchmark = select_tasks(asked, [])
    assert benchmark is not None
    assert benchmark.name == "MTEB(eng, v2)"
    assert len(tasks) == 41
    assert select_tasks(f"{asked},local", [])[1] is None


def test_local_is_the_packaged_five() -> None:
    tasks = select_tasks("local", [])[0]
    kinds = Counter(task.metadata.type for task in tasks)
    assert set(kinds) == {"Retrieval", "Classification", "Clustering", "PairClassification", "STS"}
    assert names("factbooksts") == ["FactbookSTS"]


def test_all_unknown_names_are_told_together() -> None:
    with pytest.raises(ConfigError) as error:
        select_tasks("sts,nonsense,STSBenchmrk", [])
    assert len(error.value.problems) == 2
    assert "did you mean STSBenchmark" in error.value.problems[1]
    with pytest.raises(ConfigError, match="names no task"):
        select_tasks(" , ", [])


def test_prompts_belong_to_something() -> None:
    tasks = select_tasks("local", [])[0]
    good = ["query", "Retrieval-document", "STS12", "FactbookSTS", "FactbookRetrieval-query"]
    check_prompts(dict.fromkeys(good, "x: "), tasks)
    with pytest.raises(ConfigError) as error:
        check_prompts({"passage": "x", "Retrieval-passage": "x"}, tasks)
    assert len(error.value.problems) == 2
