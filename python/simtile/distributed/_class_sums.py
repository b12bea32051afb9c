"""Sums over the rows of one class on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._class_sums import class_sums
from simtile._first_order import apply

if TYPE_CHECKING:
    from simtile.distributed._tour import Tour


def joined_class_sums(x_ids: Tensor, y: Tensor, y_ids: Tensor, x_tour: Tour, y_tour: Tour) -> Tensor:
    """(M, C) the sum over all ranks' rows of ``y (N, C)`` with each x's id.

    Its own adjoint: the gradient of a row of y is the sum of the incoming gradients of all x with its id.
    """
    total: Tensor = apply(_ClassSums, y, x_ids, y_ids, x_tour, y_tour)
    return total


class _ClassSums(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x_ids: Tensor, y_ids: Tensor, x_tour: Tour, y_tour: Tour) -> Tensor:
        ctx.tours = x_tour, y_tour
        ctx.save_for_backward(x_ids, y_ids)
        total = y.new_zeros((x_ids.shape[0], y.shape[1]))

        def visit(owner: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            rows, ids = parts
            if rows.shape[0] > 0:
                total.add_(class_sums(x_ids, rows, ids)[0])
            return ()

        y_tour.run((y, y_ids), visit, torch.add)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ids, y_ids = ctx.saved_tensors
        x_tour, y_tour = ctx.tours
        return joined_class_sums(y_ids, grads[0], x_ids, y_tour, x_tour), None, None, None, None
