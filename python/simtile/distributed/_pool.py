"""The pool of all ranks' rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from simtile import _ops
from simtile._first_order import apply
from simtile._pairs import Pairs, Scale, loss_dtype, traced
from simtile._reductions import reduced
from simtile.distributed._class_sums import joined_class_sums
from simtile.distributed._pair_ops import Inputs, JoinedLSE, JoinedSoftplus, JoinedSoftplusRows, softplus_tour
from simtile.distributed._ranks import Ranks, every_rank, sum_over_ranks
from simtile.distributed._tour import Tour

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_OPERATIONS = ("pair_lse", "pair_softplus", "class_sums")


class _Call(NamedTuple):
    """What the ranks tell each other before they exchange rows: their sizes, then what must be the same everywhere."""

    x_rows: int
    y_rows: int
    operation: int
    columns: int
    dtype: int
    given: int
    options: int
    gradients: int


_MEANING = {
    "operation": "the loss or its options",
    "columns": "the columns D",
    "dtype": "the dtype",
    "given": "which of ids, threshold and guide are given",
    "options": "the loss's directions or reduction",
    "gradients": "which inputs need a gradient",
}


class JoinedPool:
    """The rows of all ranks: :class:`simtile._pool.Pool` over a process group."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def pair_lse(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        row: bool, column: bool, positive: bool, plan: str,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """As :class:`simtile._pool.Pool`."""
        if not (row or column):
            return _ops.pair_lse(
                x, y, scale, x_bias, y_bias, pairs, row=False, column=False, positive=positive, plan=plan
            )  # fmt: skip
        inputs = Inputs(x, y, scale, x_bias, y_bias)
        _, tour = self._tours("pair_lse", inputs, pairs, options=row + 2 * column + 4 * positive)
        found: tuple[Tensor | None, Tensor | None, Tensor | None]
        found = apply(JoinedLSE, *inputs, pairs, row, column, positive, plan, tour)
        return found

    def pair_softplus(
        self, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
        reduction: str, plan: str,
    ) -> Tensor:  # fmt: skip
        """As :class:`simtile._pool.Pool`."""
        inputs = Inputs(x, y, scale, x_bias, y_bias)
        x_tour, tour = self._tours("pair_softplus", inputs, pairs, options=int(reduction == "none"))
        want = _ops.wanted(*inputs)
        total: Tensor
        if reduction == "none":
            total = apply(JoinedSoftplusRows, *inputs, pairs, plan, tour)
        elif any(want):
            total = apply(JoinedSoftplus, *inputs, pairs, plan, tour)
        else:
            rows, _ = softplus_tour(inputs, pairs, None, want, plan, tour)
            total = sum_over_ranks(self.ranks, _ops.ordered_sum(rows))
        return total / max(sum(x_tour.rows), 1) if reduction == "mean" else total

    def reduced(self, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
        """As :class:`simtile._pool.Pool`."""
        if reduction == "none":
            return reduced(loss, weight, "none")
        count = loss.new_tensor(float(loss.shape[0])) if weight is None else _ops.ordered_sum(weight)
        total, joined = sum_over_ranks(self.ranks, torch.stack([reduced(loss, weight, "sum"), count])).unbind()
        return total / joined.masked_fill(joined == 0, 1.0) if reduction == "mean" else total

    def new_ids(self, rows: int, like: Tensor) -> Tensor:
        """As :class:`simtile._pool.Pool`."""
        return torch.arange(rows, device=like.device) + (self.ranks.rank << 40)

    def row_sum(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`simtile._pool.Pool`."""
        total = y.to(loss_dtype(y)).sum(0)
        joined = sum_over_ranks(self.ranks, torch.cat([total, total.new_tensor([float(y.shape[0])])]))
        return joined[:-1], joined[-1]

    def class_sums(self, x_ids: Tensor, y: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor]:
        """As :class:`simtile._pool.Pool`."""
        wide = y.to(loss_dtype(y))
        x_tour, y_tour = self._tours("class_sums", Inputs(x_ids, wide, 1.0, None, None), Pairs(x_ids, y_ids), options=0)
        counted = torch.cat([wide, torch.ones_like(wide[:, :1])], 1)
        sums = joined_class_sums(x_ids, counted, y_ids, x_tour, y_tour)
        return sums[:, :-1], sums[:, -1].detach()

    def _tours(self, operation: str, inputs: Inputs, pairs: Pairs, *, options: int) -> tuple[Tour, Tour]:
        """Tours of the rows of x and of y, after the ranks have told each other what they are about to do."""
        x, y = inputs.x, inputs.y
        if traced(y):
            raise ValueError(
                "process_group: compile the towers and leave the loss outside; got a traced or fake tensor"
            )
        wanted = _ops.wanted(*inputs)
        mine = _Call(
            x.shape[0], y.shape[0], _OPERATIONS.index(operation), y.shape[1], _DTYPES.index(y.dtype),
            _given(pairs.y_ids, pairs.threshold, pairs.guide_y), options,
            sum(1 << place for place, needed in enumerate(wanted) if needed),
        )  # fmt: skip
        calls = [_Call(*row) for row in torch.stack(every_rank(self.ranks, _int64(mine, y))).tolist()]
        for name, meaning in _MEANING.items():
            values = [getattr(call, name) for call in calls]
            if len(set(values)) > 1:
                raise ValueError(f"process_group: the ranks differ in {meaning}: {values} by rank")
        return Tour(self.ranks, [call.x_rows for call in calls]), Tour(self.ranks, [call.y_rows for call in calls])


def _given(*arguments: Tensor | None) -> int:
    return sum(1 << place for place, argument in enumerate(arguments) if argument is not None)


def _int64(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)
