"""What a batch is compared with: the rows of this process, or those of all ranks of a process group.

A loss is written once, over the methods of a :class:`Pool`. Rows of x are always this process's own; rows of y are the
pool's. "The pair (i, i)", CSR lists and targets speak of this process's rows of y: a pair never spans two ranks.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from simtile import _ops
from simtile._class_sums import class_sums
from simtile._pairs import Pairs, Scale, loss_dtype
from simtile._reductions import reduced


class Pool(Protocol):
    """The reductions and sums that losses are made of. Arguments are checked by the caller."""

    def pair_lse(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        row: bool, column: bool, positive: bool, plan: str,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Log-sum-exps of this process's rows over all y, of its columns over all x, and the own scores s_ii."""
        ...

    def pair_softplus(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        reduction: str, plan: str,
    ) -> Tensor:  # fmt: skip
        """Σ softplus over all kept pairs divided by the number of rows of x ("mean"), this sum, or the row sums."""
        ...

    def reduced(self, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
        """Σ w·loss / Σ w or Σ w·loss over the pool, or w·loss of this process's rows."""
        ...

    def new_ids(self, rows: int, like: Tensor) -> Tensor:
        """(rows,) int64 ids that nothing else in the pool has, on the device of ``like``."""
        ...

    def row_sum(self, y: Tensor) -> tuple[Tensor, Tensor | int]:
        """The sum (D,) of all rows of y, in the loss's dtype, and their number."""
        ...

    def class_sums(self, x_ids: Tensor, y: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (M, D) and the number (M,) of all rows of y that have each x's id."""
        ...


class LocalPool:
    """The rows of this process."""

    def pair_lse(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        row: bool, column: bool, positive: bool, plan: str,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """As :class:`Pool`."""
        return _ops.pair_lse(
            x, y, scale, x_bias, y_bias, pairs, row=row, column=column, positive=positive, plan=plan
        )  # fmt: skip

    def pair_softplus(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        reduction: str, plan: str,
    ) -> Tensor:  # fmt: skip
        """As :class:`Pool`."""
        share = {"none": None, "sum": 1.0, "mean": 1.0 / max(x.shape[0], 1)}[reduction]
        return _ops.pair_softplus(x, y, scale, x_bias, y_bias, pairs, factor=share, plan=plan)

    def reduced(self, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
        """As :class:`Pool`."""
        return reduced(loss, weight, reduction)

    def new_ids(self, rows: int, like: Tensor) -> Tensor:
        """As :class:`Pool`."""
        return torch.arange(rows, device=like.device)

    def row_sum(self, y: Tensor) -> tuple[Tensor, int]:
        """As :class:`Pool`."""
        return y.to(loss_dtype(y)).sum(0), y.shape[0]

    def class_sums(self, x_ids: Tensor, y: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`Pool`."""
        return class_sums(x_ids, y.to(loss_dtype(y)), y_ids)


LOCAL = LocalPool()


def pool_of(process_group: object) -> Pool:
    """The pool for a loss's argument ``process_group``; torch.distributed is loaded only for one that is not None."""
    if process_group is None:
        return LOCAL
    from simtile.distributed import JoinedPool, as_ranks

    return JoinedPool(as_ranks(process_group))
