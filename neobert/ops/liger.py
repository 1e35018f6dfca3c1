"""Liger's kernels (arXiv 2410.10989) behind the signatures of our portable twins.

Called where :func:`neobert.ops.kernels.liger_runs` is true. Two of their backward passes overwrite
what the forward pass was given (SwiGLU's two inputs, the logits); our callers use neither again.

Letters: F width of the feed-forward layer, K rows, E width, V vocabulary.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neobert.batch import IGNORE


def liger_rms_norm(
    x: Float[Tensor, "*rows E"], weight: Float[Tensor, " E"], eps: float
) -> Float[Tensor, "*rows E"]:
    """:func:`neobert.ops.norm.rms_norm` as one kernel."""
    from liger_kernel.transformers import functional  # optional package

    # "llama": statistics in fp32, then cast, then weight, as the portable twin does.
    return functional.liger_rms_norm(x, weight, eps, casting_mode="llama", in_place=False)


def liger_swiglu(
    gate: Float[Tensor, "*rows F"], up: Float[Tensor, "*rows F"]
) -> Float[Tensor, "*rows F"]:
    """:func:`neobert.ops.swiglu.swiglu` as one kernel."""
    from liger_kernel.transformers import functional  # optional package

    return functional.liger_swiglu(gate, up)


def liger_linear_cross_entropy(
    hidden: Float[Tensor, "K E"], weight: Float[Tensor, "V E"], labels: Int[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """:func:`neobert.ops.cross_entropy.linear_cross_entropy`; Liger chooses the chunk."""
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
