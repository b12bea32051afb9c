"""Sums over the rows of one class, in O((M + N) D)."""

from __future__ import annotations

import torch
from torch import Tensor


def class_sums(x_ids: Tensor, y: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (M, D) and number (M,) of the rows of ``y (N, D)`` with each x's id; differentiable by y.

    By sorted position of an id's first occurrence instead of ``unique``, whose result has a size only the data knows.
    """
    ordered = y_ids.sort().values
    first = torch.searchsorted(ordered, y_ids)
    sums = torch.zeros_like(y).index_add(0, first, y)
    counts = y.new_zeros(y.shape[0]).index_add(0, first, torch.ones_like(y[:, 0]))
    place = torch.searchsorted(ordered, x_ids).clamp_max(max(y.shape[0] - 1, 0))
    known = (ordered[place] == x_ids).to(y.dtype)
    return sums[place] * known[:, None], counts[place] * known
