"""The data of GLUE: labelled texts in batches that are addressable by their step."""

from collections.abc import Sequence

import numpy as np
import torch

from neobert.config.glue import GlueConfig
from neobert.console import get_logger
from neobert.data.cache import cache_folder
from neobert.tasks.glue.labelled_batch import Examples, LabelledBatch, LabelledDocument
from neobert.tasks.glue.labels import label_splits
from neobert.tasks.glue.packaged import SOURCES, packaged_folder
from neobert.tasks.glue.pair_tokenizer import PairTokenizer
from neobert.tasks.glue.tasks import GlueTask, task_of
from neobert.tasks.glue.tokenized_examples import tokenize
from neobert.training.documents import DocumentDataModule

log = get_logger(__name__)


class GlueDataModule(DocumentDataModule[LabelledDocument, LabelledBatch]):
    """Texts and labels of all splits of one task."""

    section, unit = "glue", "examples"
    shared = ("task_name", "max_seq_length", "classifier_dropout")
    documents: dict[str, Examples]
    task: GlueTask

    def read(self) -> None:
        """Read, check and tokenise all splits; what is cached is taken from there."""
        dataset, glue = self.config.dataset, self.config.glue
        cache = cache_folder(dataset.cache_dir)
        row = task_of(glue, dataset.name, dataset.config)
        packaged = None
        if row.source in SOURCES and not dataset.path:
            packaged = packaged_folder(row.source, cache)
        splits = self.open_splits(row, glue.task_name, packaged)
        self.validation_splits = [f"validation{end}" for end in splits.validation]
        self.task, labelled = label_splits(row, splits)
        tokenizer = PairTokenizer.of(
            self.tokenizer, row.texts, glue.max_seq_length, own=self.packed
        )
        self.documents = {
            split: tokenize(part, tokenizer, cache, glue.preprocessing_num_proc)
            for split, part in labelled.items()
        }
        tests = [len(self.documents[split]) for split in self.test_splits]
        log.info(
            "data: %s, %s training examples (%.1f tokens on average), %s to evaluate on%s",
            glue.task_name,
            f"{len(self.train):,}",
            self.train_tokens / len(self.train),
            " + ".join(f"{len(self.documents[split]):,}" for split in self.validation_splits),
            f", {sum(tests):,} to predict" if tests else "",
        )

    @property
    def train_tokens(self) -> int:
        return self.documents["train"].num_tokens

    def fingerprint(self) -> dict[str, object]:
        """With what differs from the default head: older checkpoints have no entry for it."""
        glue, default = self.config.glue, GlueConfig()
        return super().fingerprint() | {
            f"glue.{name}": getattr(glue, name)
            for name in ("classifier_activation", "classifier_pooling", "multi_label")
            if getattr(glue, name) != getattr(default, name)
        }

    def batch(
        self, documents: Sequence[LabelledDocument], step: Sequence[LabelledDocument] = ()
    ) -> LabelledBatch:
        """The batch of these examples. Without any it is a pad token, which has no label."""
        pads_all = self.config.tokenizer.padding == "max_length"
        inputs = self.inputs(
            [example.ids.tolist() for example in documents],
            [example.types.tolist() for example in documents],
            self.config.glue.max_seq_length if pads_all else None,
        )
        several = (self.task.num_labels,) if self.task.multi_label else ()
        labels = np.array([example.label for example in documents], np.float64)
        labels = np.nan_to_num(labels.reshape(len(documents), *several), nan=-1.0)
        is_real = self.task.regression or self.task.multi_label
        return LabelledBatch(
            inputs=inputs,
            labels=torch.from_numpy(labels).to(torch.float32 if is_real else torch.int64),
            rows=torch.tensor([example.row for example in documents], dtype=torch.int64),
            num_targets_in_step=len(step),
        )
