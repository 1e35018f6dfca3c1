"""The nearest semi-orthogonal matrix, by odd polynomials of the matrix: no SVD.

Each step maps every singular value s to ``a s + b s^3 + c s^5``; the triples (a, b, c) drive them
all towards 1. Two schedules of triples:

- ``newton_schulz``: one triple at every step, steep at 0, so that small values rise quickly; they
  end somewhere in 0.7 .. 1.2 (Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
- ``polar_express``: the best triple for where the values are at each step; it converges
  (Amsel et al. 2025, arXiv 2505.16932, algorithm 1 with the safety factor of its section 4).

Letters: N matrices of one shape, R rows, C columns.
"""

from itertools import chain, repeat

import torch
from jaxtyping import Float
from torch import Tensor

from neobert.ops.kernels import cpu_has_bf16

Triple = tuple[float, float, float]

JORDAN: Triple = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.948690853482295, -2.908902115962949, 0.5518191394370137),
    (3.318419657370602, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.668903984574749, 0.4188073119525673),
    (1.891301407787398, -1.267995827194587, 0.3768040894852483),
    (1.875001480853448, -1.250001645399949, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01
"""Keeps values that rounding lifted above 1 where the polynomials still pull them back."""

TINY = 1e-7
"""Added to norms: a matrix of zeros stays one."""


def orthogonalize(
    matrices: Float[Tensor, "N R C"],
    method: str = "polar_express",
    steps: int = 5,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "N R C"]:
    """Bring all singular values of each matrix near 1, keeping its singular vectors.

    ``method`` is ``polar_express`` or ``newton_schulz``. Computes and returns in ``dtype``, that of
    the input by default. All N go through one chain of batched products.
    """
    dtype = dtype or matrices.dtype
    safety = SAFETY if method == "polar_express" else 1.0
    norms = matrices.float().norm(dim=(1, 2), keepdim=True)  # Frobenius: bounds the spectral norm
    x = (matrices / (safety * norms + TINY)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x  # the Gram matrix of the shorter side
    for a, b, c in triples(method, steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def triples(method: str, steps: int) -> list[Triple]:
    """The coefficients of each step; beyond the published ones the last is repeated."""
    match method:
        case "newton_schulz":
            return [JORDAN] * steps
        case "polar_express":
            damped = ((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1])
            schedule = chain(damped, repeat(POLAR_EXPRESS[-1]))
            return [triple for triple, _ in zip(schedule, range(steps), strict=False)]
        case _:
            raise ValueError(f"no orthogonalisation called {method!r}")


def working_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device multiplies it in hardware, else fp32.

    A CPU without bf16 instructions is ten times slower in bf16 than in fp32; one with AMX, and any
    GPU since Ampere, several times faster. The iteration is made for bf16: its result need not be
    orthogonal to more than a few percent.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_bf16() else torch.float32
