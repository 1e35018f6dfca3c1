"""One contrastive step: encode, pool, compare; now and then a pretraining step against forgetting.

The loss is a mean over the pairs of a micro-batch, whose queries meet the documents of all ranks.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neobert.batch import MaskedBatch
from neobert.config.root import Config
from neobert.losses.contrastive import (
    Anchors,
    Candidates,
    ContrastiveLoss,
    Similarity,
    gather_candidates,
    simcse_loss,
    supcon_loss,
)
from neobert.losses.mlm import masked_lm_loss
from neobert.model.encoder import Encoder
from neobert.model.heads import MaskedLM
from neobert.optim.schedule import Schedule
from neobert.tasks.contrastive.batches import PairBatch, Texts, TwiceBatch
from neobert.tasks.contrastive.data import EvaluationBatch
from neobert.tasks.contrastive.gradcache import encode_texts
from neobert.tasks.contrastive.pair_evaluation import EvaluationSet
from neobert.training.logger import log_metrics
from neobert.training.module import OptimizedModule

LOSSES = {"simcse": simcse_loss, "supcon": supcon_loss}


class ContrastiveModule(OptimizedModule):
    """An encoder that learns which texts belong together."""

    model: Encoder | MaskedLM

    def __init__(
        self,
        model: Encoder | MaskedLM,
        evaluation: EvaluationSet,
        schedule: Schedule,
        config: Config,
    ) -> None:
        heads = encoder_of(model).config.num_attention_heads
        super().__init__(config.optimizer, schedule, heads, config.trainer.log_grad_norm)
        self.model = model
        self.evaluation = evaluation
        self.settings = settings = config.contrastive
        self.similarity = Similarity(settings.temperature, settings.hard_negative_weight)
        self._vectors = torch.zeros(())

    @property
    def encoder(self) -> Encoder:
        return encoder_of(self.model)

    def training_step(
        self, batch: PairBatch | TwiceBatch | MaskedBatch, batch_idx: int
    ) -> dict[str, object]:
        match batch:
            case PairBatch():
                pair_loss, tokens = self._pairs(batch), batch.texts.packed.num_tokens
                sums: dict[str, Tensor | float] = {
                    "loss": pair_loss.mean.detach() * batch.num_pairs,
                    "correct": pair_loss.correct,
                    "pairs": batch.num_pairs,
                    f"{batch.source}_batches": 1,
                }
                loss = pair_loss.mean
            case TwiceBatch():
                loss, tokens = self._twice(batch).mean, 2 * batch.texts.packed.num_tokens
                sums = {"pretraining_loss": loss.detach(), "pretraining_batches": 1}
            case MaskedBatch():
                loss, tokens = self._masked(batch), batch.inputs.num_tokens
                sums = {
                    "pretraining_loss": loss.detach(),
                    "pretraining_batches": 1,
                    "targets": batch.num_targets,
                }
        return {"loss": loss + self._untouched(), "sums": {**sums, "tokens": tokens}}

    def train_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a logging window from its sums over all ranks."""
        metrics = {
            f"train/{name}": value for name, value in sums.items() if name.endswith("_batches")
        }
        if "pairs" in sums:
            metrics["train/loss"] = sums["loss"] / sums["pairs"]
            metrics["train/accuracy"] = sums["correct"] / sums["pairs"]
            metrics["train/pairs"] = sums["pairs"]
        if "pretraining_loss" in sums:
            mean = sums["pretraining_loss"] / sums["pretraining_batches"]
            metrics["train/pretraining_loss"] = mean
        return metrics | self.gradient_norm()

    def on_validation_epoch_start(self) -> None:
        shape = len(self.evaluation.texts), self.encoder.config.hidden_size
        self._vectors = torch.zeros(shape, device=self.device)

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        self._vectors[batch.places] = self._encoded(batch.texts)[: len(batch.places)]

    def on_validation_epoch_end(self) -> None:
        # Each rank has filled in its own rows; the others are zero.
        vectors = torch.as_tensor(self.trainer.strategy.reduce(self._vectors, reduce_op="sum"))
        metrics = self.evaluation.metrics(vectors, self.similarity.temperature)
        self._vectors = torch.zeros(())
        # For early stopping and the best model.
        self.log_dict(metrics, logger=False, sync_dist=True)
        log_metrics(self.trainer, metrics)

    def _encoded(self, texts: Texts) -> Tensor:
        return encode_texts(self.encoder, texts, self.settings.pooling)

    def _pairs(self, batch: PairBatch) -> ContrastiveLoss:
        vectors, pairs = self._encoded(batch.texts), batch.num_pairs
        queries, documents = vectors[:pairs], vectors[pairs:]
        is_hard = torch.arange(len(documents), device=documents.device) >= pairs
        groups = torch.zeros_like(batch.document_texts)
        groups[:pairs] = batch.groups
        return self._compare(
            Anchors(queries, batch.query_texts, batch.groups, _first(pairs, queries)),
            Candidates(documents, batch.document_texts, groups, is_hard),
            self.settings.loss_type,
            batch.documents_of_ranks,
        )

    def _twice(self, batch: TwiceBatch) -> ContrastiveLoss:
        """Unsupervised SimCSE: dropout makes two vectors of each text, which belong together."""
        once, again = self._encoded(batch.texts), self._encoded(batch.texts)
        numbers = batch.numbers
        return self._compare(
            Anchors(once, numbers, numbers, _first(len(numbers), once)),
            Candidates(again, numbers, numbers, torch.zeros_like(numbers, dtype=torch.bool)),
            "simcse",
        )

    def _compare(
        self,
        anchors: Anchors,
        own: Candidates,
        loss_type: str,
        sizes: Sequence[int] | None = None,
    ) -> ContrastiveLoss:
        candidates, first = gather_candidates(own, sizes)
        moved = replace(anchors, own=anchors.own + first)
        return LOSSES[loss_type](moved, candidates, self.similarity)

    def _masked(self, batch: MaskedBatch) -> Tensor:
        model = self.model
        assert isinstance(model, MaskedLM)
        masked_loss = masked_lm_loss(
            model.hidden(batch.inputs, batch.positions),
            model.decoder_weight,
            batch.labels,
            model.decoder.bias,
            model.config.kernel_backend,
        )
        return masked_loss.sum / max(1, batch.num_targets)

    def _untouched(self) -> Tensor | float:
        """0 times the decoder's own weights: data parallelism wants a gradient for each."""
        if not isinstance(self.model, MaskedLM) or self.trainer.world_size == 1:
            return 0.0
        inside = {id(parameter) for parameter in self.encoder.parameters()}
        own = [parameter for parameter in self.model.parameters() if id(parameter) not in inside]
        return 0.0 * sum(
            (parameter.sum() for parameter in own), start=torch.zeros((), device=self.device)
        )


def encoder_of(model: Encoder | MaskedLM) -> Encoder:
    """The encoder of a model with or without a head."""
    return model.model if isinstance(model, MaskedLM) else model


def _first(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)
