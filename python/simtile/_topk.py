"""The k best columns of each row, with a gradient that is bitwise reproducible."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op

from simtile._first_order import apply, first_order
from simtile._ops import in_own_precision
from simtile._pairs import Pairs, as_csr, as_vector, check_like, check_matrix, loss_dtype, traced
from simtile._plan import engine_for


class TopK(NamedTuple):
    """The best scores of each row, descending, and the columns they stand in."""

    scores: Tensor
    """(M, k) float32 (float64 for float64 inputs), padded with -inf."""
    ids: Tensor
    """(M, k) int64, padded with -1."""


def pair_topk(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    y_scale: Tensor | None = None,
    y_bias: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> TopK:
    """The k columns of each row with the largest y_scale_j * <x_i, y_j> + y_bias_j.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    k : int      at least 1; beyond N the lists are padded
    y_scale, y_bias : Tensor (N,)      as of a hubness correction
    exclude : (indptr (M + 1,), indices)      CSR list of columns left out of each row

    Returns
    -------
    TopK(scores (M, k) descending, ids (M, k) int64)
        Equal scores: the smaller id first. Padded with -inf and -1. ``scores`` is differentiable, deterministically.

    Raises
    ------
    TypeError, ValueError      naming the argument

    Examples
    --------
    >>> pair_topk(torch.eye(2), torch.eye(2), 1).ids
    tensor([[0],
            [1]])
    """
    check_matrix("x", x)
    check_like("y", y, "x", x)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"k: an integer, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k: at least 1, got {k}")
    M, N = x.shape[0], y.shape[0]
    factors, biases = as_vector("y_scale", y_scale, N, x), as_vector("y_bias", y_bias, N, x)
    return topk(x, y, k, factors, biases, *as_csr(exclude, M, N, x))


def merge_topk(a: TopK, b: TopK) -> TopK:
    """The k best of two disjoint blocks of columns; the ids must already count over the whole, not per block.

    Raises ValueError if the shapes differ. Ties go to the smaller id, so the order of merging does not matter.
    """
    if a.scores.shape != b.scores.shape:
        raise ValueError(f"b: scores of the shape of a, {tuple(a.scores.shape)}, got {tuple(b.scores.shape)}")
    k = a.scores.shape[1]
    scores, ids = torch.cat([a.scores, b.scores], 1), torch.cat([a.ids, b.ids], 1)
    by_id = torch.argsort(ids, dim=1, stable=True)
    scores, ids = scores.gather(1, by_id), ids.gather(1, by_id)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]
    return TopK(scores.gather(1, order), ids.gather(1, order))


@in_own_precision
def _forward(
    x: Tensor,
    y: Tensor,
    y_scale: Tensor | None,
    y_bias: Tensor | None,
    indptr: Tensor | None,
    indices: Tensor | None,
    k: int,
) -> tuple[Tensor, Tensor]:
    pairs = Pairs(indptr=indptr, indices=indices)
    return engine_for(x, y.shape[0], "recompute").topk(x, y, k, y_scale, y_bias, pairs)


@in_own_precision
def _backward(
    x: Tensor, y: Tensor, y_scale: Tensor | None, ids: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dy, dy_scale, dy_bias), one rank of the lists after another, so that no (M, k, D) is gathered."""
    dtype = loss_dtype(x)
    wide = x.to(dtype)
    dx, dy = (torch.zeros(part.shape, dtype=dtype, device=y.device) for part in (x, y))
    dy_scale, dy_bias = dy.new_zeros(y.shape[0]), dy.new_zeros(y.shape[0])
    for found, g in zip(ids.unbind(1), grad.to(dtype).unbind(1), strict=True):
        if y.shape[0] == 0:
            break
        g = g.masked_fill(found < 0, 0.0)
        columns = found.clamp_min(0)
        rows = y[columns].to(dtype)
        factor = g if y_scale is None else g * y_scale[columns].to(dtype)
        dx.addcmul_(rows, factor[:, None])
        _add_at(dy, columns, wide * factor[:, None])
        _add_at(dy_scale, columns, g * (wide * rows).sum(1))
        _add_at(dy_bias, columns, g)
    return dx.to(x.dtype), dy.to(y.dtype), dy_scale, dy_bias


def _add_at(sums: Tensor, index: Tensor, values: Tensor) -> None:
    """sums[index] += values in a fixed order: on the CPU index_add runs in order, on a GPU index_put sorts."""
    if sums.device.type == "cpu":
        sums.index_add_(0, index, values)
    else:
        sums.index_put_((index,), values, accumulate=True)


class _PairTopK(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, y_scale: Tensor | None, y_bias: Tensor | None, indptr: Tensor | None,
        indices: Tensor | None, k: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scores, ids = _forward(x, y, y_scale, y_bias, indptr, indices, k)
        ctx.mark_non_differentiable(ids)
        ctx.save_for_backward(x, y, y_scale, ids)
        return scores, ids

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, y_scale, ids = ctx.saved_tensors
        parts = _backward(x, y, y_scale, ids, grad)
        return (*(part if need else None for part, need in zip(parts, ctx.needs_input_grad, strict=False)), *[None] * 3)


@custom_op(
    "simtile::pair_topk",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor? y_scale, Tensor? y_bias, Tensor? indptr, Tensor? indices, SymInt k) "
    "-> (Tensor scores, Tensor ids)",
)
def _pair_topk(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _forward(*inputs)


@_pair_topk.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], rest[-1])
    return x.new_empty(shape, dtype=loss_dtype(x)), x.new_empty(shape, dtype=torch.int64)


@custom_op(
    "simtile::pair_topk_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor? y_scale, Tensor ids, Tensor grad) "
    "-> (Tensor dx, Tensor dy, Tensor dy_scale, Tensor dy_bias)",
)
def _pair_topk_backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(*inputs)


@_pair_topk_backward.register_fake
def _(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    column = x.new_empty(y.shape[0], dtype=loss_dtype(x))
    return x.new_empty(x.shape), y.new_empty(y.shape), column, column.new_empty(column.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:3], output[1])


@first_order
def _formula(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    parts = torch.ops.simtile.pair_topk_backward(*ctx.saved_tensors, grad)
    return (*(part if need else None for part, need in zip(parts, ctx.needs_input_grad, strict=False)), *[None] * 3)


_pair_topk.register_autograd(_formula, setup_context=_save)


def topk(
    x: Tensor,
    y: Tensor,
    k: int,
    y_scale: Tensor | None,
    y_bias: Tensor | None,
    indptr: Tensor | None,
    indices: Tensor | None,
) -> TopK:
    """:func:`simtile.functional.pair_topk` after its checks."""
    if traced(x):
        return TopK(*torch.ops.simtile.pair_topk(x, y, y_scale, y_bias, indptr, indices, k))
    return TopK(*apply(_PairTopK, x, y, y_scale, y_bias, indptr, indices, k))
