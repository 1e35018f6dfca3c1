"""Cross-entropy of a linear layer whose logits never exist all at once.

Rows are taken in chunks; each chunk's gradients are computed while its logits are in memory, so
nothing of size K x V is kept for the backward pass. The idea is that of Liger's fused linear
cross-entropy (arXiv 2410.10989); this is the portable twin, in plain PyTorch, and the kernel itself
where :func:`neobert.ops.kernels.liger_runs` is true.

Letters: K rows, C rows of a chunk, E width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from neobert.batch import IGNORE
from neobert.ops.kernels import liger_runs

CHUNK = 1024
"""Rows whose logits exist at a time, at most."""

CHUNK_LOGITS = 1 << 25
"""Logits that exist at a time, at most: 128 MiB of fp32, reached at 32,768 words of vocabulary."""


def linear_cross_entropy(
    hidden: Float[Tensor, "K E"],
    weight: Float[Tensor, "V E"],
    labels: Int[Tensor, " K"],
    chunk_size: int | None = None,
    kernel_backend: str = "torch",
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Sum of the cross-entropies in nats, and how many rows rank their label first.

    Rows labelled ``IGNORE`` add nothing. Products run in the autocast type, softmax and sums in
    fp32 or better. Holds ``chunk_size x V`` logits and, for training, one gradient of ``weight``;
    ``None`` takes :data:`CHUNK` rows, fewer for a vocabulary with which those exceed
    :data:`CHUNK_LOGITS`.
    """
    chunk_size = chunk_size or max(1, min(CHUNK, CHUNK_LOGITS // len(weight)))
    if len(hidden) and liger_runs(kernel_backend, hidden.device):
        return _liger(hidden, weight, labels)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        total, correct = _LinearCrossEntropy.apply(hidden, weight, labels, chunk_size)
        return total, correct
    total, correct, _, _ = _over_chunks(hidden, weight, labels, chunk_size, False)
    return total, correct


def _liger(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one kernel, which chooses the chunk."""
    from liger_kernel.transformers import functional  # optional package

    output = functional.liger_fused_linear_cross_entropy(
        hidden,
        weight,
        labels,
        ignore_index=IGNORE,
        reduction="sum",
        accum_dtype=torch.float32,
        return_predicted_tokens=True,
    )
    return output.loss, (output.predicted_tokens == labels).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        total, correct, d_hidden, d_weight = _over_chunks(hidden, weight, labels, chunk_size, True)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_total: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return d_hidden * d_total.to(d_hidden.dtype), d_weight * d_total, None, None


def _over_chunks(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_size: int, train: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum, number correct, and (empty unless ``train``) the gradients of hidden and weight."""
    compute = _autocast_type(hidden)
    exact = torch.promote_types(hidden.dtype, torch.float32)
    total = torch.zeros((), dtype=exact, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    d_weight = torch.zeros_like(weight, dtype=exact) if train else weight.new_empty(0)
    d_hidden = []
    words = weight.to(compute)
    with torch.autocast(hidden.device.type, enabled=False):
        chunks = zip(hidden.to(compute).split(chunk_size), labels.split(chunk_size), strict=True)
        for rows, chunk_labels in chunks:
            real = chunk_labels != IGNORE
            targets = chunk_labels.where(real, 0)
            logs = F.log_softmax((rows @ words.T).to(exact), dim=-1)  # (C, V)
            total = total - logs.gather(1, targets[:, None])[:, 0].where(real, 0).sum()
            correct = correct + ((logs.argmax(-1) == targets) & real).sum()
            if train:
                # Softmax minus one-hot. Ignored rows are zeroed in the two products of width E
                # rather than here, where that would be one more pass over C x V numbers.
                errors = (
                    logs.exp_()
                    .scatter_add_(1, targets[:, None], logs.new_full((len(rows), 1), -1.0))
                    .to(compute)
                )
                d_hidden.append((errors @ words).to(hidden.dtype) * real[:, None])
                d_weight += errors.T @ (rows * real[:, None])
                del errors
            del logs  # else both chunks' logits are in memory at once
    return total, correct, torch.cat(d_hidden) if d_hidden else hidden.new_empty(0), d_weight


def _autocast_type(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
