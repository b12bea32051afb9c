"""Adaptive multi-head contrastive learning: every pair has a temperature of its own, from a second bilinear score.

    s_ij = <z_i, z_j>      t_ij = <φ(z_i), φ(z_j)>      τ_ij = τ_min + (τ_max - τ_min) · sigmoid(-t_ij)

Unlike InfoNCE it is linear in the scores: of the negatives it takes a mean over the k hardest. So the pass over all
pairs is a search for these, and temperatures are needed of k pairs a row only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._pair_lists import listed_scores
from simtile._pairs import check_like, check_matrix
from simtile._topk import topk
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import Reduction


def amcl(
    view_a: Tensor,
    view_b: Tensor,
    gate_a: Tensor,
    gate_b: Tensor,
    *,
    temperatures: tuple[float, float] = (1e-5, 2.0),
    top_k: int = 100,
    beta: float = 1e-4,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """AMCL of one projection head: SimCLR with a learnt temperature for every pair, and the hardest negatives.

    Of each of the 2B views: -s⁺/τ⁺ + mean_k (s⁻/τ⁻) + β Ω(τ⁺) - β Σ_k (log τ⁻ + 1/τ⁻), Ω(τ) = (D/2) log τ + 1/τ, over
    the k most similar of its 2B - 2 negatives. The loss of an item is the mean of its two views; that of several heads
    is the sum (:class:`simtile.losses.AMCLLoss`, which also holds φ).

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      projections of two views of each item
    gate_a, gate_b : Tensor (B, E)      φ of the normalised projections; with their gradient
    temperatures : (float, float)      τ_min and τ_max, both above 0
    top_k : int      hardest negatives that are kept, 100 as in the paper
    beta : float >= 0      weight of the regulariser, 1e-4 as in the authors' SimCLR. Of the negatives it is a sum over
        top_k where the scores are a mean: from 1 / top_k on it outweighs them, and all go to the least temperature
    normalize, weight, reduction      as in :func:`simtile.functional.info_nce`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs. It has no lower bound of 0

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    1u for the search, u = 8·B²·D FLOP, then O(B·top_k) numbers and as many inner products, whose rows are gathered a
    chunk at a time and again in the backward pass. Which negatives are kept has no gradient. Wang et al. 2024,
    arXiv:2310.05615, eq. 2.1 and 5, with the regulariser of the negatives as in the authors' code, without D/2.
    """
    batch = checked_batch(
        view_a, view_b, 1.0, normalize=normalize, weight=weight, reduction=reduction, plan="auto",
        names=("view_a", "view_b"),
    )  # fmt: skip
    check_matrix("gate_a", gate_a)
    check_like("gate_b", gate_b, "gate_a", gate_a)
    B = view_a.shape[0]
    for name, part in (("view_b", view_b), ("gate_a", gate_a), ("gate_b", gate_b)):
        if part.shape[0] != B:
            raise ValueError(f"{name}: as many rows as view_a, {B}, got {part.shape[0]}")
    low, high = temperatures
    if not 0 < low < high:
        raise ValueError(f"temperatures: (least, greatest) with 0 < least < greatest, got {temperatures}")
    if top_k < 1:
        raise ValueError(f"top_k: at least 1, got {top_k}")
    if not beta >= 0:
        raise ValueError(f"beta: a number of at least 0, got {beta}")

    z, gate = torch.cat([batch.query, batch.key]), torch.cat([gate_a, gate_b])
    half = row_dot(gate_a, gate_b)
    tau = low + (high - low) * torch.sigmoid(-half)
    loss = beta * (view_a.shape[1] / 2 * tau.log() + tau.reciprocal()) - row_dot(batch.query, batch.key) / tau
    kept = min(top_k, 2 * B - 2)
    if kept > 0:
        columns = _hardest(z.detach(), kept).flatten()
        rows = torch.arange(2 * B, device=z.device).repeat_interleave(kept)
        hard, t = (listed_scores(part, part, rows, columns).view(2 * B, kept) for part in (z, gate))
        tau = low + (high - low) * torch.sigmoid(-t)
        negative = (hard / tau).mean(1) - beta * (tau.log() + tau.reciprocal()).sum(1)
        loss = loss + negative.view(2, B).mean(0)
    return batch.reduced(loss)


def _hardest(z: Tensor, k: int) -> Tensor:
    """(2B, k) places of each view's most similar views of other items."""
    rows = z.shape[0]
    own = torch.arange(rows, device=z.device)
    pair = torch.stack([own, own.roll(rows // 2)], 1).sort(1).values
    found = topk(z, z, k, None, None, 2 * torch.arange(rows + 1, device=z.device), pair.flatten())
    return found.ids.clamp_min(0)  # -1 stands where scores are NaN
