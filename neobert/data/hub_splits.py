"""Splits of datasets on the hub, at pinned revisions. Not tested: there is no hub here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from datasets import Dataset

from neobert.config.dataset import DatasetConfig
from neobert.errors import ConfigError
from neobert.files import first_line

if TYPE_CHECKING:
    from neobert.data.task_splits import TableTask

CONVERTED = "refs/convert/parquet"
"""Branch of the hub's own conversion to parquet, with a folder per configuration. For datasets
that consist of loading code, which ``datasets`` no longer runs; no fixed commit of it is known."""

REVISIONS = {
    "eriktks/conll2003": CONVERTED,
    "leondz/wnut_17": CONVERTED,
    "universal-dependencies/universal_dependencies": CONVERTED,
    "google-research-datasets/go_emotions": "add492243ff905527e67aeb8b80c082af02207c3",
    "rajpurkar/squad": "7b6d24c440a36b6815f21b70d25016731768db1f",
    "rajpurkar/squad_v2": "3ffb306f725f7d2ce8394bc1873b24868140c412",
}


@dataclass(frozen=True, slots=True)
class HubReader:
    """A dataset of the Hugging Face Hub, at the revision of the task's row, or a pinned one."""

    task: "TableTask"
    config: DatasetConfig
    cache: Path

    @property
    def revision(self) -> str | None:
        """The revision to read; ``None``: the newest."""
        return self.task.revision or REVISIONS.get(self.task.source)

    @property
    def origin(self) -> str:
        parts = [self.task.source, self.task.config or "", self.revision or ""]
        return " ".join(part for part in parts if part)

    def split(self, split: str, kind: str) -> Dataset | None:
        """The rows of ``split``, slices allowed; ``None`` if the dataset has none of this name."""
        test_config = self.task.test_config if kind == "test" else None
        key = "data_dir" if self.revision == CONVERTED else "name"
        chosen = {key: test_config or self.task.config}
        extra = {"trust_remote_code": True} if self.config.trust_remote_code else {}
        try:
            return datasets.load_dataset(
                self.task.source,
                split=split,
                revision=self.revision,
                cache_dir=str(self.cache / "hub"),
                **chosen,
                **extra,
            )
        except ValueError as error:
            if "Unknown split" in str(error):
                return None
            raise self._failed(error) from error
        except Exception as error:  # the hub's client raises dozens of kinds
            raise self._failed(error) from error

    def files_of(self, splits: Mapping[str, str]) -> dict[str, str]:
        """None: the splits of the hub go by their names."""
        return {}

    def missing(self, split: str) -> ConfigError:
        """What to say if a split is not there."""
        return ConfigError(f"{self.origin} has no split {split}")

    def _failed(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.origin} could not be loaded from the hub ({type(error).__name__}: "
            f"{first_line(error)}); dataset.path=FOLDER reads local files of the same columns "
            f"({self.task.config or 'the task'}/train.jsonl, …)"
        )
