"""What is special about a contrastive run."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from neobert.config.root import Config
from neobert.optim.schedule import Schedule
from neobert.tasks.contrastive.data import ContrastiveDataModule
from neobert.tasks.contrastive.module import ContrastiveModule
from neobert.tasks.contrastive.starting_model import open_start
from neobert.training.metrics_file import read_metrics
from neobert.training.run import TaskRun, TrainedRun


class ContrastiveRun(TaskRun):
    """Pairs of texts in, an encoder whose vectors tell which texts belong together out."""

    data: ContrastiveDataModule

    def __init__(self, config: Config, resume: Path | None) -> None:
        self.start = open_start(config, resume)
        self.config = self.requested = self.start.config
        self.data = ContrastiveDataModule(self.config, self.start.tokenizer)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.start.tokenizer.tokenizer

    @property
    def tokenizer_info(self) -> dict[str, object]:
        return self.start.tokenizer.info()

    def check(self) -> None:
        self.data.evaluation.check_metric(self.config.trainer.metric_for_best_model)

    def objective(self, run: TrainedRun) -> str:
        return run.parts.checkpointer.best.metric or "eval/mrr_at_10"

    def build_module(self, schedule: Schedule) -> ContrastiveModule:
        return ContrastiveModule(self.start.model, self.data.evaluation, schedule, self.config)

    def summary(self, run: TrainedRun) -> dict[str, object]:
        rows = read_metrics(run.folder.metrics_file)
        pairs = sum(float(row.get("train/pairs") or 0) for row in rows)
        speed = pairs / max(run.parts.metrics.seconds, 1e-9)
        return {
            "starts_from": self.start.origin,
            "pairs": pairs,
            "pairs_per_sec": round(speed, 1),
        }

    def report(self, run: TrainedRun, summary: Mapping[str, object]) -> None:
        """Print the evaluations before and after to the terminal."""
        before, after = summary["before"], summary["after"]
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        table = Table(title=str(run.folder.path), title_justify="left")
        table.add_column("")
        for column in ("before", "after"):
            table.add_column(column, justify="right")
        for name, value in after.items():
            was = before.get(name)
            shown = "" if was is None else f"{was:.4f}"
            table.add_row(name.removeprefix("eval/"), shown, f"{value:.4f}")
        console = Console(stderr=True)
        if after:
            console.print(table)
        console.print(f"{summary['pairs_per_sec']:,.0f} pairs/s in {summary['seconds']:.0f} s")
