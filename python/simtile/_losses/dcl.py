"""Decoupled contrastive learning: the positive leaves the denominator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.nt_xent import Views
from simtile._pairs import Pairs, Scale, check_choice
from simtile._pool import LOCAL
from simtile._reductions import REDUCTIONS

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


def dcl(
    view_a: Tensor,
    view_b: Tensor,
    *,
    temperature: Scale = 0.1,
    sigma: float | None = None,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """DCL, and with ``sigma`` its weighted form DCLW: NT-Xent without the positive in the denominator.

    loss(i) = L_i - w_i s_i, L_i the log-sum-exp over the views of all other items; w_i = 1, or for DCLW
    2 - exp(c_i / sigma) / mean_j exp(c_j / sigma) with c_i = <a_i, b_i>: hard positives count more.

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i
    temperature : float or one-element Tensor      0.1 as in the paper
    sigma : float      0.5 in the paper's DCLW; None: DCL
    normalize, weight, reduction, plan      as in :func:`nt_xent`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs; without any negative 0

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u of 2·(2B)²·D FLOP when reduced. Yeh et al. 2022, arXiv:2110.06848.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma: above 0 or None, got {sigma}")
    views = Views(view_a, view_b, None, LOCAL)
    batch = views.batch(temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan)
    target = batch.own()
    if sigma is not None:
        target = target * (2.0 - target.shape[0] * torch.softmax(batch.own_products() / sigma, 0))
    pairs = Pairs(views.x_ids, views.y_ids, diagonal="skip")
    return views.reduced(batch.all_nll(pairs, target, link="lse"), reduction)
