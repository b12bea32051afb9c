"""Scores of several prefixes of the coordinates (Matryoshka) from one sweep over them.

    s_k[i, j] = scale * <x[i, :d_k], y[j, :d_k]> / (|x[i, :d_k]| |y[j, :d_k]|)

A prefix's inner product is a partial sum of the next one's, so all of them cost one product, where a loss a prefix
(Kusupati et al. 2022, arXiv:2205.13147) costs one each; gradients likewise. Tiles do so in Rust and in Triton; plain
torch takes one prefix after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op

from simtile._first_order import apply, first_order
from simtile._library import PAIR_ARGUMENTS, PAIRS, filled, pairs_of
from simtile._ops import in_own_precision, ordered_sum, pairs_in_order, times
from simtile._pairs import Gradients, Pairs, Scale, Want, gradient_dtype, loss_dtype, traced
from simtile._plan import engine_for

if TYPE_CHECKING:
    from collections.abc import Sequence

Scores = tuple[Tensor | None, Tensor | None, Tensor | None]


def check_dims(dims: Sequence[int], D: int) -> list[int]:
    """At least one prefix of 1 to D coordinates, as a list of int."""
    found = list(dims)
    if not found or not all(isinstance(d, int) and not isinstance(d, bool) for d in found):
        raise TypeError(f"dims: a sequence of at least one integer, got {dims!r}")
    if not all(1 <= d <= D for d in found):
        raise ValueError(f"dims: numbers from 1 to the {D} columns of the inputs, got {found}")
    return found


def nested_scores(
    x: Tensor, y: Tensor, dims: Sequence[int], scale: Scale, pairs: Pairs, *,
    normalize: bool, row: bool, column: bool, own: bool,
) -> Scores:  # fmt: skip
    """Log-sum-exps of rows (K, M) and columns (K, N) and own scores (K, min(M, N)), each None if not asked for."""
    ends = sorted(dims)
    if traced(x):
        wide = scale if isinstance(scale, Tensor) else torch.full((), scale, dtype=torch.float64)
        parts = torch.ops.simtile.nested_lse(x, y, wide, *pairs_in_order(pairs), ends, normalize, row, column, own)
        found = [part if asked else None for part, asked in zip(parts, (row, column, own), strict=True)]
    else:
        found = apply(_NestedLSE, x, y, scale, pairs, ends, normalize, row, column, own)
    if ends != list(dims):
        order = sorted(range(len(dims)), key=dims.__getitem__)
        back = torch.tensor(sorted(range(len(dims)), key=order.__getitem__), device=x.device)
        found = [None if part is None else part.index_select(0, back) for part in found]
    return found[0], found[1], found[2]


def nested_nll(x: Tensor, y: Tensor, dims: Sequence[int], scale: Scale, pairs: Pairs, weight: Tensor, *,
               normalize: bool) -> Tensor | None:  # fmt: skip
    """Σ_ki weight[k, i] log(1 + exp(lse_ki - s_kii)), gradients made in the forward pass; None where no engine does so.

    ``dims`` ascend, ``pairs`` skip the diagonal.
    """
    engine = engine_for(x, y.shape[0], "chunked")
    if traced(x) or not hasattr(engine, "nested_nll"):
        return None
    total: Tensor = apply(_NestedNLL, x, y, scale, pairs, list(dims), weight, normalize)
    return total


@in_own_precision
def _forward(x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], *how: bool) -> Scores:
    return engine_for(x, y.shape[0], "recompute").nested_lse(x, y, scale, pairs, dims, *how)


@in_own_precision
def _backward(
    x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], normalize: bool,
    lse: tuple[Tensor | None, Tensor | None], grads: Scores, want: Want,
) -> Gradients:  # fmt: skip
    return engine_for(x, y.shape[0], "recompute").nested_grad(x, y, scale, pairs, dims, normalize, lse, grads, want)


def _as(gradient: Tensor | None, like: Scale) -> Tensor | None:
    return gradient.to(like.dtype) if gradient is not None and isinstance(like, Tensor) else None


class _NestedLSE(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], *how: bool) -> Scores:
        found = _forward(x, y, scale, pairs, dims, *how)
        ctx.set_materialize_grads(False)
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs, ctx.dims, ctx.normalize = pairs, dims, how[0]
        ctx.save_for_backward(x, y, scale if isinstance(scale, Tensor) else None, *found[:2])
        return found

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, scale, row, column = ctx.saved_tensors
        scale = ctx.scale if scale is None else scale
        want, given = Want(*ctx.needs_input_grad[:3]), (grads[0], grads[1], grads[2])
        found = _backward(x, y, scale, ctx.pairs, ctx.dims, ctx.normalize, (row, column), given, want)
        return (_as(found.x, x), _as(found.y, y), _as(found.scale, scale), *[None] * 6)


class _NestedNLL(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, pairs: Pairs, dims: list[int], weight: Tensor, normalize: bool
    ) -> Tensor:
        engine: Any = engine_for(x, y.shape[0], "chunked")
        want = Want(*ctx.needs_input_grad[:3])
        loss, found = in_own_precision(engine.nested_nll)(x, y, scale, pairs, dims, weight, normalize, want)
        ctx.dtype = x.dtype
        ctx.save_for_backward(*found[:3])
        return ordered_sum((loss * weight).flatten())

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dy, dscale = (times(part, grad) for part in ctx.saved_tensors)
        dx, dy = (None if part is None else part.to(ctx.dtype) for part in (dx, dy))
        return (dx, dy, dscale, *[None] * 4)


# torch.ops.simtile ------------------------------------------------------------------------------------------------

_INPUTS = f"Tensor x, Tensor y, Tensor scale, {PAIRS}, int[] dims, bool normalize"


@custom_op(
    "simtile::nested_lse",
    mutates_args=(),
    schema=f"({_INPUTS}, bool row, bool column, bool own) -> (Tensor row_lse, Tensor column_lse, Tensor own_scores)",
)
def _nested_lse(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    parts, how = rest[:PAIR_ARGUMENTS], rest[PAIR_ARGUMENTS:]
    return filled(_forward(x, y, scale, pairs_of(*parts), *how), x)


@_nested_lse.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    dims, _, row, column, own = rest[PAIR_ARGUMENTS:]
    K = len(dims)
    M, N = x.shape[0], y.shape[0]
    sizes = (M if row else None, N if column else None, torch.sym_min(M, N) if own else None)
    return filled([None if size is None else x.new_empty((K, size), dtype=loss_dtype(x)) for size in sizes], x)


@custom_op(
    "simtile::nested_lse_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor row_lse, Tensor column_lse, Tensor? row_grad, Tensor? column_grad, Tensor? own_grad, "
    "bool want_x, bool want_y, bool want_scale) -> (Tensor dx, Tensor dy, Tensor dscale)",
)
def _nested_lse_backward(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    pairs, want = pairs_of(*rest[:PAIR_ARGUMENTS]), Want(*rest[-3:])
    dims, normalize, row, column, *grads = rest[PAIR_ARGUMENTS:-3]
    found = _backward(x, y, scale, pairs, dims, normalize, (row, column), (grads[0], grads[1], grads[2]), want)
    dscale = None if found.scale is None else found.scale.to(device=scale.device, dtype=scale.dtype)
    return filled((found.x, found.y, dscale), x)


@_nested_lse_backward.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    shapes = (
        (x.shape, gradient_dtype(x), x.device),
        (y.shape, gradient_dtype(x), x.device),
        ((), scale.dtype, scale.device),
    )
    return tuple(
        torch.empty(shape, dtype=dtype, device=device) if wanted else x.new_empty(0)
        for wanted, (shape, dtype, device) in zip(rest[-3:], shapes, strict=True)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.words = inputs[10:14]  # ids_mode, diagonal, dims, normalize
    ctx.save_for_backward(*inputs[:10], *output[:2])


@first_order
def _formula(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, row, column = ctx.saved_tensors
    grads = tuple(None if g is None or g.shape[0] == 0 else g for g in grads)
    want = tuple(bool(need) for need in ctx.needs_input_grad[:3])
    out = torch.ops.simtile.nested_lse_backward(*inputs, *ctx.words, row, column, *grads, *want)
    dx, dy, dscale = (part if need else None for part, need in zip(out, want, strict=True))
    return (None if dx is None else dx.to(inputs[0].dtype), None if dy is None else dy.to(inputs[0].dtype), dscale,
            *[None] * 14)  # fmt: skip


_nested_lse.register_autograd(_formula, setup_context=_save)
