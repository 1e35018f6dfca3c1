"""Where DeepSpeed keeps a run's weights and optimizer states, in this project's terms.

ZeRO puts the parameters of a group end to end, cuts the row by the number of ranks and hands the
optimizer its piece as one flat fp32 tensor. What is found out here once, after
``deepspeed.initialize``, lets MuonClip see matrices, QK-clip reach both copies of a weight, and
checkpoints hold whole tensors, the same for all stages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from neobert.optim.muon import MuonClip
from neobert.optim.sharded import Fragment, Fragments, Part, keep_fragments


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter of the model, and the tensor of the optimizer that holds this rank's part."""

    parameter: nn.Parameter
    master: Tensor
    """fp32: flat under ZeRO, of the parameter's shape where nothing is sharded, or the parameter
    itself."""

    part: Part | None
    """``None`` where ``master`` is this parameter alone, whole."""

    def held(self, tensor: Tensor) -> Tensor:
        """This rank's numbers in ``tensor``, which is laid out like ``master``."""
        return tensor.view(-1) if self.part is None else self.part.of(tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return tuple(self.parameter.shape) if self.part is None else self.part.shape

    @property
    def start(self) -> int:
        """The first of this rank's numbers."""
        return 0 if self.part is None else self.part.start

    def whole(self, held: Tensor) -> Tensor:
        """The tensor of which ``held`` are this rank's numbers, gathered on every rank."""
        if self.part is None:
            return held.detach().float().view(self.shape)
        whole = torch.zeros(sum(self.part.sizes), dtype=torch.float32, device=held.device)
        whole.narrow(0, self.start, self.part.size).copy_(held)
        dist.all_reduce(whole)
        return whole.view(self.shape)

    def fragments(self) -> list[Fragment]:
        """Every copy of what is held here: the optimizer's, and those that compute."""
        fragments = [Fragment(self.held(self.master), self.start)]
        piece = getattr(self.parameter, "ds_tensor", None)  # stage 3
        if piece is not None:
            size = 0 if self.part is None else self.part.size
            fragments.append(Fragment(piece.data.view(-1)[:size], self.start))
        # Stage 3 keeps small parameters gathered between two steps.
        is_whole = self.parameter.numel() == math.prod(self.shape)
        if is_whole and self.parameter is not self.master:
            fragments.append(Fragment(self.parameter.data.view(-1), 0))
        return fragments


Described = list[tuple[str, nn.Parameter, tuple[int, ...]]]
"""Name, parameter and shape, as they stood before DeepSpeed took them."""


def describe_optimizer(optimizer: Optimizer) -> list[Described]:
    """The parameters of each group, to be remembered before ``deepspeed.initialize``."""
    return [
        [
            (name, parameter, tuple(parameter.shape))
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        ]
        for group in optimizer.param_groups
    ]


def find_places(wrapped: object, optimizer: Optimizer, before: list[Described]) -> list[Place]:
    """Where each parameter went. ``wrapped`` is the engine's optimizer around ``optimizer``.

    Tells MuonClip and QK-clip on the way.
    """
    places = [place for group in range(len(before)) for place in _of_group(wrapped, before, group)]
    for place in places:
        keep_fragments(place.parameter, Fragments(place.shape, place.fragments))
        if isinstance(optimizer, MuonClip) and place.part is not None:
            optimizer.parts.setdefault(id(place.master), []).append(place.part)
    return places


def _of_group(wrapped: object, before: list[Described], group: int) -> Iterator[Place]:
    described = before[group]
    stage_3 = hasattr(described[0][1], "ds_tensor")
    masters = cast(Optimizer, wrapped).param_groups[group]["params"]
    runs = [
        _stage_3_run(wrapped, parameter) if stage_3 else _run(parameter, masters)
        for _, parameter, _ in described
    ]
    everywhere: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, [run.size if run is not None else -1 for run in runs])
    for number, ((name, parameter, shape), run) in enumerate(zip(described, runs, strict=True)):
        if run is None:
            yield Place(parameter, masters[number], None)
            continue
        sizes = tuple(sizes[number] for sizes in everywhere)
        part = Part(name, shape, sizes, run.offset, run.start, run.size)
        yield Place(parameter, run.flat, part)


@dataclass(frozen=True, slots=True)
class _Run:
    flat: Tensor
    offset: int
    start: int
    size: int


def _run(parameter: nn.Parameter, masters: list[Tensor]) -> _Run | None:
    """Stages 1 and 2; ``None`` where nothing is sharded."""
    if not hasattr(parameter, "_hp_mapping"):
        return None
    mapping = parameter._hp_mapping
    if mapping is None:  # none of it is on this rank
        return _Run(masters[0], 0, 0, 0)
    in_master, in_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
    return _Run(masters[0], int(in_master.start), int(in_parameter.start), int(in_parameter.numel))


def _stage_3_run(wrapped: object, parameter: nn.Parameter) -> _Run:
    sub_group, offset, size = wrapped.grad_position[wrapped.get_param_id(parameter)]  # type: ignore[attr-defined]
    start = dist.get_rank() * size
    real = max(0, min(size, int(parameter.ds_numel) - start))  # type: ignore[attr-defined]
    flat = wrapped.fp32_partitioned_groups_flat[sub_group]  # type: ignore[attr-defined]
    return _Run(flat, offset, start if real else 0, real)
