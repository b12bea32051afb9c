"""A process group, how its ranks exchange rows, and sums over its ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed as dist
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh

from simtile._first_order import apply

Exchange: TypeAlias = Literal["auto", "ring", "gather"]

GATHER_BYTES = 64 << 20
"""``auto`` gathers while the rows of all ranks take no more than this; four engine workspaces."""


@dataclass(frozen=True)
class Ranks:
    """A process group and how its ranks exchange rows; see :mod:`simtile.distributed`."""

    group: dist.ProcessGroup
    exchange: Exchange = "auto"

    @property
    def rank(self) -> int:
        """This process's place in the group."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """W, the number of ranks."""
        return dist.get_world_size(self.group)

    def gathers(self, joined_bytes: int) -> bool:
        """Whether rows of this size in all are gathered. With two ranks a ring would hold them all as well."""
        return self.exchange == "gather" or (
            self.exchange == "auto" and (self.size <= 2 or joined_bytes <= GATHER_BYTES)
        )


def ring(process_group: dist.ProcessGroup | DeviceMesh | None = None) -> Ranks:
    """The ranks of a group (default: all), exchanging rows in a ring: O(B_local * D) memory.

    Raises TypeError, ValueError as :func:`as_ranks`, and torch's error where torch.distributed is not initialised.
    """
    return Ranks(as_ranks(_or_world(process_group)).group, "ring")


def gather(process_group: dist.ProcessGroup | DeviceMesh | None = None) -> Ranks:
    """The ranks of a group (default: all), exchanging all rows at once: O(B * D) memory. Raises as :func:`ring`."""
    return Ranks(as_ranks(_or_world(process_group)).group, "gather")


def as_ranks(process_group: object) -> Ranks:
    """What a loss's ``process_group`` stands for.

    Raises
    ------
    TypeError      not a ProcessGroup, DeviceMesh or Ranks
    ValueError      a mesh of several dimensions, or a group that this process is not in
    """
    if isinstance(process_group, Ranks):
        return process_group
    if isinstance(process_group, DeviceMesh):
        if process_group.ndim != 1:
            raise ValueError(
                "process_group: a mesh of one dimension, for example mesh['dp'] or mesh[('dp', 'fsdp')]._flatten(), "
                f"got one of {process_group.ndim}"
            )
        return Ranks(process_group.get_group())
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group: a group that this process belongs to, got one of other processes")
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            "process_group: a ProcessGroup, a DeviceMesh of one dimension, simtile.distributed.ring() or gather(), "
            f"or None, got {type(process_group).__name__}"
        )
    return Ranks(process_group)


def sum_over_ranks(ranks: Ranks, values: Tensor) -> Tensor:
    """The sum of every rank's ``values``, of one shape, added in the order of the ranks: the same bits everywhere.

    Differentiable: what one rank does with the sum reaches the values of all.
    """
    if values.requires_grad and torch.is_grad_enabled():
        total: Tensor = apply(_SumOverRanks, values, ranks)
        return total
    return _ordered_sum(ranks, values)


class _SumOverRanks(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _ordered_sum(ranks, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return sum_over_ranks(ctx.ranks, grads[0]), None


def _ordered_sum(ranks: Ranks, values: Tensor) -> Tensor:
    parts = every_rank(ranks, values)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def every_rank(ranks: Ranks, values: Tensor) -> list[Tensor]:
    """Each rank's ``values``, of one shape and dtype everywhere."""
    values = values.detach().contiguous()
    parts = [torch.empty_like(values) for _ in range(ranks.size)]
    dist.all_gather(parts, values, group=ranks.group)
    return parts


def all_rows(rows: Tensor, process_group: dist.ProcessGroup | DeviceMesh | None = None) -> Tensor:
    """The rows (M_r, ...) of every rank of a group (default: all), one rank's after the other's; without a gradient.

    What :class:`simtile.losses.MomentumQueue` is fed with, so that every rank has the same queue. Raises as
    :func:`ring`.
    """
    ranks = as_ranks(_or_world(process_group))
    sizes = [int(size) for size in every_rank(ranks, torch.tensor(rows.shape[0], device=rows.device))]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: rows.shape[0]] = rows.detach()
    return torch.cat([part[:size] for part, size in zip(every_rank(ranks, padded), sizes, strict=True)])


def _or_world(process_group: dist.ProcessGroup | DeviceMesh | None) -> object:
    return dist.group.WORLD if process_group is None else process_group
