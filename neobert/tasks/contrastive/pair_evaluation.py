"""How good vectors are: retrieval of held-out pairs, alignment and uniformity, and STS.

Letters: Q queries, D documents, S texts, E width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from neobert.data.data_files import find_files
from neobert.data.rows import TABLES, read_table, row_columns
from neobert.errors import ConfigError
from neobert.tasks.contrastive.pair_encoder import PairEncoder

SENTENCES = ("sentence1", "sentence2")
SCORE_COLUMNS = ("score", "label", "similarity_score")
PAIR_METRICS = ("loss", "accuracy_at_1", "mrr_at_10", "alignment", "uniformity")
"""What :func:`pair_metrics` finds."""

UNIFORMITY_TEXTS = 2000
"""Documents at most of which all distances are taken."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out pairs of a source, as places among the texts of an :class:`EvaluationSet`."""

    name: str
    queries: Int[Tensor, " Q"]
    documents: Int[Tensor, " D"]
    """Each text once."""

    own: Int[Tensor, " Q"]
    """Which document answers each query."""

    left_out: Bool[Tensor, "Q D"]
    """Documents that are neither right nor wrong: other answers to the query, copies of it."""


@dataclass(slots=True)
class EvaluationSet:
    """Everything that is encoded in an evaluation, and what is asked of its vectors."""

    texts: list[list[int]] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    sts: tuple[Tensor, Tensor, Tensor] | None = None
    """Places of the first and second sentences, and their scores."""

    def add_pairs(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add the held-out pairs of a source."""
        first = len(self.texts)
        places: dict[object, int] = {}
        answers: dict[object, set[int]] = {}
        for row in rows:
            if row["positive_text"] not in places:
                places[row["positive_text"]] = len(places)
                self.texts.append(row["positive"])  # type: ignore[arg-type]
            answers.setdefault(row["group"], set()).add(places[row["positive_text"]])
        left_out = torch.zeros(len(rows), len(places), dtype=torch.bool)
        own = torch.tensor([places[row["positive_text"]] for row in rows])
        for query, row in enumerate(rows):
            left_out[query, list(answers[row["group"]])] = True
            if row["query_text"] in places:
                left_out[query, places[row["query_text"]]] = True
        left_out[torch.arange(len(rows)), own] = False
        documents = torch.arange(first, len(self.texts))
        queries = torch.arange(len(rows)) + len(self.texts)
        self.texts += [row["query"] for row in rows]  # type: ignore[misc]
        self.held_out.append(HeldOut(name, queries, documents, own, left_out))

    def add_sts(self, file: str, encoder: PairEncoder) -> None:
        """Add scored sentence pairs. Raises ``ConfigError`` for a file without the columns."""
        setting = "contrastive.eval_sts"
        data = find_files(file, setting, TABLES)
        table = read_table(
            [table_file.path for table_file in data.files], setting, {*SENTENCES, *SCORE_COLUMNS}
        )
        has = row_columns(data.files[0].path, setting)
        score = next((name for name in SCORE_COLUMNS if name in has), None)
        if score is None or not set(SENTENCES) <= set(has):
            raise ConfigError(
                f"{setting}={file}: needs the columns sentence1, sentence2 and one of "
                f"{', '.join(SCORE_COLUMNS)}; it has {', '.join(has) or 'none'}"
            )
        scores = _scores(table[score].to_pylist(), f"{setting}={file}: {score}")
        sides = []
        for name in SENTENCES:
            sides.append(torch.arange(len(scores)) + len(self.texts))
            self.texts += encoder.queries([str(text) for text in table[name].to_pylist()])
        self.sts = (sides[0], sides[1], scores)

    def check_metric(self, metric: str | None) -> None:
        """Refuse a ``trainer.metric_for_best_model`` that no evaluation logs."""
        names = [*PAIR_METRICS] if self.held_out else []
        if len(self.held_out) > 1:
            names += [f"{source.name}/{name}" for source in self.held_out for name in PAIR_METRICS]
        names += [] if self.sts is None else ["sts_spearman"]
        name = (metric or "loss").removeprefix("eval/").removeprefix("eval_")
        if names and name not in names:
            raise ConfigError(
                f"trainer.metric_for_best_model={metric}: evaluations log {', '.join(names)}"
            )

    def metrics(self, vectors: Float[Tensor, "S E"], temperature: float) -> dict[str, float]:
        """``eval/*`` from the vectors of all texts; means over the sources, and each source's own
        where there are several."""
        vectors = F.normalize(vectors.float(), dim=1)
        metrics: dict[str, float] = {}
        each = {source.name: pair_metrics(vectors, source, temperature) for source in self.held_out}
        for name in next(iter(each.values()), {}):
            metrics[f"eval/{name}"] = sum(scored[name] for scored in each.values()) / len(each)
        if len(each) > 1:
            for source, values in each.items():
                metrics |= {f"eval/{source}/{name}": value for name, value in values.items()}
        if self.sts is not None:
            first, second, scores = (part.to(vectors.device) for part in self.sts)
            cosines = (vectors[first] * vectors[second]).sum(1)
            metrics["eval/sts_spearman"] = float(
                spearman_corrcoef(cosines.double(), scores.double())
            )
        return metrics


def _scores(values: list[object], where: str) -> Float[Tensor, " S"]:
    """The values as numbers. Raises ``ConfigError`` naming the row of one that is none."""
    scores = []
    for row, value in enumerate(values, start=1):
        try:
            scores.append(float(str(value)))
        except ValueError:
            raise ConfigError(f"{where} of row {row} is not a number: {value!r}") from None
    return torch.tensor(scores)


def pair_metrics(
    vectors: Float[Tensor, "S E"], pairs: HeldOut, temperature: float
) -> dict[str, float]:
    """Retrieval of each query's document among all of them, and the shape of the space.

    ``loss`` is InfoNCE over all documents; a tie counts against the right one. ``alignment`` is the
    mean squared distance of a pair, ``uniformity`` ``log mean exp(-2 d^2)`` over pairs of documents
    (arXiv 2005.10242); lower is better for both.
    """
    device = vectors.device
    queries, documents = vectors[pairs.queries.to(device)], vectors[pairs.documents.to(device)]
    own = pairs.own.to(device)
    cosines = (queries @ documents.T).masked_fill(pairs.left_out.to(device), -torch.inf)  # (Q, D)
    right = cosines.gather(1, own[:, None])
    ranks = (cosines >= right).sum(1)  # 1 is first
    sample = documents[:UNIFORMITY_TEXTS]
    distances = torch.pdist(sample) if len(sample) > 1 else sample.new_zeros(1)
    return {
        "loss": float(F.cross_entropy(cosines / temperature, own)),
        "accuracy_at_1": float((ranks == 1).float().mean()),
        "mrr_at_10": float((1 / ranks).where(ranks <= 10, 0.0).mean()),
        "alignment": float((queries - documents[own]).square().sum(1).mean()),
        "uniformity": float(distances.square().mul(-2).exp().mean().log()),
    }
