"""The bench's peers: Hugging Face's ``Trainer`` as its ``run_mlm`` example uses it.

``python -m benchmarks.peers JOB.json`` trains one model in one mode and writes what it
measured beside the job. A process of its own, so that its memory is its own.

Modes: ``dynamic`` (a document per row, padded to the longest of the batch, at most 512 tokens),
``chunk-128`` and ``chunk-512`` (documents end to end, cut every so many tokens, attention across
them).
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from neobert.config.tokenizer import TokenizerConfig
from neobert.data.corpora import read_corpus
from neobert.data.tokenizer import load_tokenizer
from neobert.ops.swiglu import swiglu_width
from neobert.training.cpu import keep_freed_memory
from neobert.training.summary import peak_memory_mib

LONGEST = 512
WARM_UP = 2
"""Steps that are not measured."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer trains, and how. Sizes are those of the model it is compared with."""

    model: str
    """``modernbert`` or ``bert``."""

    mode: str
    rows: int
    """Rows of a batch: one batch is one step."""

    windows: int
    """Steps that are measured."""

    bf16: bool
    use_cpu: bool
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    mlm_probability: float
    by_cpu_time: bool
    """Seconds are those of the processor, not the clock's."""

    vocab_size: int = 0
    documents: str = ""
    """An ``.npz`` of ``tokens`` end to end and their ``lengths``; made once for all jobs, as are
    the tokenizer and its vocabulary."""

    tokenizer: str = ""
    """Folder of the tokenizer."""


@dataclass(slots=True)
class Measured:
    """What is written beside the job."""

    tokens_per_sec: list[float]
    """Useful tokens per second (padding not counted) of each measured step."""

    peak_memory_mib: float
    parameters: int


class Rows(Dataset[dict[str, list[int]]]):
    """Rows of token ids, as ``run_mlm`` feeds them."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.rows[index]}


class Clock(TrainerCallback):
    """Takes the time of each step; the collator has counted its tokens."""

    def __init__(self, by_cpu_time: bool) -> None:
        self.now = time.process_time if by_cpu_time else time.perf_counter
        self.ends: list[float] = []

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if torch.cuda.is_available() and not args.use_cpu:
            torch.cuda.synchronize()
        self.ends.append(self.now())


class Counting:
    """A collator that notes the useful tokens of each batch it makes."""

    def __init__(self, collator: DataCollatorForLanguageModeling) -> None:
        self.collator = collator
        self.tokens: list[int] = []

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        self.tokens.append(sum(len(row["input_ids"]) for row in rows))
        return self.collator(rows)


def main() -> None:
    """Read the job, train, write ``<job>.measured.json``."""
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text()))
    if job.use_cpu:
        keep_freed_memory()  # theirs too: the bench compares models and data flow, not allocators
    path.with_suffix(".measured.json").write_text(json.dumps(asdict(measure(job))))


def measure(job: Job) -> Measured:
    """Train ``WARM_UP + windows`` steps with AdamW."""
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.tokenizer)
    collator = Counting(
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=job.mlm_probability)
    )
    clock, model = Clock(job.by_cpu_time), build_model(job)
    steps = WARM_UP + job.windows
    data = Rows(make_rows(job))
    assert len(data) >= steps * job.rows, "the corpus is too small for this bench"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(Path(job.documents).parent / "peer"),
            per_device_train_batch_size=job.rows,
            max_steps=steps,
            bf16=job.bf16,
            use_cpu=job.use_cpu,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
            remove_unused_columns=False,
        ),
        train_dataset=data,
        data_collator=collator,
        callbacks=[clock],
    )
    trainer.train()
    seconds = np.diff(clock.ends)[WARM_UP - 1 :]
    tokens = collator.tokens[WARM_UP : WARM_UP + job.windows]
    on_gpu = torch.cuda.is_available() and not job.use_cpu
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib()
    rates = [count / taken for count, taken in zip(tokens, seconds, strict=True)]
    return Measured(rates, memory, sum(parameter.numel() for parameter in model.parameters()))


def build_model(job: Job) -> PreTrainedModel:
    """A peer of equal width, depth and vocabulary, its feed-forward layer of equal weight."""
    shared = {
        "vocab_size": job.vocab_size,
        "hidden_size": job.hidden_size,
        "num_hidden_layers": job.layers,
        "num_attention_heads": job.heads,
        "pad_token_id": 0,
    }
    if job.model == "bert":
        settings = {**shared, "intermediate_size": job.intermediate_size}
        return BertForMaskedLM(BertConfig.from_dict(settings))
    settings = {**shared, "intermediate_size": swiglu_width(job.intermediate_size)}
    # Its own special tokens lie beyond a small vocabulary.
    absent = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
    return ModernBertForMaskedLM(ModernBertConfig.from_dict({**settings, **absent}))


class Place(TypedDict):
    """Where the peers find what they train on."""

    documents: str
    tokenizer: str
    vocab_size: int


def write_documents(scratch: Path, corpus: str, vocabulary: int) -> Place:
    """Tokenise the corpus for the peers as it is for us: an ``.npz`` and the tokenizer's folder."""
    texts = read_corpus(corpus)["train"]
    config = TokenizerConfig(train_vocab_size=vocabulary)
    info = load_tokenizer(config, lambda: texts, corpus, scratch / "trained")
    encoded = info.text.documents(texts)
    path, folder = scratch / "documents.npz", scratch / "tokenizer"
    tokens = np.fromiter((token for document in encoded for token in document), np.int32)
    np.savez(path, tokens=tokens, lengths=np.array([len(document) for document in encoded]))
    info.tokenizer.save_pretrained(folder)
    return Place(documents=str(path), tokenizer=str(folder), vocab_size=info.vocab_size)


def make_rows(job: Job) -> list[list[int]]:
    """The documents in a fixed order, one per row or cut from one long text."""
    stored = np.load(job.documents)
    bounds = stored["lengths"].cumsum()[:-1]
    documents = np.split(stored["tokens"].astype(np.int64), bounds)
    order = np.random.default_rng(0).permutation(len(documents))
    if job.mode == "dynamic":
        return [documents[index][:LONGEST].tolist() for index in order]
    length = int(job.mode.removeprefix("chunk-"))
    text = np.concatenate([documents[index] for index in order])
    return text[: len(text) // length * length].reshape(-1, length).tolist()


if __name__ == "__main__":
    main()
