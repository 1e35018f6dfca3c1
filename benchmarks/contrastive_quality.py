"""A contrastive run's twin: ``python -m benchmarks.contrastive_quality RUN --output DIR``.

sentence-transformers trains the weights that RUN started from on the batches that RUN saw, in their
order, with its loss, rates and lengths. DIR gets the trained model, which ``task=mteb
mteb_model=DIR`` takes like the run itself, and ``held_out.jsonl``: the pairs (query, document) that
neither has trained on, for a retrieval task of ``mteb_local``.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from neobert.config.root import Config
from neobert.config.store import load_config_file
from neobert.console import get_logger, show_messages
from neobert.errors import ConfigError
from neobert.optim.schedule import resolve_schedule
from neobert.tasks.contrastive.data import ContrastiveDataModule
from neobert.tasks.contrastive.examples import read_examples
from neobert.tasks.contrastive.packaged_pairs import Example
from neobert.tasks.contrastive.pair_loader import Batches
from neobert.tasks.contrastive.pair_sources import select_sources
from neobert.tasks.contrastive.prepared_pairs import cleaned
from neobert.tasks.contrastive.starting_model import open_start
from neobert.training.cpu import keep_freed_memory
from neobert.training.run_folder import RunFolder

if TYPE_CHECKING:
    from benchmarks.sentence_transformers_peer import Training

log = get_logger("neobert.benchmarks")

HELD_OUT = "held_out.jsonl"


def main(argv: list[str] | None = None) -> int:
    """Train the twin; 2 if the run cannot have one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contrastive_quality")
    parser.add_argument("run", type=Path, help="a finished run of task=contrastive")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    show_messages()
    keep_freed_memory()
    try:
        train_twin(load_config_file(RunFolder(options.run).config_file), options.output)
    except ConfigError as error:
        for problem in error.problems:
            log.error("error: %s", problem)
        return 2
    return 0


def train_twin(config: Config, output: Path) -> None:
    """Write what sentence-transformers makes of the run that ``config`` describes to ``output``."""
    _check(config, output)
    start = open_start(config, None)
    data = ContrastiveDataModule(start.config, start.tokenizer)
    data.setup("fit")
    _check_negatives(data)
    texts = all_texts(config)
    output.mkdir(parents=True, exist_ok=True)
    write_held_out(data, texts, output / HELD_OUT)
    pairs = list(pairs_in_order(data, texts))
    log.info("%s: %d pairs in %d steps", output, len(pairs), data.total_steps)
    # Imported late: they take seconds, and wrong settings are answered at once.
    from benchmarks.sentence_transformers_peer import train
    from neobert.export.write import export

    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "start"
        export(Path(start.origin), exported, format_="neobert")
        asked, answer = config.contrastive.query_prefix, config.contrastive.document_prefix
        rows = [{"query": asked + one.query, "positive": answer + one.positive} for one in pairs]
        model = train(exported, Dataset.from_list(rows), _training(config, data.total_steps))
        model.save(str(output))


def all_texts(config: Config) -> dict[str, list[Example]]:
    """The pairs of each source, by the row of their tokens."""
    place = config.contrastive.sources_dir
    return {
        source.name: list(cleaned(read_examples(source, place), Counter()))
        for source in select_sources(config.dataset.name, config.contrastive)
    }


def pairs_in_order(
    data: ContrastiveDataModule, texts: dict[str, list[Example]]
) -> Iterator[Example]:
    """The pairs of all batches of a run, one batch after the other."""
    batches = data.train_dataloader().batches
    assert isinstance(batches, Batches)
    for source, turn in zip(batches.draws.source, batches.draws.turn, strict=True):
        rows = batches.sources[source]
        for row in rows.chosen(int(turn), batches.share):
            yield texts[rows.name][row]


def write_held_out(
    data: ContrastiveDataModule, texts: dict[str, list[Example]], file: Path
) -> None:
    """The pairs that the run is evaluated on, one JSON line each."""
    with file.open("w", encoding="utf-8") as lines:
        for name, places in data.held_out.items():
            for place in places.tolist():
                one = texts[name][place]
                row = {"query": one.query, "document": one.positive}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _training(config: Config, steps: int) -> "Training":
    from benchmarks.sentence_transformers_peer import Training

    schedule = resolve_schedule(config.scheduler, steps)
    optimizer = config.optimizer
    return Training(
        batch=config.trainer.per_device_train_batch_size,
        steps=steps,
        warmup=schedule.warmup,
        max_length=config.dataset.max_seq_length,
        lr=optimizer.lr,
        floor=schedule.final_ratio,
        weight_decay=optimizer.weight_decay,
        betas=(optimizer.betas[0], optimizer.betas[1]),
        eps=optimizer.eps,
        clip=config.trainer.gradient_clipping or 0.0,
        temperature=config.contrastive.temperature,
        pooling=config.contrastive.pooling,
    )


def _check(config: Config, output: Path) -> None:
    """Refuse what sentence-transformers has no like of."""
    settings = {
        "task": (config.task, "contrastive"),
        "contrastive.loss_type": (config.contrastive.loss_type, "simcse"),
        "optimizer.name": (config.optimizer.name, "adamw"),
        "scheduler.name": (config.scheduler.name, "cosine"),
        "dataset.pretraining_prob": (config.dataset.pretraining_prob, 0),
        "trainer.gradient_accumulation_steps": (config.trainer.gradient_accumulation_steps, 1),
    }
    problems = [
        f"{key}={value}: a twin needs a run with {needed}"
        for key, (value, needed) in settings.items()
        if value != needed
    ]
    if output.is_dir() and any(output.iterdir()):
        problems.append(f"--output {output}: is not empty")
    if problems:
        raise ConfigError(*problems)


def _check_negatives(data: ContrastiveDataModule) -> None:
    with_negatives = [one.name for one in data.prepared if one.manifest["negatives"]]
    if with_negatives and data.config.contrastive.hard_negatives:
        raise ConfigError(
            f"{', '.join(with_negatives)}: a twin knows no drawn hard negatives; it needs a "
            "run with contrastive.hard_negatives=0"
        )


if __name__ == "__main__":
    sys.exit(main())
