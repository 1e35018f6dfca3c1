"""The ``glue`` section: fine-tuning on classification and regression tasks."""

from dataclasses import dataclass

from neobert.config.checks import at_least, require, within


@dataclass(kw_only=True)
class GlueConfig:
    """A task, the weights it starts from, and its classifier."""

    task_name: str = "cola"
    """A row of ``neobert/tasks/glue/tasks.py``: cola, sst2, mrpc, stsb, qqp, mnli, …"""

    num_labels: int = 2
    """Classes; taken from the task (a warning says so where it differs). 1 is regression."""

    max_seq_length: int = 128
    """Longest input in tokens."""

    pretrained_model_path: str | None = None
    """Start from this run, checkpoint, exported folder, or pretraining ``config.yaml``."""

    pretrained_checkpoint_dir: str | None = None
    """Start from a checkpoint of this run."""

    pretrained_checkpoint: str | int | None = None
    """Which: a step, ``latest`` or ``best``; ``null``: the root's ``pretrained_checkpoint``."""

    allow_random_weights: bool = False
    """Start from random weights."""

    classifier_dropout: float = 0.1
    """Dropout around the classifier's dense layer, in [0, 1)."""

    classifier_init_range: float = 0.02
    """Standard deviation that the classifier's weights start from."""

    transfer_from_task: bool = False
    """Start from the run of the task's usual source (MNLI for RTE, MRPC, STS-B) in this sweep."""

    num_workers: int = 4
    """Loader processes."""

    preprocessing_num_proc: int = 4
    """Processes for tokenisation; 0: none."""

    def problems(self) -> list[str]:
        """What is wrong with this section; empty if nothing is."""
        found = at_least("glue.num_labels", self.num_labels, 1)
        found += at_least("glue.max_seq_length", self.max_seq_length, 3)
        found += at_least("glue.num_workers", self.num_workers, 0)
        found += at_least("glue.preprocessing_num_proc", self.preprocessing_num_proc, 0)
        found += within("glue.classifier_dropout", self.classifier_dropout, 0, 0.999)
        found += at_least("glue.classifier_init_range", self.classifier_init_range, 0)
        return found + require(bool(self.task_name), "glue.task_name: must name a task")
