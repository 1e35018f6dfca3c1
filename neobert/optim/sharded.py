"""Matrices whose rows are spread over ranks (FSDP2), made whole at one rank each.

An orthogonalised matrix is not made of orthogonalised rows. Each matrix gets one owner; all ranks
send it their rows in one exchange, it computes, and the rows of the result travel back in another.
A rank sees whole only the matrices that it owns: 1/ranks of them, balanced by size.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

Shapes = list[list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Owned:
    """A sharded weight and what is to be applied to it: this rank's rows, or all of them."""

    parameter: DTensor
    update: Tensor
    heads: int
    lr: float


def balanced(sizes: list[int], ranks: int) -> list[int]:
    """The owner of each item: largest first, each to the rank with the least so far."""
    loads, owners = [0] * ranks, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += sizes[index]
    return owners


def rows_per_rank(rows: int, ranks: int) -> list[int]:
    """How ``Shard(0)`` splits rows: equal parts rounded up, the last ones shorter or empty."""
    part = -(-rows // ranks)
    return [max(0, min(part, rows - rank * part)) for rank in range(ranks)]


def gather_whole(items: list[Owned], dtype: torch.dtype) -> list[Owned]:
    """Send each rank's rows to their owners; return the matrices that this rank owns, whole."""
    group, rank, ranks = _place(items[0].parameter)
    owners = balanced([item.parameter.numel() for item in items], ranks)
    mine = [item for item, owner in zip(items, owners, strict=True) if owner == rank]
    outgoing = [
        [item.update for item, owner in zip(items, owners, strict=True) if owner == other]
        for other in range(ranks)
    ]
    shapes: Shapes = [
        [
            (rows_per_rank(len(item.parameter), ranks)[other], item.parameter.shape[1])
            for item in mine
        ]
        for other in range(ranks)
    ]
    like = items[0].update.new_empty(0, dtype=dtype)
    incoming = _exchange(outgoing, shapes, like, group)
    return [
        Owned(item.parameter, torch.cat([part[index] for part in incoming]), item.heads, item.lr)
        for index, item in enumerate(mine)
    ]


def scatter_back(items: list[Owned], results: list[Tensor]) -> list[Tensor]:
    """Send the rows of each owner's results home; return this rank's rows, in the items' order."""
    group, _, ranks = _place(items[0].parameter)
    owners = balanced([item.parameter.numel() for item in items], ranks)
    outgoing = [
        [result.split(rows_per_rank(len(result), ranks))[other] for result in results]
        for other in range(ranks)
    ]
    shapes: Shapes = [
        [
            tuple(item.update.shape)
            for item, owner in zip(items, owners, strict=True)
            if owner == other
        ]
        for other in range(ranks)
    ]
    incoming = [iter(part) for part in _exchange(outgoing, shapes, items[0].update, group)]
    return [next(incoming[owner]) for owner in owners]


def true_on_every_rank(flags: Tensor, parameter: Tensor) -> Tensor:
    """And over the ranks that share ``parameter``; the flags themselves if none do."""
    if not isinstance(parameter, DTensor):
        return flags
    shared = flags.to(torch.uint8)
    dist.all_reduce(shared, dist.ReduceOp.MIN, group=_place(parameter)[0])
    return shared.bool()


def _place(parameter: DTensor) -> tuple[dist.ProcessGroup, int, int]:
    mesh = parameter.device_mesh
    if mesh.ndim != 1 or parameter.placements != (Shard(0),):
        raise ValueError(
            f"MuonClip can update weights sharded by rows over one group of ranks, not "
            f"{parameter.placements} on a mesh of {mesh.ndim} dimensions"
        )
    return mesh.get_group(), mesh.get_local_rank(), mesh.size()


def _exchange(
    outgoing: list[list[Tensor]],
    shapes: Shapes,
    like: Tensor,
    group: dist.ProcessGroup,
) -> list[list[Tensor]]:
    """Send ``outgoing[r]`` to rank r; ``shapes[r]`` are those of what it sends here.

    Everything travels in the type and on the device of ``like``.
    """
    dtype, device = like.dtype, like.device
    sent_sizes = [sum(t.numel() for t in part) for part in outgoing]
    sizes = [[rows * columns for rows, columns in part] for part in shapes]
    flat = [t.reshape(-1).to(dtype) for part in outgoing for t in part]
    sent = torch.cat(flat) if flat else torch.empty(0, dtype=dtype, device=device)
    received = torch.empty(sum(map(sum, sizes)), dtype=dtype, device=device)
    dist.all_to_all_single(received, sent, [sum(part) for part in sizes], sent_sizes, group=group)
    parts = received.split([sum(part) for part in sizes])
    return [
        [piece.view(shape) for piece, shape in zip(part.split(lengths), here, strict=True)]
        for part, lengths, here in zip(parts, sizes, shapes, strict=True)
    ]
