"""Tasks over data that is here: rows of five types made into what mteb evaluates, offline.

A task is either of our own making (``type`` says what it is) or one of mteb whose data is replaced
(its name says it). Its dataset's revision is a digest of the rows, so changed data is noticed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mteb
from datasets import Dataset, DatasetDict
from mteb import TaskMetadata
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)

from neobert.config.mteb import COLUMNS, LocalTask
from neobert.errors import ConfigError
from neobert.tasks.mteb.local_rows import Columns, Retrieval, read_retrieval, read_rows

Splits = Mapping[str, Columns]


@dataclass(frozen=True, slots=True)
class Kind:
    """What mteb makes of a type of :data:`neobert.config.mteb.COLUMNS`."""

    base: type[AbsTask]
    type: str
    main_score: str


KINDS = {
    "sts": Kind(AbsTaskSTS, "STS", "cosine_spearman"),
    "pair_classification": Kind(AbsTaskPairClassification, "PairClassification", "max_ap"),
    "classification": Kind(AbsTaskClassification, "Classification", "accuracy"),
    "clustering": Kind(AbsTaskClustering, "Clustering", "v_measure"),
    "retrieval": Kind(AbsTaskRetrieval, "Retrieval", "ndcg_at_10"),
}


def local_task(spec: LocalTask) -> AbsTask:
    """The task that ``mteb_local`` describes, with its data. Raises ``ConfigError``."""
    task = _task_of_mteb(spec) if spec.type is None else new_task(spec.name, spec.type, spec.split)
    kind = spec.type or kind_of(task)
    if kind is None:
        raise ConfigError(
            f"mteb_local.{spec.name}: its type {task.metadata.type} takes no local data"
        )
    if kind == "retrieval":
        return with_retrieval(task, spec.path, read_retrieval(spec))
    splits = [spec.split]
    if isinstance(task, AbsTaskClassification):
        splits.append(task.train_split)
    return with_rows(task, spec.path, {split: read_rows(spec, kind, split) for split in splits})


def new_task(name: str, kind: str, split: str = "test", description: str = "") -> AbsTask:
    """A task of type ``kind``, without data yet."""
    definition = KINDS[kind]
    metadata = TaskMetadata(
        name=name,
        description=description or f"A local task of type {kind}.",
        dataset={"path": "local", "revision": "none"},
        type=definition.type,  # type: ignore[arg-type]
        category="t2c" if kind in ("classification", "clustering") else "t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score=definition.main_score,
    )
    settings: dict[str, object] = {"metadata": metadata, "__doc__": metadata.description}
    if kind == "clustering":
        # mteb's default is 4 % of the rows, for corpora of a hundred thousand.
        settings |= {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": 1024}
    return type(name, (definition.base,), settings)()


def kind_of(task: AbsTask) -> str | None:
    """The type in our words, if it is one that takes local data."""
    for kind, definition in KINDS.items():
        # By both: reranking is a kind of retrieval to mteb, and an older clustering is another.
        if isinstance(task, definition.base) and task.metadata.type == definition.type:
            return kind
    return None


def with_rows(task: AbsTask, path: str, splits: Splits) -> AbsTask:
    """``task`` with these rows, in our columns, as its data."""
    kind = kind_of(task)
    assert kind is not None
    names = dict(zip(COLUMNS[kind], _columns_of(task), strict=True))
    data = DatasetDict(
        {
            split: Dataset.from_dict({names[name]: list(rows[name]) for name in names})
            for split, rows in splits.items()
        }
    )
    return _filled(task, path, data, splits)


def with_retrieval(task: AbsTask, path: str, data: Retrieval) -> AbsTask:
    """``task`` with these queries, documents and judgements as its data."""
    (split,) = task.eval_splits
    content = {
        "corpus": Dataset.from_list(data.corpus),
        "queries": Dataset.from_list(data.queries),
        "relevant_docs": data.relevant,
        "top_ranked": None,
    }
    return _filled(task, path, {split: content}, [data.corpus, data.queries, data.relevant])


def _filled(
    task: AbsTask, path: str, data: Mapping[str, object], content: Splits | Sequence[object]
) -> AbsTask:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    source = {"path": path, "revision": digest}
    task.metadata = task.metadata.model_copy(update={"dataset": source})
    task.dataset = {subset: data for subset in task.hf_subsets}  # type: ignore[misc]
    task.data_loaded = True
    return task


def _columns_of(task: AbsTask) -> tuple[str, ...]:
    """The task's names for the columns of its type, in their order."""
    match task:
        case AbsTaskSTS():
            return (*(str(name) for name in task.column_names), "score")
        case AbsTaskPairClassification():
            pair = (str(task.input1_column_name), str(task.input2_column_name))
            return (*pair, task.label_column_name)
        case AbsTaskClassification() | AbsTaskClustering():
            return str(task.input_column_name), task.label_column_name
        case _:
            raise TypeError(f"no columns for {type(task).__name__}")


def _task_of_mteb(spec: LocalTask) -> AbsTask:
    try:
        task = mteb.get_task(spec.name)
    except KeyError:
        raise ConfigError(
            f"mteb_local.{spec.name}: is no task of mteb; for one of your own say which type "
            f"it is: {', '.join(COLUMNS)}"
        ) from None
    if len(task.hf_subsets) != 1:
        task = mteb.get_task(spec.name, languages=["eng"])
    if len(task.hf_subsets) != 1:
        raise ConfigError(
            f"mteb_local.{spec.name}: has several subsets ({', '.join(task.hf_subsets)})"
        )
    task._eval_splits = [spec.split]
    return task
