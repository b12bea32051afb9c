"""Gradients that have no derivative of their own, and say so."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from collections.abc import Callable

    Backward = Callable[..., tuple[Tensor | None, ...]]


def first_order(backward: Backward) -> Backward:
    """For a ``backward`` in closed form: under ``create_graph=True`` whoever differentiates its result gets an error.

    ``torch.autograd.function.once_differentiable`` does so only where the incoming gradient is itself differentiable.
    A loss gets a plain 1: its gradient would count as a constant, and a penalty on it would silently do nothing.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            found = backward(ctx, *grads)
        return tuple(None if part is None else apply(_Refusal, part.detach().requires_grad_()) for part in found)

    return wrapped


class _Refusal(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        raise RuntimeError("simtile: gradients are in closed form and cannot be differentiated a second time")


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``, which torch leaves untyped."""
    return function.apply(*arguments)
