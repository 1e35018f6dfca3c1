"""Flash attention of packed documents on a GPU: the flash-attn package, or PyTorch's own.

Letters: T tokens, H heads, D width of a head.
"""

from jaxtyping import Float, Int
from torch import Tensor


def flash_attention(  # noqa: PLR0913, PLR0917  the signature all ways of attending share
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    max_seqlen: int,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "T H D"]:
    """Attend by ``flash_attn_varlen_func`` (arXiv 2307.08691); bf16 or fp16 on CUDA."""
    from flash_attn import flash_attn_varlen_func  # optional package

    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout, softmax_scale=scale
    )


def torch_varlen_attention(
    q: Float[Tensor, "T H D"],
    k: Float[Tensor, "T H D"],
    v: Float[Tensor, "T H D"],
    cu_seqlens: Int[Tensor, " bounds"],
    max_seqlen: int,
    scale: float,
) -> Float[Tensor, "T H D"]:
    """Attend by ``torch.nn.attention.varlen``; bf16 or fp16 on CUDA, no dropout."""
    from torch.nn.attention.varlen import varlen_attn  # not in every build of PyTorch

    # The keyword for another scale than 1 / sqrt(D) is not in every version that has the function.
    q = q * (scale * q.shape[-1] ** 0.5)
    out = varlen_attn(
        query=q,
        key=k,
        value=v,
        cu_seq_q=cu_seqlens,
        cu_seq_k=cu_seqlens,
        max_q=max_seqlen,
        max_k=max_seqlen,
    )
    assert isinstance(out, Tensor)  # a pair only where auxiliary outputs were requested
    return out
