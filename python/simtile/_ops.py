"""The differentiable operations: what runs forward, what backward, and how eager calls and compiled ones reach it.

Eager calls go through the ``torch.autograd.Function``s below; under ``torch.compile``, ``torch.export`` and fake
tensors the same computations are the opaque operators ``torch.ops.simtile.*`` of :mod:`simtile._library`. Eager calls
take the former because a custom operator costs tens of microseconds more, and must return copies where a Function may
hand over the gradient it made in the forward pass.

Arguments have been checked by the caller. Gradients are in closed form and have no derivative of their own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._first_order import apply, first_order
from simtile._pairs import Gradients, Pairs, Scale, Want, traced
from simtile._plan import engine_for

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_own_precision(compute: Callable[_P, _R]) -> Callable[_P, _R]:
    """Autocast would run the engine's float32 products in 16 bits; inputs already have the dtype they shall have."""

    @functools.wraps(compute)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        device = args[0].device.type  # type: ignore[attr-defined]
        if not torch.is_autocast_enabled(device):
            return compute(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return compute(*args, **kwargs)

    return wrapped


def ordered_sum(values: Tensor) -> Tensor:
    """Sum of a vector in an order that does not depend on the number of threads; torch splits long ones among them."""
    while values.shape[0] > 16384:
        values = torch.nn.functional.pad(values, (0, -values.shape[0] % 1024)).view(-1, 1024).sum(1)
    return values.sum()


# What the Functions and the library operators compute -------------------------------------------------------------


@in_own_precision
def lse_forward(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
    row: bool, column: bool, positive: bool, plan: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Row and column log-sum-exps, the own scores s_ii, and what the plan leaves for the backward pass."""
    engine = engine_for(x, y.shape[0], plan)
    return engine.lse(x, y, scale, (x_bias, y_bias), pairs, row, column, positive, plan in ("dense", "stash"))


@in_own_precision
def lse_backward(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
    lse: tuple[Tensor | None, Tensor | None], grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    stash: Tensor | None, want: Want, plan: str,
) -> Gradients:  # fmt: skip
    """Gradients for those of what :func:`lse_forward` returned."""
    engine = engine_for(x, y.shape[0], plan)
    return engine.grad(x, y, scale, (x_bias, y_bias), pairs, lse, grads, stash, want)


@in_own_precision
def nll_forward(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
    target: Tensor | None, weight: Tensor | None, link: str, want: Want, plan: str,
) -> tuple[Tensor, Tensor, Gradients]:  # fmt: skip
    """Σ_i weight_i loss_i, its derivative by -target (M,), and its gradients."""
    engine = engine_for(x, y.shape[0], plan)
    loss, coefficient, gradients = engine.nll(x, y, scale, (x_bias, y_bias), pairs, link, weight, target, want)
    return ordered_sum(loss if weight is None else loss * weight), coefficient, gradients


@in_own_precision
def softplus_forward(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
    weight: Tensor | None, want: Want, plan: str,
) -> tuple[Tensor, Gradients]:  # fmt: skip
    """Row sums (M,) of softplus, and the gradients of Σ_i weight_i rows_i."""
    return engine_for(x, y.shape[0], plan).softplus(x, y, scale, (x_bias, y_bias), pairs, weight, want)


# Eager calls ------------------------------------------------------------------------------------------------------


class _PairLSE(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs,
        row: bool, column: bool, positive: bool, plan: str,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        rows, columns, own, stash = lse_forward(x, y, scale, x_bias, y_bias, pairs, row, column, positive, plan)
        ctx.set_materialize_grads(False)
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs, ctx.plan = pairs, plan
        saved_scale = scale if isinstance(scale, Tensor) else None
        ctx.save_for_backward(x, y, saved_scale, x_bias, y_bias, rows, columns, stash)
        return rows, columns, own

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, scale, x_bias, y_bias, rows, columns, stash = ctx.saved_tensors
        if scale is None:
            scale = ctx.scale
        want = Want(*ctx.needs_input_grad[:5])
        found = lse_backward(
            x,
            y,
            scale,
            x_bias,
            y_bias,
            ctx.pairs,
            (rows, columns),
            (grads[0], grads[1], grads[2]),
            stash,
            want,
            ctx.plan,
        )
        return (_as(found.x, x), _as(found.y, y), _as(found.scale, scale), found.x_bias, found.y_bias, *[None] * 5)


class _PairNLL(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None,
        target: Tensor | None, weight: Tensor | None, pairs: Pairs, link: str, plan: str,
    ) -> Tensor:  # fmt: skip
        want = Want(*ctx.needs_input_grad[:5])
        total, coefficient, found = nll_forward(x, y, scale, x_bias, y_bias, pairs, target, weight, link, want, plan)
        ctx.dtype = x.dtype
        ctx.save_for_backward(*found, coefficient if ctx.needs_input_grad[5] else None)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *found, coefficient = ctx.saved_tensors
        dx, dy, *rest = (times(part, grad) for part in found)
        target = None if coefficient is None else -grad * coefficient
        return (_cast(dx, ctx.dtype), _cast(dy, ctx.dtype), *rest, target, *[None] * 4)


class _PairSoftplus(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None,
        factor: float, pairs: Pairs, plan: str,
    ) -> Tensor:  # fmt: skip
        want = Want(*ctx.needs_input_grad[:5])
        total, found = softplus_total(x, y, scale, x_bias, y_bias, factor, pairs, want, plan)
        ctx.dtype = x.dtype
        ctx.save_for_backward(*found)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dy, *rest = (times(part, grad) for part in ctx.saved_tensors)
        return (_cast(dx, ctx.dtype), _cast(dy, ctx.dtype), *rest, *[None] * 3)


class _PairSoftplusRows(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None,
        pairs: Pairs, plan: str,
    ) -> Tensor:  # fmt: skip
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs, ctx.plan = pairs, plan
        ctx.save_for_backward(x, y, scale if isinstance(scale, Tensor) else None, x_bias, y_bias)
        return softplus_forward(x, y, scale, x_bias, y_bias, pairs, None, Want(), plan)[0]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, x_bias, y_bias = ctx.saved_tensors
        if scale is None:
            scale = ctx.scale
        want = Want(*ctx.needs_input_grad[:5])
        _, found = softplus_forward(x, y, scale, x_bias, y_bias, ctx.pairs, grad, want, ctx.plan)
        return (_as(found.x, x), _as(found.y, y), _as(found.scale, scale), found.x_bias, found.y_bias, None, None)


def softplus_total(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, factor: float,
    pairs: Pairs, want: Want, plan: str,
) -> tuple[Tensor, Gradients]:  # fmt: skip
    """``factor`` times the sum over all rows, and its gradients."""
    weight = None
    if factor != 1.0 and any(want):
        weight = torch.full(
            (x.shape[0],), factor, dtype=torch.float32 if x.dtype != torch.float64 else x.dtype, device=x.device
        )
    rows, found = softplus_forward(x, y, scale, x_bias, y_bias, pairs, weight, want, plan)
    return ordered_sum(rows) * factor, found


def _as(gradient: Tensor | None, like: Scale) -> Tensor | None:
    return gradient.to(like.dtype) if gradient is not None and isinstance(like, Tensor) else None


def _cast(gradient: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


def times(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    """The gradient times what arrives from above; itself, without a copy, in the usual case of 1.

    Handing over the saved tensor is safe: autograd drops its own reference before anything can write to the gradient,
    and with ``retain_graph=True``, when it keeps it, the accumulation copies. Reading a factor on a GPU would wait.
    """
    if gradient is None or (factor.device.type == "cpu" and factor.item() == 1.0):
        return gradient
    return gradient * factor.to(gradient.dtype) if gradient.dtype == torch.float64 else gradient * factor


# The functions that the public layer calls --------------------------------------------------------------------------


def pair_lse(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
    row: bool, column: bool, positive: bool, plan: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Log-sum-exps of rows and columns and the own scores s_ii (min(M, N),), each None if not asked for."""
    if traced(x):
        wide = _scale_tensor(scale, x)
        parts = torch.ops.simtile.pair_lse(
            x, y, wide, x_bias, y_bias, *pairs_in_order(pairs), row, column, positive, plan
        )
        return parts[0] if row else None, parts[1] if column else None, parts[2] if positive else None
    if not any(wanted(x, y, scale, x_bias, y_bias)):
        plan = "recompute" if plan == "stash" else plan
        return lse_forward(x, y, scale, x_bias, y_bias, pairs, row, column, positive, plan)[:3]
    found: tuple[Tensor | None, Tensor | None, Tensor | None]
    found = apply(_PairLSE, x, y, scale, x_bias, y_bias, pairs, row, column, positive, plan)
    return found


def pair_nll(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
    target: Tensor | None, weight: Tensor | None, link: str, plan: str,
) -> Tensor:  # fmt: skip
    """Σ_i weight_i link(lse_i - t_i), gradients made in the forward pass."""
    want = wanted(x, y, scale, x_bias, y_bias)
    if traced(x):
        total: Tensor = torch.ops.simtile.pair_nll(
            x, y, _scale_tensor(scale, x), x_bias, y_bias, target, weight, *pairs_in_order(pairs), link, plan, *want
        )[0]
        return total
    if not any(want) and (target is None or not (target.requires_grad and torch.is_grad_enabled())):
        return nll_forward(x, y, scale, x_bias, y_bias, pairs, target, weight, link, want, plan)[0]
    fused: Tensor = apply(_PairNLL, x, y, scale, x_bias, y_bias, target, weight, pairs, link, plan)
    return fused


def pair_softplus(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, pairs: Pairs, *,
    factor: float | None, plan: str,
) -> Tensor:  # fmt: skip
    """``factor`` times the sum of softplus over all kept pairs, or with None the row sums (M,)."""
    want = wanted(x, y, scale, x_bias, y_bias)
    out: Tensor
    if traced(x):
        arguments = (x, y, _scale_tensor(scale, x), x_bias, y_bias, *pairs_in_order(pairs))
        if factor is None:
            out = torch.ops.simtile.pair_softplus_rows(*arguments, plan)
        else:
            out = torch.ops.simtile.pair_softplus(*arguments, factor, plan, *want)[0]
    elif not any(want):
        if factor is None:
            out = softplus_forward(x, y, scale, x_bias, y_bias, pairs, None, want, plan)[0]
        else:
            out = softplus_total(x, y, scale, x_bias, y_bias, factor, pairs, want, plan)[0]
    elif factor is None:
        out = apply(_PairSoftplusRows, x, y, scale, x_bias, y_bias, pairs, plan)
    else:
        out = apply(_PairSoftplus, x, y, scale, x_bias, y_bias, factor, pairs, plan)
    return out


def wanted(*inputs: Scale | None) -> Want:
    """Which of x, y, scale, x_bias, y_bias get a gradient."""
    if not torch.is_grad_enabled():
        return Want()
    return Want(*(isinstance(value, Tensor) and value.requires_grad for value in inputs))


def pairs_in_order(pairs: Pairs) -> tuple[Tensor | str | None, ...]:
    """The fields in the order of the operators' schemas."""
    tensors = pairs.x_ids, pairs.y_ids, pairs.indptr, pairs.indices, pairs.threshold, pairs.guide_x, pairs.guide_y
    return *tensors, pairs.ids_mode, pairs.diagonal


def _scale_tensor(scale: Scale, x: Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        return scale
    return torch.full((), scale, dtype=torch.float64)
