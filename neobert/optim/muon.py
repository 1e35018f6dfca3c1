"""MuonClip's update: Muon for the matrices of the blocks, AdamW for the rest.

Muon orthogonalises the momentum (Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/);
the scale of its update and the shared learning rate are those of Moonlight (arXiv 2502.16982,
section 2.2), as in Kimi K2 (arXiv 2507.20534, algorithm 1). QK-clip, K2's second half, needs
attention logits and therefore acts from outside: ``optim/qk_clip.py``.

Letters: R rows and C columns of a matrix, H heads, D width of a head, E model width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from neobert.config.optimizer import MuonConfig
from neobert.console import get_logger
from neobert.optim.orthogonalize import orthogonalize, working_dtype
from neobert.optim.sharded import (
    MatrixOwners,
    Owned,
    Part,
    rows_of,
    run_of,
    true_on_every_rank,
)

log = get_logger(__name__)


class Group(TypedDict, total=False):
    """A parameter group, as torch keeps and saves them: plain data beside the parameters."""

    params: list[Tensor]
    """(name, tensor) pairs when handed to an optimizer, which splits them."""

    param_names: list[str]
    lr: float
    weight_decay: float
    muon: bool
    heads: int
    betas: tuple[float, float]
    eps: float


MAX_SKIPPED_IN_A_ROW = 10
"""Updates with a non-finite gradient, one after the other, before ``detect_anomalies`` stops."""

BATCH_NUMBERS = 2**26
"""Matrices of one shape are orthogonalised together up to this many numbers: it bounds the working
memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One matrix to orthogonalise: an update, where the result is added, and times what."""

    update: Tensor
    target: Tensor
    factor: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; Q, K and V of a fused weight come as (H, D, E)."""
        return self.update.shape[:-1].numel(), self.update.shape[-1]


class MuonClip(torch.optim.Optimizer):
    """Muon and AdamW in one optimizer, under one learning rate.

    Groups with ``muon=True`` hold matrices, one momentum buffer each; if their ``heads`` is above
    0 they are fused projections whose rows are [Q_h, K_h, V_h] of each head, and Q, K and V are
    orthogonalised as three matrices. All other groups are AdamW's, bit for bit.
    """

    def __init__(self, groups: list[Group], settings: MuonConfig) -> None:
        super().__init__(cast(list[dict[str, object]], groups), {})
        self.settings = settings
        self.dtype: torch.dtype | None = None
        """What the iteration computes in; ``None`` lets the device decide."""

        self.batch_numbers = BATCH_NUMBERS
        self.parts: dict[int, list[Part]] = {}
        """The parameters in a flat tensor of ZeRO, by its id."""

        self.param_groups[0].setdefault("skipped_updates", 0)  # there, checkpoints carry it
        self._skipped_in_a_row = 0

    @property
    def skipped_updates(self) -> int:
        """Updates that ``detect_anomalies`` has skipped so far."""
        return int(self.param_groups[0]["skipped_updates"])

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor | float] | None = None
    ) -> Tensor | float | None:
        """Run ``closure`` (Lightning's forward and backward), then update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.settings.detect_anomalies and self._skips():
            return loss
        groups = cast(list[Group], self.param_groups)
        self._update_matrices([group for group in groups if group["muon"]])
        for group in groups:
            if not group["muon"]:
                self._update_rest(group)
        return loss

    def _update_matrices(self, groups: list[Group]) -> None:
        """Decay, then take the orthogonalised momentum away; no matrix is visited twice."""
        pieces: list[Piece] = []
        owned: list[Owned] = []
        for group in groups:
            lr, heads = group["lr"], group["heads"]
            for parameter, update in self._momentum(group):
                local(parameter).mul_(1 - lr * group["weight_decay"])
                if isinstance(parameter, DTensor):
                    owned.append(rows_of(parameter, update, heads, lr))
                elif id(parameter) in self.parts:
                    parts = self.parts[id(parameter)]
                    owned += [run_of(part, parameter, update, heads, lr) for part in parts]
                else:
                    pieces += self._pieces(update, parameter, heads, lr)
        self._descend(pieces)
        if owned:
            self._update_sharded(owned)

    def _update_sharded(self, sharded: list[Owned]) -> None:
        """The same where each rank has some numbers: whole matrices meet at one owner each."""
        owners = MatrixOwners(sharded)
        wholes = owners.gather(self._dtype(sharded[0].update.device))
        results = [torch.zeros_like(update) for update in wholes]
        pieces: list[Piece] = []
        for item, update, result in zip(owners.mine, wholes, results, strict=True):
            pieces += self._pieces(update, result, item.heads, item.lr)
        self._descend(pieces)
        for item, change in zip(sharded, owners.scatter(results), strict=True):
            item.target.add_(change)

    def _momentum(self, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Move the momentum of the group's parameters; yield each with what is to be applied."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        gradients = [local(gradient_of(parameter)) for parameter in parameters]
        beta = self.settings.muon_beta
        torch._foreach_lerp_(momenta, gradients, 1 - beta)
        if self.settings.nesterov:
            momenta = list(torch._foreach_lerp(gradients, momenta, beta))
        yield from zip(parameters, momenta, strict=True)

    def _pieces(self, update: Tensor, target: Tensor, heads: int, lr: float) -> list[Piece]:
        """The matrices within a weight: itself, or Q, K and V."""
        if not heads:
            scale = update_scale(self.settings.norm_factor, *update.shape)
            return [Piece(update, target, -lr * scale)]
        updates, targets = (x.unflatten(0, (heads, 3, -1)).unbind(1) for x in (update, target))
        scale = update_scale(self.settings.norm_factor, update.shape[0] // 3, update.shape[1])
        return [Piece(*both, -lr * scale) for both in zip(updates, targets, strict=True)]

    def _descend(self, pieces: list[Piece]) -> None:
        method, steps = self.settings.orthogonalization, self.settings.ns_steps
        for batch in batches(pieces, self.batch_numbers):
            stacked = torch.stack([piece.update.reshape(piece.shape) for piece in batch])
            dtype = self._dtype(stacked.device)
            updates = orthogonalize(stacked, method, steps, dtype)  # (N, R, C)
            for piece, direction in zip(batch, updates, strict=True):
                piece.target.add_(direction.reshape(piece.target.shape), alpha=piece.factor)

    def _dtype(self, device: torch.device) -> torch.dtype:
        return self.dtype or working_dtype(device)

    def _update_rest(self, group: Group) -> None:
        """AdamW, by torch's own kernel: fused on CPU, batched on GPU."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        on_cpu = parameters[0].device.type == "cpu"
        beta1, beta2 = group["betas"]
        adamw(
            [local(parameter) for parameter in parameters],
            [local(gradient_of(parameter)) for parameter in parameters],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            foreach=not on_cpu,
            fused=on_cpu,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _skips(self) -> bool:
        """Whether a gradient is not finite: then nothing is updated, and its place is logged."""
        gradients = [
            (name, parameter)
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if parameter.grad is not None
        ]
        largest = torch._foreach_norm([local(gradient_of(p)) for _, p in gradients], ord=torch.inf)
        finite = true_on_every_rank(torch.stack(largest).isfinite(), gradients[0][1])
        bad = [name for (name, _), fine in zip(gradients, finite.tolist(), strict=True) if not fine]
        if not bad:
            self._skipped_in_a_row = 0
            return False
        self._skipped_in_a_row += 1
        self.param_groups[0]["skipped_updates"] = self.skipped_updates + 1
        problem = f"the gradient is not finite in {', '.join(bad[:5])}" + (
            f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        )
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"{problem}: {MAX_SKIPPED_IN_A_ROW} updates in a row; lower optimizer.lr, or "
                "resume from an earlier checkpoint"
            )
        log.warning("%s: update skipped (%d so far)", problem, self.skipped_updates)
        return True


def update_scale(rule: str, rows: int, columns: int) -> float:
    """What the orthogonal matrix is multiplied with (``optimizer.muon_config.norm_factor``)."""
    match rule:
        case "match_rms_adamw":  # the root mean square of AdamW's update: Moonlight, section 2.2
            return 0.2 * max(rows, columns) ** 0.5
        case "spectral":  # maps inputs of RMS 1 to outputs of RMS 1
            return (rows / columns) ** 0.5
        case "legacy_compat":
            return 0.4 * max(rows, columns) ** 0.5
        case "none":
            return 1.0
        case _:
            raise ValueError(f"no update scale called {rule!r}")


def batches(pieces: list[Piece], numbers: int) -> Iterator[list[Piece]]:
    """Pieces of one shape together, as many as have no more than ``numbers``, but at least one."""
    by_shape: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        by_shape.setdefault(piece.shape, []).append(piece)
    for (rows, columns), alike in by_shape.items():
        size = max(1, numbers // (rows * columns))
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds, as a plain tensor; all of them if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert parameter.grad is not None
    return parameter.grad
