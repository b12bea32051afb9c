"""From the losses of rows to the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from simtile._ops import ordered_sum
from simtile._pairs import loss_dtype

REDUCTIONS = ("mean", "sum", "none")


def row_weights(x: Tensor, weight: Tensor | None, reduction: str) -> Tensor | None:
    """(M,) the derivative of the reduced loss by each row's; None for all ones."""
    if reduction == "sum":
        return weight
    if weight is None:
        return torch.full((x.shape[0],), 1.0 / max(x.shape[0], 1), dtype=loss_dtype(x), device=x.device)
    total = ordered_sum(weight)
    return weight / total.masked_fill(total == 0, 1.0)


def reduced(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Σ w·loss / Σ w, Σ w·loss, or w·loss (M,); a row of weight 0 adds exactly 0, whatever it holds."""
    if weight is None:
        if reduction == "none":
            return loss
        total = ordered_sum(loss)
        return total / max(loss.shape[0], 1) if reduction == "mean" else total
    weighted = (weight * loss).masked_fill(weight == 0, 0.0)
    if reduction == "none":
        return weighted
    total = ordered_sum(weighted)
    if reduction == "sum":
        return total
    count = ordered_sum(weight)
    return total / count.masked_fill(count == 0, 1.0)


def without_padding(x: Tensor, weight: Tensor) -> Tensor:
    """x with zeros in the rows of weight 0: what padding holds, NaN included, then reaches nothing."""
    return x.masked_fill((weight == 0)[:, None], 0.0)
