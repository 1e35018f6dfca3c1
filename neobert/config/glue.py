"""The ``glue`` section: fine-tuning on classification and regression tasks."""

from dataclasses import dataclass, field
from typing import Annotated

from neobert.config.checks import (
    Count,
    Dropout,
    Limit,
    NotNegative,
    Positive,
    at_least,
    broken,
    one_of,
    require,
)
from neobert.config.section import Section

TASK_NAMES = (
    "cola",
    "sst2",
    "mrpc",
    "stsb",
    "qqp",
    "mnli",
    "qnli",
    "rte",
    "wnli",
    "ax",
    "snli",
    "allnli",
    "factbook_sections",
    "rotten_tomatoes",
    "question_types",
)
"""The rows of ``neobert/tasks/glue/tasks.py``, here so that a typing error is reported at once."""

METRIC_NAMES = ("accuracy", "f1", "macro_f1", "matthews_correlation", "pearson", "spearmanr")
MULTI_LABEL_METRICS = ("micro_f1", "macro_f1", "average_precision")
"""The rows of ``neobert/tasks/glue/metrics.py``, for one label a text and for several."""

OWN_TASK = ("text_columns", "metrics", "multi_label", "label_columns", "regression")

ONE_OR_A_PAIR = Limit("name one column, or two for pairs", lambda columns: len(columns) <= 2)
SEVERAL = Limit(
    "name two or more different columns",
    lambda columns: len(columns) != 1 and len(set(columns)) == len(columns),
)


@dataclass(kw_only=True)
class GlueConfig(Section):
    """A task, the weights it starts from, and its classifier."""

    task_name: str = "cola"
    """A row of ``neobert/tasks/glue/tasks.py``: cola, sst2, mrpc, stsb, qqp, mnli, …; or a name of
    your own, with ``text_columns``."""

    num_labels: Positive = 2
    """Classes; taken from the task (a warning says so where it differs). 1 is regression."""

    max_seq_length: Annotated[int, at_least(3)] = 128
    """Longest input in tokens."""

    pretrained_model_path: str | None = None
    """Start from this run, checkpoint, exported folder, hub id, or pretraining ``config.yaml``."""

    pretrained_checkpoint_dir: str | None = None
    """Start from this run; wins over ``pretrained_model_path``."""

    pretrained_checkpoint: str | int | None = None
    """Which checkpoint of the run; ``null``: what the root's ``pretrained_checkpoint`` says."""

    allow_random_weights: bool = False
    """Start from random weights."""

    classifier_activation: Annotated[str, one_of("tanh", "gelu", "none")] = "tanh"
    """What follows the classifier's dense layer: ``tanh``; ``gelu``, which exports to a format that
    transformers loads without our code; ``none``: no dense layer, which does too."""

    classifier_pooling: Annotated[str, one_of("cls", "avg")] = "cls"
    """What the classifier reads: the first token (``cls``) or the mean of the tokens (``avg``)."""

    classifier_dropout: Dropout = 0.1
    """Dropout around the classifier's dense layer, in [0, 1)."""

    classifier_init_range: NotNegative = 0.02
    """Standard deviation that the classifier's weights start from."""

    transfer_from_task: bool = False
    """Start from the run of the task's usual source (MNLI for RTE, MRPC, STS-B) in this sweep."""

    transfer_dir: str | None = None
    """Where that run is looked for; ``null``: the folder that holds ``trainer.output_dir``."""

    num_workers: Count = 4
    """Loader processes."""

    preprocessing_num_proc: Count = 4
    """Processes for tokenisation; 0: none. Small sets are done in this process."""

    text_columns: Annotated[list[str], ONE_OR_A_PAIR] = field(default_factory=list)
    """Your own task: the column of the text, or the two of a pair."""

    label_column: str = "label"
    """Your own task: its labels, which are names, or whole numbers from 0; numbers in
    regression."""

    multi_label: bool = False
    """Your own task: a text has any number of labels. ``label_column`` holds a list of names or
    whole numbers. Binary cross-entropy; a threshold per class, tuned for F1 on the evaluation
    data."""

    label_columns: Annotated[list[str], SEVERAL] = field(default_factory=list)
    """With ``multi_label``: a column of 0 and 1 for each label, instead of ``label_column``."""

    regression: bool = False
    """Your own task: the labels are numbers to be predicted, with squared error as loss."""

    metrics: list[str] = field(default_factory=list)
    """Your own task: accuracy, f1, macro_f1, matthews_correlation, pearson, spearmanr, or with
    ``multi_label`` micro_f1, macro_f1, average_precision (mean over the labels); their mean is the
    score. Empty: accuracy; Pearson and Spearman in regression; with ``multi_label`` all three,
    with micro_f1 as the score."""

    def combinations(self) -> list[str]:
        known = one_of(*(MULTI_LABEL_METRICS if self.multi_label else METRIC_NAMES))
        problems = [line for name in self.metrics for line in broken("glue.metrics", name, known)]
        return problems + self._label_problems() + self._task_problems() + self._start_problems()

    def _task_problems(self) -> list[str]:
        own = [key for key in OWN_TASK if getattr(self, key)]
        if self.task_name in TASK_NAMES:
            return [
                f"glue.{key} is for tasks of your own; glue.task_name={self.task_name} has its row "
                "in neobert/tasks/glue/tasks.py: choose another name"
                for key in own
            ]
        return require(
            bool(self.task_name) and bool(self.text_columns),
            f"glue.task_name={self.task_name}: must be one of {', '.join(TASK_NAMES)}; or, for a "
            "task of your own, set glue.text_columns and dataset.path (docs/fine-tuning.md)",
        )

    def _label_problems(self) -> list[str]:
        problems = require(
            not (self.multi_label and self.regression),
            "glue.multi_label=true and glue.regression=true exclude each other",
        )
        return problems + require(
            self.multi_label or not self.label_columns,
            f"glue.label_columns={self.label_columns}: needs glue.multi_label=true; one label per "
            "text is in glue.label_column",
        )

    def _start_problems(self) -> list[str]:
        return require(
            not (self.transfer_from_task and self.pretrained_checkpoint_dir),
            "glue.transfer_from_task=true and glue.pretrained_checkpoint_dir="
            f"{self.pretrained_checkpoint_dir} exclude each other: the source run has the weights",
        )
