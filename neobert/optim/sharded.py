"""Matrices whose numbers are spread over ranks (FSDP2, ZeRO), made whole at one rank each.

An orthogonalised matrix is not made of orthogonalised pieces. Each matrix gets one owner; all ranks
send it what they hold in one exchange, it computes, and the result travels back in another. A rank
sees whole only the matrices that it owns: 1/ranks of them, balanced by size.

Every way of sharding here gives each rank one run of a matrix's numbers, in row-major order and in
the order of the ranks: whole rows under FSDP2, any run under ZeRO.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

Sizes = tuple[int, ...]
"""How many numbers of a matrix each rank holds."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a flat tensor of ZeRO's keeps this rank's run of a parameter."""

    name: str
    shape: tuple[int, ...]
    sizes: Sizes
    offset: int
    """First number of the run in the flat tensor."""

    start: int
    """First number of the run in the parameter."""

    size: int
    """Numbers of the run: ``sizes`` of this rank."""

    def of(self, flat: Tensor) -> Tensor:
        """The run within ``flat``."""
        return flat.narrow(0, self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Fragment:
    """Numbers of a parameter that lie elsewhere, in row-major order from number ``start`` on."""

    tensor: Tensor
    start: int


@dataclass(frozen=True, slots=True)
class Fragments:
    """A parameter that holds nothing itself, or not everything that has to stay equal to it."""

    shape: tuple[int, ...]
    """Of the whole parameter."""

    find: Callable[[], list[Fragment]]
    """All that this rank keeps of it now: it may move between two steps."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A sharded matrix: this rank's numbers of its update, and where the change is added."""

    shape: tuple[int, ...]
    sizes: Sizes
    update: Tensor
    target: Tensor
    heads: int
    lr: float
    group: dist.ProcessGroup | None
    """The ranks that share it; ``None``: all."""


def rows_of(parameter: DTensor, update: Tensor, heads: int, lr: float) -> Owned:
    """A matrix that FSDP2 has sharded by rows."""
    group, ranks = _place(parameter)
    rows, columns = parameter.shape
    sizes = tuple(count * columns for count in rows_per_rank(rows, ranks))
    target = parameter.to_local()
    return Owned((rows, columns), sizes, update.flatten(), target.view(-1), heads, lr, group)


def run_of(part: Part, flat: Tensor, update: Tensor, heads: int, lr: float) -> Owned:
    """A matrix that ZeRO has cut out of its flat tensors."""
    return Owned(part.shape, part.sizes, part.of(update), part.of(flat), heads, lr, None)


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


class MatrixOwners:
    """Which rank makes each of some sharded matrices whole."""

    def __init__(self, items: list[Owned]) -> None:
        self.items, self.group = items, items[0].group
        self.ranks = dist.get_world_size(self.group)
        self.owners = balanced([sum(item.sizes) for item in items], self.ranks)
        self.of_rank: list[list[Owned]] = [[] for _ in range(self.ranks)]
        for item, owner in zip(items, self.owners, strict=True):
            self.of_rank[owner].append(item)
        self.mine = self.of_rank[dist.get_rank(self.group)]

    def gather(self, dtype: torch.dtype) -> list[Tensor]:
        """Send what this rank holds to the owners; return the whole updates of ``mine``."""
        incoming = _exchange(
            [[item.update for item in owned] for owned in self.of_rank],
            [[item.sizes[rank] for item in self.mine] for rank in range(self.ranks)],
            self.items[0].update.new_empty(0, dtype=dtype),
            self.group,
        )
        return [
            torch.cat([part[index] for part in incoming]).view(item.shape)
            for index, item in enumerate(self.mine)
        ]

    def scatter(self, results: list[Tensor]) -> list[Tensor]:
        """Send the owners' results home; return this rank's numbers of each, in the items'
        order."""
        each = zip(self.mine, results, strict=True)
        cut = [result.flatten().split(item.sizes) for item, result in each]
        incoming = _exchange(
            [[parts[rank] for parts in cut] for rank in range(self.ranks)],
            [[item.update.numel() for item in owned] for owned in self.of_rank],
            self.items[0].update,
            self.group,
        )
        waiting = [iter(part) for part in incoming]
        return [next(waiting[owner]) for owner in self.owners]


def true_on_every_rank(flags: Tensor, parameter: Tensor) -> Tensor:
    """And over the ranks that share ``parameter``; the flags themselves if none do."""
    if not isinstance(parameter, DTensor):
        return flags
    shared = flags.to(torch.uint8)
    dist.all_reduce(shared, dist.ReduceOp.MIN, group=_place(parameter)[0])
    return shared.bool()


def keep_fragments(parameter: Tensor, fragments: Fragments) -> None:
    """Remember where the numbers of ``parameter`` really are, if not in the parameter itself."""
    parameter.neobert_fragments = fragments  # type: ignore[attr-defined]


def fragments_of(parameter: Tensor) -> Fragments | None:
    """What :func:`keep_fragments` remembers; ``None`` for a parameter that holds its numbers."""
    return getattr(parameter, "neobert_fragments", None)


def _place(parameter: DTensor) -> tuple[dist.ProcessGroup, int]:
    mesh = parameter.device_mesh
    if mesh.ndim != 1 or parameter.placements != (Shard(0),):
        raise ValueError(
            f"MuonClip can update weights sharded by rows over one group of ranks, not "
            f"{parameter.placements} on a mesh of {mesh.ndim} dimensions"
        )
    return mesh.get_group(), mesh.size()


def _exchange(
    outgoing: list[list[Tensor]],
    sizes: list[list[int]],
    like: Tensor,
    group: dist.ProcessGroup | None,
) -> list[list[Tensor]]:
    """Send ``outgoing[r]`` to rank r; ``sizes[r]`` are those of what it sends here.

    Everything travels in the type and on the device of ``like``.
    """
    dtype, device = like.dtype, like.device
    sent_sizes = [sum(t.numel() for t in part) for part in outgoing]
    flat = [t.reshape(-1).to(dtype) for part in outgoing for t in part]
    sent = torch.cat(flat) if flat else torch.empty(0, dtype=dtype, device=device)
    totals = [sum(part) for part in sizes]
    received = torch.empty(sum(totals), dtype=dtype, device=device)
    dist.all_to_all_single(received, sent, totals, sent_sizes, group=group)
    return [
        list(part.split(lengths)) if lengths else []
        for part, lengths in zip(received.split(totals), sizes, strict=True)
    ]
