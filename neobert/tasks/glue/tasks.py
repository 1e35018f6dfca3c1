"""The tasks, as rows of one table: columns, labels, metrics, official score, source.

GLUE: Wang et al. 2019 (arXiv 1804.07461). The score is what its leaderboard averages: a task's only
metric, or the mean of its metrics. A new task is a new row, and its name in
``neobert/config/glue.py``; a task of one's own needs no row, only ``glue.text_columns``
(:func:`task_of`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from neobert.config.glue import MULTI_LABEL_METRICS, GlueConfig
from neobert.data.task_splits import TableTask

GLUE = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SNLI_REVISION = "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b"
ALL_NLI_REVISION = "d482672c8e74ce18da116f430137434ba2e52fab"

NUMBER = "idx"
"""Column of an example's number, where the data has one."""

DROPPED = -1
"""In ``relabel``: examples with this label are left out."""

ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueTask(TableTask):
    """What is known of a task before its data is read; ``texts``: one, or the two of a pair."""

    label_column: str = "label"
    source: str = GLUE
    """Dataset of the hub, or a packaged corpus (:mod:`neobert.tasks.glue.packaged`)."""

    config: str | None = None
    revision: str | None = GLUE_REVISION
    others: tuple[str, ...] = (NUMBER,)

    labels: tuple[str, ...] = ()
    """Names of the classes 0, 1, …; empty: a regression, or classes that the data names."""

    regression: bool = False
    multi_label: bool = False
    """A text has any number of the labels."""

    label_columns: tuple[str, ...] = ()
    """Of 0 and 1, one for each label; empty: ``label_column`` holds lists."""

    relabel: Mapping[int, int] = field(default_factory=dict)
    """Labels that are renamed or ``DROPPED`` before anything else."""

    label_range: tuple[float, float] | None = None
    """Bounds of a regression's labels."""

    metrics: tuple[str, ...] = ("accuracy",)
    """Rows of :mod:`neobert.tasks.glue.metrics`, in this order."""

    score: tuple[str, ...] = ()
    """The logged metrics whose mean is the official score; empty: all of them."""

    start_from: str | None = None
    """Task that ``glue.transfer_from_task`` starts from."""

    predicts_names: bool = True
    """Files of predictions have the names of the classes, not their numbers."""

    @property
    def num_labels(self) -> int:
        """Scores of a document: classes, or 1 in a regression."""
        return 1 if self.regression else len(self.labels)

    @property
    def problem_type(self) -> str:
        """What transformers calls the kind of task."""
        if self.regression:
            return "regression"
        kind = "multi" if self.multi_label else "single"
        return f"{kind}_label_classification"


def _glue(config: str, *texts: str, **others: object) -> GlueTask:
    return GlueTask(config=config, texts=texts, **others)  # type: ignore[arg-type]


PAIR = ("sentence1", "sentence2")
PREMISE = ("premise", "hypothesis")

TASKS: dict[str, GlueTask] = {
    "cola": _glue(
        "cola",
        "sentence",
        labels=("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
        predicts_names=False,
    ),
    "sst2": _glue("sst2", "sentence", labels=("negative", "positive"), predicts_names=False),
    "mrpc": _glue(
        "mrpc",
        *PAIR,
        labels=("not_equivalent", "equivalent"),
        predicts_names=False,
        metrics=("accuracy", "f1"),
        start_from="mnli",
    ),
    "stsb": _glue(
        "stsb",
        *PAIR,
        regression=True,
        metrics=("pearson", "spearmanr"),
        label_range=(0.0, 5.0),
        start_from="mnli",
    ),
    "qqp": _glue(
        "qqp",
        "question1",
        "question2",
        labels=("not_duplicate", "duplicate"),
        predicts_names=False,
        metrics=("accuracy", "f1"),
    ),
    "mnli": _glue(
        "mnli",
        *PREMISE,
        labels=NLI,
        score=("accuracy", "accuracy_mm"),
        validation={"validation_matched": "", "validation_mismatched": "_mm"},
        test=("test_matched", "test_mismatched"),
        start_from="snli",
    ),
    "qnli": _glue(
        "qnli",
        "question",
        "sentence",
        labels=ENTAILMENT,
        start_from="mnli",
    ),
    "rte": _glue("rte", *PAIR, labels=ENTAILMENT, start_from="mnli"),
    "wnli": _glue(
        "wnli",
        *PAIR,
        labels=("not_entailment", "entailment"),
        predicts_names=False,
        start_from="allnli",
    ),
    # The diagnostic set has no training data: an MNLI model predicts it.
    "ax": _glue(
        "mnli",
        *PREMISE,
        labels=NLI,
        metrics=("accuracy",),
        validation={"validation_matched": ""},
        test_config="ax",
        start_from="mnli",
    ),
    "snli": GlueTask(
        texts=PREMISE,
        labels=NLI,
        source="stanfordnlp/snli",
        revision=SNLI_REVISION,
        relabel={-1: DROPPED},  # annotators did not agree
    ),
    "allnli": GlueTask(
        texts=PREMISE,
        labels=ENTAILMENT,
        source="sentence-transformers/all-nli",
        config="pair-class",
        revision=ALL_NLI_REVISION,
        validation={"dev": ""},
        relabel={2: 1},
    ),
    # Derived or packaged tasks, which need no network.
    "factbook_sections": GlueTask(texts=("text",), source="factbook_sections", revision=None),
    "rotten_tomatoes": GlueTask(
        texts=("text",),
        labels=("negative", "positive"),
        source="rotten_tomatoes",
        revision=None,
    ),
    "question_types": GlueTask(
        texts=("text",),
        labels=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
        source="question_types",
        revision=None,
    ),
}


def task_of(config: GlueConfig, hub_id: str, hub_config: str | None) -> GlueTask:
    """The row of ``glue.task_name``, or the task that the ``glue`` section describes."""
    if config.task_name in TASKS:
        return TASKS[config.task_name]
    default: tuple[str, ...] = ("pearson", "spearmanr") if config.regression else ("accuracy",)
    if config.multi_label:
        default = MULTI_LABEL_METRICS
    return GlueTask(
        texts=tuple(config.text_columns),
        labels=tuple(config.label_columns),
        regression=config.regression,
        multi_label=config.multi_label,
        label_columns=tuple(config.label_columns),
        metrics=tuple(config.metrics) or default,
        score=("micro_f1",) if config.multi_label and not config.metrics else (),
        source=hub_id,
        config=hub_config,
        revision=None,
        others=(NUMBER, *config.label_columns),
        label_column=config.label_columns[0] if config.label_columns else config.label_column,
    )
