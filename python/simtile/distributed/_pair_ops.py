"""The two reductions over the pairs of all ranks, as autograd functions.

Rank r computes the blocks of its own x with every rank's y. Rows are complete on their rank; what belongs to a y, its
column's log-sum-exp and its gradient, is added up as its shard goes around. The log-sum-exps of whole rows and columns
are enough for the gradients of a block:

    P = g_i e^(s_ij - row_i) + h_j e^(s_ij - column_j)        dX_r = scale Σ_q P_rq Y_q,  dY_q = scale Σ_r P_rq^T X_r

with g and h the incoming gradients; h and the columns travel with y. Sums of gradients are in the loss's dtype.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from simtile import _ops
from simtile._first_order import first_order
from simtile._pairs import Gradients, Pairs, Scale, Want, loss_dtype
from simtile.distributed._ranks import sum_over_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from simtile.distributed._tour import Tour


class Inputs(NamedTuple):
    """What both functions differentiate by, in the order of :class:`Want`."""

    x: Tensor
    y: Tensor
    scale: Scale
    x_bias: Tensor | None
    y_bias: Tensor | None


class _Shard(NamedTuple):
    """What travels: the rows of y and what belongs to them."""

    y: Tensor
    y_ids: Tensor | None = None
    y_bias: Tensor | None = None
    guide_y: Tensor | None = None
    column: Tensor | None = None
    column_grad: Tensor | None = None

    def packed(self) -> tuple[Tensor, ...]:
        return tuple(part for part in self if part is not None)

    def unpacked(self, parts: tuple[Tensor, ...]) -> _Shard:
        """The parts of another rank's shard, under the names that this one has."""
        rest = iter(parts)
        return self._replace(**{name: next(rest) for name, part in self._asdict().items() if part is not None})


class JoinedLSE(Function):
    """Row and column log-sum-exps over all ranks, and the own scores s_ii."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
        row: bool, column: bool, positive: bool, plan: str, tour: Tour,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        own: Tensor | None = None
        rows = x.new_full((x.shape[0],), -math.inf, dtype=loss_dtype(x)) if row else None
        mine = _Shard(y, pairs.y_ids, y_bias, pairs.guide_y)

        def visit(owner: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal own, rows
            shard, here = mine.unpacked(parts), owner == tour.ranks.rank
            r, c, o, _ = _ops.lse_forward(
                x, shard.y, scale, x_bias, shard.y_bias, _block(pairs, shard, here), row, column, positive and here,
                plan,
            )  # fmt: skip
            if here:
                own = o
            if rows is not None and r is not None:
                rows = torch.logaddexp(rows, r)
            return () if c is None else (c,)

        (columns,) = tour.run(mine.packed(), visit, torch.logaddexp) or (None,)
        ctx.set_materialize_grads(False)
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs, ctx.plan, ctx.tour = pairs, plan, tour
        ctx.save_for_backward(x, y, scale if isinstance(scale, Tensor) else None, x_bias, y_bias, rows, columns)
        return rows, columns, own

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, scale, x_bias, y_bias, rows, columns = ctx.saved_tensors
        if scale is None:
            scale = ctx.scale
        inputs = Inputs(x, y, scale, x_bias, y_bias)
        row_grad, column_grad, own_grad = grads
        if columns is not None and column_grad is None:
            column_grad = torch.zeros_like(columns)  # every rank's shard has the same parts
        mine = _Shard(y, ctx.pairs.y_ids, y_bias, ctx.pairs.guide_y, columns, column_grad)

        def block(shard: _Shard, pairs: Pairs, here: bool, want: Want) -> Gradients:
            return _ops.lse_backward(
                x, shard.y, scale, x_bias, shard.y_bias, pairs, (rows, shard.column),
                (row_grad, shard.column_grad, own_grad if here else None), None, want, ctx.plan,
            )  # fmt: skip

        found = _gathered(inputs, mine, ctx.pairs, Want(*ctx.needs_input_grad[:5]), ctx.tour, block)
        return (*_in_dtypes(found, inputs), *[None] * 6)


class JoinedSoftplus(Function):
    """The sum of softplus over all pairs of all ranks; gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
        plan: str, tour: Tour,
    ) -> Tensor:  # fmt: skip
        inputs = Inputs(x, y, scale, x_bias, y_bias)
        rows, found = softplus_tour(inputs, pairs, None, Want(*ctx.needs_input_grad[:5]), plan, tour)
        ctx.ranks, ctx.dtype = tour.ranks, x.dtype
        ctx.save_for_backward(*found)
        return sum_over_ranks(tour.ranks, _ops.ordered_sum(rows))

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Every rank returned this sum: what reaches any of them reaches every pair.
        grad = sum_over_ranks(ctx.ranks, grads[0])
        dx, dy, *rest = (_ops.times(part, grad) for part in ctx.saved_tensors)
        dx, dy = (None if part is None else part.to(ctx.dtype) for part in (dx, dy))
        return (dx, dy, *rest, *[None] * 3)


class JoinedSoftplusRows(Function):
    """The row sums (M,) of softplus over all ranks' y."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
        plan: str, tour: Tour,
    ) -> Tensor:  # fmt: skip
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs, ctx.plan, ctx.tour = pairs, plan, tour
        ctx.save_for_backward(x, y, scale if isinstance(scale, Tensor) else None, x_bias, y_bias)
        return softplus_tour(Inputs(x, y, scale, x_bias, y_bias), pairs, None, Want(), plan, tour)[0]

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, x_bias, y_bias = ctx.saved_tensors
        inputs = Inputs(x, y, ctx.scale if scale is None else scale, x_bias, y_bias)
        _, found = softplus_tour(inputs, ctx.pairs, grads[0], Want(*ctx.needs_input_grad[:5]), ctx.plan, ctx.tour)
        return (*_in_dtypes(found, inputs), *[None] * 3)


def softplus_tour(
    inputs: Inputs, pairs: Pairs, weight: Tensor | None, want: Want, plan: str, tour: Tour
) -> tuple[Tensor, Gradients]:
    """Row sums (M,), and the gradients of Σ_i weight_i rows_i."""
    x, y, scale, x_bias, y_bias = inputs
    rows = x.new_zeros(x.shape[0], dtype=loss_dtype(x))

    def block(shard: _Shard, pairs: Pairs, here: bool, want: Want) -> Gradients:
        part, found = _ops.softplus_forward(x, shard.y, scale, x_bias, shard.y_bias, pairs, weight, want, plan)
        rows.add_(part)
        return found

    found = _gathered(inputs, _Shard(y, pairs.y_ids, y_bias, pairs.guide_y), pairs, want, tour, block)
    return rows, found


def _gathered(
    inputs: Inputs, mine: _Shard, pairs: Pairs, want: Want, tour: Tour,
    block: Callable[[_Shard, Pairs, bool, Want], Gradients],
) -> Gradients:  # fmt: skip
    """The gradients of all blocks: those of y come home from the tour, the others are summed here."""
    dtype = loss_dtype(inputs.x)
    total = Gradients()

    def visit(owner: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal total
        shard, here = mine.unpacked(parts), owner == tour.ranks.rank
        found = block(shard, _block(pairs, shard, here), here, want)
        total = Gradients(
            _added(total.x, found.x, dtype), None, _added(total.scale, found.scale, dtype),
            _added(total.x_bias, found.x_bias, dtype),
        )  # fmt: skip
        return tuple(part.to(dtype) for part in (found.y, found.y_bias) if part is not None)

    home = iter(tour.run(mine.packed(), visit, Tensor.add_))
    return total._replace(y=next(home) if want.y else None, y_bias=next(home) if want.y_bias else None)


def _block(pairs: Pairs, shard: _Shard, here: bool) -> Pairs:
    """The pairs of this rank's x with one shard: lists and the diagonal are about its own."""
    if here:
        return pairs
    return pairs._replace(y_ids=shard.y_ids, guide_y=shard.guide_y, indptr=None, indices=None, diagonal="keep")


def _added(total: Tensor | None, part: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if total is None or part is None:
        return None if part is None else part.to(dtype)
    return total.add_(part)


def _in_dtypes(found: Gradients, inputs: Inputs) -> tuple[Tensor | None, ...]:
    return tuple(
        part.to(given.dtype) if part is not None and isinstance(given, Tensor) else None
        for part, given in zip(found, inputs, strict=True)
    )
