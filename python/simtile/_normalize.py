"""Rows divided by their length, with the exact gradient and no more than one matrix beside input and output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._first_order import apply, first_order
from simtile._pairs import loss_dtype, traced

SHORTEST = 1e-12
"""A shorter row is divided by this instead, as in ``torch.nn.functional.normalize``: a zero row stays zero."""

_ROWS = 2048  # rows that the backward pass widens to float32 at a time


def unit(x: Tensor) -> Tensor:
    """x / max(norm, 1e-12) along the last dimension, in the dtype of x; the norms in at least float32."""
    if traced(x) or x.ndim != 2:
        wide = x.to(loss_dtype(x))
        return torch.nn.functional.normalize(wide, dim=-1, eps=SHORTEST).to(x.dtype)
    if x.requires_grad and torch.is_grad_enabled():
        normalized: Tensor = apply(_Unit, x)
        return normalized
    return _divided(x)[0]


def _divided(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=loss_dtype(x))
    inverse = norm.clamp_min_(SHORTEST).reciprocal_()
    return torch.mul(x, inverse, out=torch.empty(x.shape, dtype=x.dtype, device=x.device)), inverse


class _Unit(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        normalized, inverse = _divided(x.detach())
        ctx.save_for_backward(normalized, inverse)
        return normalized

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        normalized, inverse = ctx.saved_tensors
        dx = torch.empty_like(normalized)
        # Where the norm was cut off, it is a constant and the row's direction has no say.
        free = inverse.masked_fill(inverse > 0.99 / SHORTEST, 0.0)
        for start in range(0, dx.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            g, u = grad[rows].to(inverse.dtype), normalized[rows].to(inverse.dtype)
            along = (g * u).sum(1, keepdim=True).mul_(free[rows])
            dx[rows] = (g * inverse[rows]).addcmul_(u, along, value=-1)
        return (dx,)
