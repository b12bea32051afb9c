"""The mean score of a row's candidates, a linear function of the scores: it factorises, no pair is visited.

    Σ_j s_ij over kept j = scale * <x_i, Σ_j y_j - Σ_{j: same id} y_j>

in O((M + N) D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from simtile._pairs import Scale, loss_dtype


def candidate_mean(
    x: Tensor, y: Tensor, own: Tensor, scale: Scale,
    x_ids: Tensor | None, y_ids: Tensor | None, own_ids: Tensor | None, *,
    more: Tensor | None = None, more_scores: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(M,) mean of s_ij over the rows j of ``y (N, D)`` that differ in id from x_i, the pair's own row, and ``more``.

    ``own (M,)`` is the score of each row's pair, a row of y whose id is ``own_ids``; it stays whatever its id.
    ``more (K, D)`` are candidates of every row, ``more_scores (M, K')`` scores of private ones.
    """
    dtype = loss_dtype(x)
    total = y.to(dtype).sum(0)
    count = torch.full_like(own, y.shape[0])
    if more is not None:
        total = total + more.to(dtype).sum(0)
        count = count + more.shape[0]
    sums = (x.to(dtype) * total).sum(1) * scale
    if x_ids is not None and y_ids is not None and own_ids is not None:
        same, same_count = _class_sums(x_ids, y.to(dtype), y_ids)
        kept = x_ids == own_ids  # the pair went with its class and comes back
        sums = sums - (x.to(dtype) * same).sum(1) * scale + torch.where(kept, own, 0.0)
        count = count - same_count + kept
    if more_scores is not None:
        sums = sums + more_scores.sum(1)
        count = count + more_scores.shape[1]
    return sums / count


def _class_sums(x_ids: Tensor, y: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (M, D) and number (M,) of the rows of y with each x's id.

    By sorted position of an id's first occurrence instead of ``unique``, whose result has a size only the data knows.
    """
    ordered = y_ids.sort().values
    first = torch.searchsorted(ordered, y_ids)
    sums = torch.zeros_like(y).index_add(0, first, y)
    counts = y.new_zeros(y.shape[0]).index_add(0, first, torch.ones_like(y[:, 0]))
    place = torch.searchsorted(ordered, x_ids).clamp_max(max(y.shape[0] - 1, 0))
    known = (ordered[place] == x_ids).to(y.dtype)
    return sums[place] * known[:, None], counts[place] * known
