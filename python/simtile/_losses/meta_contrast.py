"""MCLRec's contrast with learnt augmentations, and the regulariser that keeps these useful."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.nt_xent import Views, nt_xent
from simtile._pairs import Pairs, Scale, as_scalar, check_choice
from simtile._pool import LOCAL
from simtile._reductions import REDUCTIONS
from simtile._topk import topk
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


def meta_contrast(
    view_a: Tensor,
    view_b: Tensor,
    meta_a: Tensor,
    meta_b: Tensor,
    *,
    temperature: Scale = 1.0,
    regularizer: float = 0.1,
    normalize: bool = False,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """MCLRec's meta-contrastive loss: two views of each item and a learnt augmentation of each.

    Σ of NT-Xent(u, v) + regularizer·R(u, v) over (u, v) = (view_a, meta_b), (view_b, meta_a), (meta_a, meta_b)

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i
    meta_a, meta_b : Tensor (B, D)      learnt functions of view_a and view_b
    temperature : float or one-element Tensor      1 as in the authors' code
    regularizer : float      of :func:`margin_regularizer`, 0.1 as in the authors' code; 0 leaves it out
    normalize : bool      False as in the paper: scores are inner products
    reduction, plan      as in :func:`nt_xent`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The paper adds a weighted NT-Xent of the two views themselves and the loss of recommendation, and trains encoder and
    augmenters in turn. Qin et al. 2023, arXiv:2304.07763.
    """
    total = None
    for u, v in ((view_a, meta_b), (view_b, meta_a), (meta_a, meta_b)):
        loss = nt_xent(u, v, temperature=temperature, normalize=normalize, reduction=reduction, plan=plan)
        if regularizer != 0:
            loss = loss + regularizer * margin_regularizer(u, v, temperature=temperature, reduction=reduction)
        total = loss if total is None else total + loss
    assert total is not None
    return total


def margin_regularizer(
    view_a: Tensor, view_b: Tensor, *, temperature: Scale = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """MCLRec's contrastive regulariser: scores of a positive and of its negatives are pulled to meet.

    With p_i the score of view i's partner, m_i the highest and n_i the mean of its 2B - 2 negatives,

        R_i = max(p_i - m_i, 0) + max(p_i, m_i) - n_i

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i; scores are inner products / temperature
    temperature : float or one-element Tensor
    reduction : {"mean", "sum", "none"}      over items, each the mean of its two views

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs; 0 for a single item, which has no negatives

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The authors' code clamps each pair's distance to the margin max(p_i, m_i); as no negative is above it the clamp
    never acts, and the mean over pairs is linear in the scores: a maximum over pairs, found in tiles, minus x_i times
    a sum of rows. No (2B, 2B) matrix. Qin et al. 2023, arXiv:2304.07763.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    views = Views(view_a, view_b, None, LOCAL)
    rows, B = views.x.shape[0], view_a.shape[0]
    tau = as_scalar("temperature", temperature, view_a, positive=True)
    positive = row_dot(views.x, views.y)
    if B < 2:
        return views.reduced(_reduced(positive * 0.0, reduction), reduction)
    # In the columns' order, that of ``y``, a view stands B places further on and its partner in its own row.
    itself = torch.arange(rows, device=view_a.device)
    pairs = Pairs(
        indptr=torch.arange(rows + 1, device=view_a.device) * 2,
        indices=torch.stack([itself, itself.roll(B)], 1).sort(1).values.reshape(-1),
    )
    highest = topk(views.x, views.y, 1, None, None, pairs.indptr, pairs.indices).scores.squeeze(1)
    every = row_dot(views.x, views.y.to(positive.dtype).sum(0).expand(rows, -1))
    mean = (every - positive - row_dot(views.x, views.x)) / (rows - 2)
    loss = ((positive - highest).clamp_min(0.0) + torch.maximum(positive, highest) - mean) / tau
    return views.reduced(_reduced(loss, reduction), reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / max(loss.shape[0], 1)
