"""``torch.ops.simtile.*``: the operations as opaque operators for torch.compile, torch.export and fake tensors.

A schema cannot return None: what was not asked for comes back empty, of shape (0,). ``scale`` is a tensor without
dimensions. Every backward is an operator of its own without an autograd formula, so that a second derivative raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op

from simtile import _ops
from simtile._first_order import first_order
from simtile._pairs import Gradients, Pairs, Want, gradient_dtype, loss_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

_INPUTS = "Tensor x, Tensor y, Tensor scale, Tensor? x_bias, Tensor? y_bias"
PAIRS = (
    "Tensor? x_ids, Tensor? y_ids, Tensor? indptr, Tensor? indices, Tensor? threshold, Tensor? guide_x, "
    "Tensor? guide_y, str ids_mode, str diagonal"
)
_WANT = "bool want_x, bool want_y, bool want_scale, bool want_x_bias, bool want_y_bias"
_GRADIENTS = "Tensor dx, Tensor dy, Tensor dscale, Tensor dx_bias, Tensor dy_bias"


PAIR_ARGUMENTS = 9
"""How many arguments ``PAIRS`` has, in :func:`simtile._ops.pairs_in_order`'s order; they follow the five inputs."""


def pairs_of(*parts: Any) -> Pairs:
    *tensors, ids_mode, diagonal = parts
    x_ids, y_ids, indptr, indices, threshold, guide_x, guide_y = tensors
    return Pairs(x_ids, y_ids, ids_mode, indptr, indices, diagonal, threshold, guide_x, guide_y)


def filled(parts: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if part is None else part for part in parts)


def _flat(found: Gradients, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    dscale = None if found.scale is None else found.scale.to(device=scale.device, dtype=scale.dtype)
    return filled(found._replace(scale=dscale), x)


def _fake_gradients(x: Tensor, y: Tensor, scale: Tensor, want: Want) -> tuple[Tensor, ...]:
    shapes = (x.shape, y.shape, (), x.shape[:1], y.shape[:1])
    dtypes = (gradient_dtype(x), gradient_dtype(x), scale.dtype, loss_dtype(x), loss_dtype(x))
    devices = (x.device, x.device, scale.device, x.device, x.device)
    return tuple(
        torch.empty(shape, dtype=dtype, device=device) if wanted else x.new_empty(0)
        for wanted, shape, dtype, device in zip(want, shapes, dtypes, devices, strict=True)
    )


def _needed(ctx: Any, parts: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of the five differentiable inputs, None where autograd does not ask."""
    return [part if needed else None for part, needed in zip(parts, ctx.needs_input_grad, strict=False)]


def _wants(ctx: Any) -> tuple[bool, ...]:
    return tuple(bool(need) for need in ctx.needs_input_grad[:5])


# pair_lse ---------------------------------------------------------------------------------------------------------


@custom_op(
    "simtile::pair_lse",
    mutates_args=(),
    schema=f"({_INPUTS}, {PAIRS}, bool row, bool column, bool positive, str plan) "
    "-> (Tensor row_lse, Tensor column_lse, Tensor own, Tensor stash)",
)
def _pair_lse(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> tuple[Tensor, ...]:
    pairs, (row, column, positive, plan) = pairs_of(*rest[:PAIR_ARGUMENTS]), rest[PAIR_ARGUMENTS:]
    return filled(_ops.lse_forward(x, y, scale, x_bias, y_bias, pairs, row, column, positive, plan), x)


@_pair_lse.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> tuple[Tensor, ...]:
    row, column, positive, plan = rest[PAIR_ARGUMENTS:]
    (M, N), dtype = (x.shape[0], y.shape[0]), loss_dtype(x)
    sizes = (M if row else None, N if column else None, torch.sym_min(M, N) if positive else None)
    parts: list[Tensor | None] = [None if size is None else x.new_empty(size, dtype=dtype) for size in sizes]
    stash = {"dense": dtype, "stash": torch.int16}.get(plan)
    return filled([*parts, None if stash is None else x.new_empty((M, N), dtype=stash)], x)


@custom_op(
    "simtile::pair_lse_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {PAIRS}, str plan, Tensor row_lse, Tensor column_lse, Tensor stash, "
    f"Tensor? row_grad, Tensor? column_grad, Tensor? own_grad, {_WANT}) -> ({_GRADIENTS})",
)
def _pair_lse_backward(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> tuple[Tensor, ...]:
    pairs, (plan, row, column, stash, *grads), want = (
        pairs_of(*rest[:PAIR_ARGUMENTS]),
        rest[PAIR_ARGUMENTS:-5],
        Want(*rest[-5:]),
    )
    kept = stash if plan in ("dense", "stash") and stash.ndim == 2 else None
    found = _ops.lse_backward(
        x, y, scale, x_bias, y_bias, pairs, (row, column), (grads[0], grads[1], grads[2]), kept, want, plan
    )
    return _flat(found, x, scale)


@_pair_lse_backward.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(x, y, scale, Want(*rest[-5:]))


def _save_lse(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])
    ctx.words = (*inputs[12:14], inputs[17])  # ids_mode, diagonal, plan
    ctx.save_for_backward(*inputs[:12], *(part for i, part in enumerate(output) if i != 2))


@first_order
def _lse_formula(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, row, column, stash = ctx.saved_tensors
    grads = tuple(None if g is None or g.shape[0] == 0 else g for g in grads[:3])
    out = torch.ops.simtile.pair_lse_backward(*inputs, *ctx.words, row, column, stash, *grads, *_wants(ctx))
    return (*_needed(ctx, out), *[None] * 13)


_pair_lse.register_autograd(_lse_formula, setup_context=_save_lse)


# pair_nll ---------------------------------------------------------------------------------------------------------


@custom_op(
    "simtile::pair_nll",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor? target, Tensor? weight, {PAIRS}, str link, str plan, {_WANT}) "
    f"-> (Tensor total, Tensor coefficient, {_GRADIENTS})",
)
def _pair_nll(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> tuple[Tensor, ...]:
    (target, weight, *parts), (link, plan), want = rest[:-7], rest[-7:-5], Want(*rest[-5:])
    pairs = pairs_of(*parts)
    total, coefficient, found = _ops.nll_forward(x, y, scale, x_bias, y_bias, pairs, target, weight, link, want, plan)
    return total, coefficient, *_flat(found, x, scale)


@_pair_nll.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    dtype = loss_dtype(x)
    return (
        x.new_empty((), dtype=dtype),
        x.new_empty(x.shape[0], dtype=dtype),
        *_fake_gradients(x, y, scale, Want(*rest[-5:])),
    )


def _save_nll(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(*output[1:])


@first_order
def _nll_formula(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 23
    coefficient, *found = ctx.saved_tensors
    out = torch.ops.simtile.scale_gradients(grad, *found, ctx.dtype)
    target = -torch.ops.simtile.scale_vector(grad, coefficient) if ctx.needs_input_grad[5] else None
    return (*_needed(ctx, out), target, *[None] * 17)


@custom_op(
    "simtile::scale_gradients",
    mutates_args=(),
    schema=f"(Tensor factor, {_GRADIENTS}, ScalarType dtype) -> ({', '.join(['Tensor'] * 5)})",
)
def _scale_gradients(factor: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Gradients made in the forward pass times what arrives from above; dX and dY in the inputs' dtype."""
    *found, dtype = rest
    scaled = [part * factor for part in found]
    return scaled[0].to(dtype), scaled[1].to(dtype), *scaled[2:]


@_scale_gradients.register_fake
def _(factor: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *found, dtype = rest
    return tuple(torch.empty_like(part, dtype=dtype if i < 2 else part.dtype) for i, part in enumerate(found))


@custom_op("simtile::scale_vector", mutates_args=(), schema="(Tensor factor, Tensor values) -> Tensor")
def _scale_vector(factor: Tensor, values: Tensor) -> Tensor:
    return values * factor


@_scale_vector.register_fake
def _(factor: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(values)


_pair_nll.register_autograd(_nll_formula, setup_context=_save_nll)


# pair_softplus ----------------------------------------------------------------------------------------------------


@custom_op(
    "simtile::pair_softplus",
    mutates_args=(),
    schema=f"({_INPUTS}, {PAIRS}, float factor, str plan, {_WANT}) -> (Tensor total, {_GRADIENTS})",
)
def _pair_softplus(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> tuple[Tensor, ...]:
    pairs, (factor, plan), want = pairs_of(*rest[:PAIR_ARGUMENTS]), rest[PAIR_ARGUMENTS:-5], Want(*rest[-5:])
    total, found = _ops.softplus_total(x, y, scale, x_bias, y_bias, factor, pairs, want, plan)
    return total, *_flat(found, x, scale)


@_pair_softplus.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return x.new_empty((), dtype=loss_dtype(x)), *_fake_gradients(x, y, scale, Want(*rest[-5:]))


def _save_softplus(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(*output[1:])


@first_order
def _softplus_formula(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 21
    out = torch.ops.simtile.scale_gradients(grad, *ctx.saved_tensors, ctx.dtype)
    return (*_needed(ctx, out), *[None] * 16)


_pair_softplus.register_autograd(_softplus_formula, setup_context=_save_softplus)


@custom_op("simtile::pair_softplus_rows", mutates_args=(), schema=f"({_INPUTS}, {PAIRS}, str plan) -> Tensor")
def _pair_softplus_rows(x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any) -> Tensor:
    return _ops.softplus_forward(x, y, scale, x_bias, y_bias, pairs_of(*rest[:PAIR_ARGUMENTS]), None, Want(), rest[-1])[
        0
    ]


@_pair_softplus_rows.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], dtype=loss_dtype(x))


@custom_op(
    "simtile::pair_softplus_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {PAIRS}, str plan, Tensor row_grad, {_WANT}) -> ({_GRADIENTS})",
)
def _pair_softplus_backward(
    x: Tensor, y: Tensor, scale: Tensor, x_bias: Any, y_bias: Any, *rest: Any
) -> tuple[Tensor, ...]:
    pairs, (plan, grad), want = pairs_of(*rest[:PAIR_ARGUMENTS]), rest[PAIR_ARGUMENTS:-5], Want(*rest[-5:])
    _, found = _ops.softplus_forward(x, y, scale, x_bias, y_bias, pairs, grad, want, plan)
    return _flat(found, x, scale)


@_pair_softplus_backward.register_fake
def _(x: Tensor, y: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(x, y, scale, Want(*rest[-5:]))


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.words = inputs[12:15]  # ids_mode, diagonal, plan
    ctx.save_for_backward(*inputs[:12])


@first_order
def _rows_formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    out = torch.ops.simtile.pair_softplus_backward(*ctx.saved_tensors, *ctx.words, grad, *_wants(ctx))
    return (*_needed(ctx, out), *[None] * 10)


_pair_softplus_rows.register_autograd(_rows_formula, setup_context=_save_rows)
