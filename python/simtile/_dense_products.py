"""What the losses with stored scores share: products with a factor, unit rows, and the way back through them."""

from __future__ import annotations

import torch
from torch import Tensor

from simtile._normalize import SHORTEST
from simtile._ops import times
from simtile._pairs import Scale, loss_dtype


def product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """factor · a b, in one call."""
    return torch.mm(a, b) if factor == 1.0 else torch.addmm(a.new_empty(()), a, b, beta=0.0, alpha=factor)


def unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their length, in the dtype of x, and the lengths (M, 1), cut off from below."""
    norm = torch.linalg.vector_norm(x, 2, 1, True, dtype=loss_dtype(x)).clamp_min_(SHORTEST)
    return x.div(norm).to(x.dtype), norm


def finished(grad: Tensor, scale: Scale, x: Tensor, rows: Tensor, norm: Tensor | None) -> Tensor:
    """The gradient by x from that by its unit rows; where the norm was cut off, it is a constant."""
    if isinstance(scale, Tensor):
        grad.mul_(scale)
    if norm is None:
        return grad
    along = (grad * rows).sum(1, keepdim=True, dtype=norm.dtype).masked_fill_(norm <= SHORTEST, 0.0)
    if grad.dtype != norm.dtype:
        grad, rows = grad.to(norm.dtype), rows.to(norm.dtype)
    return grad.addcmul_(rows, along, value=-1).div_(norm).to(x.dtype)


def chained(parts: tuple[Tensor | None, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients times that of the loss. It is mostly 1, which is asked once: small batches count microseconds."""
    if grad.device.type == "cpu" and grad.item() == 1.0:
        return parts
    return tuple(times(part, grad) for part in parts)
