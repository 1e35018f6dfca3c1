"""The ``dataset`` section: where text comes from and how it is fed."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any

from neobert.config.checks import (
    Above0,
    Count,
    Limit,
    NotNegative,
    Positive,
    Share,
    at_least,
    require,
    within,
)
from neobert.config.mixture import mixture_problems
from neobert.config.section import Section

FRACTION = Limit("be between 0 and 1, both excluded", lambda share: 0 < share < 1)


@dataclass(kw_only=True)
class DatasetConfig(Section):
    """Documents, their splits, their tokens, their workers."""

    name: str = "refinedweb"
    """Packaged corpus (factbook, imdb, shakespeare), hub id, or source of the contrastive task."""

    config: str | None = None
    """Configuration (subset) of the hub dataset."""

    path: str = ""
    """Local file or folder (parquet, jsonl, csv, text, ``save_to_disk``); wins over ``name``."""

    mixture: dict[str, Any] = field(default_factory=dict)
    """Sources of pretraining by a name of yours: ``{path or name, weight, max_epochs}``, and other
    keys of this section that say which text it is (``config``, ``text_column``, ``train_split``,
    ``eval_split``, ``validation_split``, ``eval_samples``, ``trust_remote_code``). Weights sum to
    1; without them, shares are by tokens. Empty: one source."""

    mixture_temperature: NotNegative | None = None
    """Shares proportional to the weights (or tokens) to this power: below 1 small sources get
    more; 0: equal shares. ``null``: 1."""

    num_workers: Count = 16
    """Loader processes; lowered to the available cores, and for a stream to a number that
    divides its readers."""

    pin_memory: bool = False
    """Page-locked host memory for copies to a GPU; always on there."""

    persistent_workers: bool = True
    """Keep loader processes between iterations."""

    prefetch_factor: Positive | None = None
    """Batches that each worker prepares ahead; ``null`` leaves PyTorch's default (4 on CUDA)."""

    streaming: bool = True
    """Read a hub dataset as a stream, without downloading it whole."""

    cache_dir: str | None = None
    """Where downloads, tokens and row plans are kept; ``null``: ``$NEOBERT_CACHE`` or
    ``~/.cache/neobert``."""

    trust_remote_code: bool = False
    """Allow a dataset's own loading code to run."""

    max_seq_length: Annotated[int, at_least(3)] = 512
    """Longest document in tokens, and the row length of packing."""

    crop_min_length: Positive | None = None
    """Cut documents at random lengths from this many tokens up to ``max_seq_length``, other ones in
    each epoch, before packing; no token is lost. ``null``: cut at ``max_seq_length`` only."""

    crop_share: Share = 1.0
    """Share of the crops whose length is random, with ``crop_min_length``, in [0, 1]."""

    text_column: str | None = None
    """Column of the text; ``null`` takes the first of text, sentence, content."""

    validation_split: Annotated[float, FRACTION] | None = None
    """Fraction of the training documents held out, in (0, 1); map-style data only."""

    train_split: str | None = None
    """Training split, slices allowed: ``train[:90%]``."""

    eval_split: str | None = None
    """Evaluation split, slices allowed."""

    eval_samples: Positive | None = None
    """Documents to evaluate on at most; taken from training where there is no evaluation split."""

    num_proc: int = 4
    """Processes that tokenise documents and pairs; 0 or less: as many as there are cores."""

    shuffle_buffer_size: int = 10000
    """Documents among which a stream is shuffled, over all its readers; 0 or less keeps its order
    (with several readers, the order of the documents of each)."""

    stream_readers: Annotated[int, within(1, 4096)] | None = None
    """Readers that a stream is dealt to: a multiple of the processes; part of the order of the
    data, so the same in a resumed run. ``null``: 64, fewer for a stream of few documents, one for
    a stream in its order."""

    pre_tokenize: bool = False
    """Tokenise everything first, into a folder that other runs can use."""

    pre_tokenize_output: str | None = None
    """That folder; ``null``: below the cache, named by data, tokenizer and settings."""

    load_all_from_disk: bool = False
    """Contrastive preparation: take splits that are cached already as they are."""

    force_redownload: bool = False
    """Contrastive preparation: rebuild the cached splits."""

    pretraining_prob: Share = 0.3
    """Contrastive: probability that a step is a pretraining step against forgetting, in [0, 1]."""

    min_length: Count = 512
    """Pretraining on ``filter_by_length``: shortest document in tokens that is kept."""

    filter_by_length: bool = False
    """Keep only documents of at least ``min_length`` tokens: a stage of longer context."""

    alpha: Above0 = 1.0
    """Contrastive: a source is drawn with probability proportional to size ** alpha."""

    skip_steps: list[str] = field(default_factory=list)
    """Spans of steps whose data is left out, such as ``1200-1300``, after a loss spike."""

    def combinations(self) -> list[str]:
        longest = self.crop_min_length is None or self.crop_min_length <= self.max_seq_length - 2
        problems = require(
            longest,
            f"dataset.crop_min_length={self.crop_min_length} is longer than documents of "
            f"dataset.max_seq_length={self.max_seq_length} with their start and end token",
        )
        problems += mixture_problems(self)
        spans = [problem for span in self.skip_steps for problem in _span_problems(span)]
        return problems + (spans or _overlap_problems(self.skip_steps))


def _overlap_problems(spans: list[str]) -> list[str]:
    ordered = sorted(spans, key=lambda span: int(span.partition("-")[0]))
    return [
        f"dataset.skip_steps: {span} and {next_span} overlap; write one span"
        for span, next_span in pairwise(ordered)
        if int(next_span.partition("-")[0]) <= int(span.partition("-")[2])
    ]


def _span_problems(span: str) -> list[str]:
    first, dash, last = span.partition("-")
    good = bool(dash) and first.isdigit() and last.isdigit() and int(first) <= int(last)
    return require(good, f"dataset.skip_steps: {span!r} is not a span of steps such as 1200-1300")
