"""The mean score of a row's candidates, a linear function of the scores: it factorises, no pair is visited.

    Σ_j s_ij over kept j = scale * <x_i, Σ_j y_j - Σ_{j: same id} y_j>

in O((M + N) D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._pairs import Scale, loss_dtype

if TYPE_CHECKING:
    from simtile._pool import Pool


def candidate_mean(
    x: Tensor, y: Tensor, own: Tensor, scale: Scale,
    x_ids: Tensor | None, y_ids: Tensor | None, own_ids: Tensor | None, pool: Pool, *,
    more: Tensor | None = None, more_scores: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(M,) mean of s_ij over the pool's rows j of ``y`` that differ in id from x_i, the pair's own row, and ``more``.

    ``own (M,)`` is the score of each row's pair, a row of y whose id is ``own_ids``; it stays whatever its id.
    ``more (K, D)`` are candidates of every row, ``more_scores (M, K')`` scores of private ones.
    """
    dtype = loss_dtype(x)
    total, rows = pool.row_sum(y)
    count = torch.zeros_like(own) + rows
    if more is not None:
        total = total + more.to(dtype).sum(0)
        count = count + more.shape[0]
    sums = (x.to(dtype) * total).sum(1) * scale
    if x_ids is not None and y_ids is not None and own_ids is not None:
        same, same_count = pool.class_sums(x_ids, y, y_ids)
        kept = x_ids == own_ids  # the pair went with its class and comes back
        sums = sums - (x.to(dtype) * same).sum(1) * scale + torch.where(kept, own, 0.0)
        count = count - same_count + kept
    if more_scores is not None:
        sums = sums + more_scores.sum(1)
        count = count + more_scores.shape[1]
    return sums / count
