"""``python -m neobert.tools.average CHECKPOINT… --output FOLDER``: one model of several.

The mean of the weights of checkpoints of one shape (model soups, arXiv 2203.05482; ModernBERT-base
is such a mean of its last annealing checkpoints, arXiv 2412.13663, section 2.3). The mean is
evaluated beside its parts on the evaluation set of the first part's run.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neobert.config.store import load_config_file
from neobert.console import get_logger, show_messages
from neobert.errors import ConfigError
from neobert.failures import report_failure, run_program
from neobert.files import publish_folder, user_path, write_json
from neobert.losses.mlm import masked_lm_loss
from neobert.model.heads import MaskedLM
from neobert.model.weight_files import TOKENIZER_INFO, WEIGHTS, read_weights
from neobert.tasks.pretraining.data import PretrainingDataModule
from neobert.tasks.pretraining.evaluation_sets import evaluation_metrics
from neobert.training.checkpoint import MODULE_PREFIX, save_weights
from neobert.training.start import Pretrained, open_weights

log = get_logger("neobert.tools.average")

COPIED = ("config.yaml", "config.json", "tokenizer", TOKENIZER_INFO)
"""What the mean has in common with its first part."""

RECORDED = {"evaluation_loss": "eval/loss", "bits_per_byte": "eval/bits_per_byte"}
"""Key of ``average.json`` -> metric of each part and of the mean."""


def average(parts: Sequence[Pretrained], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of the weights, in fp64 and then in the type of the first part.

    Raises ``ConfigError`` with every weight that is missing or of another shape or type.
    """
    total: dict[str, Tensor] = {}
    like: dict[str, Tensor] = {}
    for part, share in zip(parts, shares, strict=True):
        weights = read_weights(part.folder)
        like = like or {name: tensor.new_empty(0) for name, tensor in weights.items()}
        if total:
            _check_alike(parts[0].folder, total, part.folder, weights)
        for name, tensor in weights.items():
            scaled = tensor.double() * share
            total[name] = total[name].add_(scaled) if name in total else scaled
    return {name: tensor.to(like[name].dtype) for name, tensor in total.items()}


def _check_alike(
    first: Path, known: dict[str, Tensor], other: Path, weights: dict[str, Tensor]
) -> None:
    problems = [f"{first} has no {name}" for name in sorted(weights.keys() - known.keys())]
    problems += [f"{other} has no {name}" for name in sorted(known.keys() - weights.keys())]
    problems += [
        f"{name} is {tuple(known[name].shape)} in {first} and {tuple(weights[name].shape)} in "
        f"{other}"
        for name in sorted(known.keys() & weights.keys())
        if known[name].shape != weights[name].shape
    ]
    if problems:
        raise ConfigError(*(f"cannot average: {problem}" for problem in problems))


def shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """The share of each part: equal, or proportional to ``weights``."""
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ConfigError(f"--weights: {len(weights)} numbers for {count} checkpoints")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError(f"--weights={list(weights)}: must be 0 or more, and not all 0")
    return [weight / sum(weights) for weight in weights]


def write_average(
    parts: Sequence[Pretrained], shares: Sequence[float], folder: Path
) -> dict[str, object]:
    """Write the mean as a folder that every tool, task and ``neobert.export`` opens."""
    vocabularies = {json.dumps(part.tokenizer.get_vocab(), sort_keys=True) for part in parts}
    if len(vocabularies) > 1:
        raise ConfigError("cannot average: the checkpoints have tokenizers of several vocabularies")
    weights = average(parts, shares)
    record: dict[str, object] = {
        "parts": [
            {"path": str(part.folder), "share": share, "sha256": part.sha256}
            for part, share in zip(parts, shares, strict=True)
        ]
    }
    with publish_folder(folder) as temporary:
        prefixed = {MODULE_PREFIX + name: tensor for name, tensor in weights.items()}
        save_weights(prefixed, temporary / WEIGHTS)
        for name in COPIED:
            source = parts[0].folder / name
            if source.is_dir():
                shutil.copytree(source, temporary / name)
            elif source.is_file():
                shutil.copyfile(source, temporary / name)
        write_json(record, temporary / "average.json")
    return record


def evaluation_data(part: Pretrained) -> PretrainingDataModule | None:
    """The evaluation set of the run that a checkpoint is of; ``None`` where there is none."""
    file = part.folder / "config.yaml"
    if not file.is_file():
        log.warning("%s has no config.yaml: nothing to evaluate on", part.folder)
        return None
    data = PretrainingDataModule(load_config_file(file))
    data.setup("validate")
    if not data.has_validation:
        log.warning("the run of %s holds nothing out: nothing to evaluate on", part.folder)
        return None
    return data


@torch.inference_mode()
def evaluate_model(model: MaskedLM, data: PretrainingDataModule) -> dict[str, float]:
    """Metrics at ``datacollator.mlm_probability``, in fp32, over all of the evaluation set."""
    loaders = data.val_dataloader()
    every = loaders if isinstance(loaders, list) else [loaders]
    sets, sums = [], []
    for evaluation, loader in zip(data.evaluations, every, strict=True):
        if evaluation.rate is not None:
            continue
        total, targets = 0.0, 0
        for batch in loader:
            hidden = model.hidden(batch.inputs, batch.positions)
            weight, bias = model.decoder_weight, model.decoder.bias
            loss = masked_lm_loss(hidden, weight, batch.labels, bias)
            total, targets = total + float(loss.sum), targets + int(loss.count)
        sets.append(evaluation)
        sums.append((total, 0.0, targets, 0.0))
    return evaluation_metrics(sets, sums)


def compare(parts: Sequence[Pretrained], folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of each part and of the mean in ``folder``, by path; empty if unknown."""
    data = evaluation_data(parts[0])
    if data is None:
        return {}
    return {
        str(part.folder): evaluate_model(part.masked_lm().eval(), data)
        for part in (*parts, Pretrained(folder))
    }


def show(metrics: dict[str, dict[str, float]], shares: Sequence[float]) -> None:
    """A table of the parts and their mean, and whether the mean is the best of them."""
    table = Table("", "share", "evaluation loss (nats)", "bits per byte")
    table.columns[0].overflow = "fold"
    *parts, mean = metrics
    names = [*parts, f"mean: {mean}"]
    for name, path, share in zip(names, metrics, [*shares, None], strict=True):
        bits = metrics[path].get("eval/bits_per_byte")
        table.add_row(
            name,
            "" if share is None else f"{share:.3f}",
            f"{metrics[path]['eval/loss']:.4f}",
            "" if bits is None else f"{bits:.4f}",
        )
    Console().print(table)
    best = min(parts, key=lambda path: metrics[path]["eval/loss"])
    worse = metrics[mean]["eval/loss"] - metrics[best]["eval/loss"]
    if worse > 0:
        log.warning("the mean is worse than %s by %.4f nats", best, worse)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m neobert.tools.average",
        description="Average the weights of checkpoints of one shape.",
    )
    arguments.add_argument(
        "checkpoints", nargs="+", help="runs (their newest checkpoint), checkpoints or exports"
    )
    arguments.add_argument("--output", required=True, type=user_path, help="folder of the mean")
    arguments.add_argument(
        "--weights",
        type=lambda text: [float(part) for part in text.split(",")],
        help="a number per checkpoint, such as 2,1,1; default: equal",
    )
    arguments.add_argument(
        "--no-evaluation", action="store_true", help="do not evaluate the mean and its parts"
    )
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Write the mean and show it beside its parts; 2 if the checkpoints cannot be averaged."""
    options = parser().parse_args(argv)
    show_messages()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        parts = [open_weights(place, key="checkpoints") for place in options.checkpoints]
        shares = shares_of(options.weights, len(parts))
        record = write_average(parts, shares, options.output)
        metrics = {} if options.no_evaluation else compare(parts, options.output)
    except ConfigError as error:
        return report_failure(error)
    if metrics:
        for key, name in RECORDED.items():
            values = {
                path: values_of_path[name]
                for path, values_of_path in metrics.items()
                if name in values_of_path
            }
            record |= {key: values} if values else {}
        write_json(record, options.output / "average.json")
        show(metrics, shares)
    log.info("%s", options.output)
    return 0


if __name__ == "__main__":
    run_program(main)
