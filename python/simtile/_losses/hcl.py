"""Debiased contrastive learning and hard negatives by importance weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import log_count
from simtile._losses.nt_xent import Views
from simtile._pairs import Pairs, Scale, check_choice
from simtile._pool import LOCAL, pool_of
from simtile._reductions import REDUCTIONS
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def hcl(
    view_a: Tensor,
    view_b: Tensor,
    *,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    temperature: Scale = 0.5,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Contrastive learning with hard, debiased negatives; with ``beta=0`` the debiased contrastive loss.

    loss(i) = -log(e^{s_i} / (e^{s_i} + G_i)),  G_i = max((R_i - τ⁺ n e^{s_i}) / (1 - τ⁺), n e^{-1/t}), with n = 2B - 2
    negatives and R_i = Σ_j e^{(1+β) s_ij} / mean_j e^{β s_ij}: negatives weighted by e^{β s}, less the share τ⁺ of them
    that is expected to be of the positive's class.

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i
    tau_plus : float in [0, 1)      the chance that a negative has the anchor's class; 0.1 as in the authors' code
    beta : float >= 0      how much harder negatives count more; 1 as in the authors' code
    temperature : float or one-element Tensor      0.5 as in the authors' code
    normalize, weight, reduction, plan, process_group      as in :func:`nt_xent`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Everything stays a logarithm, so that no temperature overflows. 4u of 2·(2B)²·D FLOP, 8u with ``beta``. Without
    either, τ⁺ = β = 0, it is :func:`nt_xent`. Robinson et al. 2021, arXiv:2010.04592; Chuang et al. 2020,
    arXiv:2007.00224.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus: a number from 0 to below 1, got {tau_plus}")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta: a finite number of at least 0, got {beta}")
    views = Views(view_a, view_b, None, pool_of(process_group))
    batch = views.batch(
        temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan, process_group=process_group
    )
    pairs = Pairs(views.x_ids, views.y_ids, diagonal="skip")
    own = batch.own()
    if batch.pool is LOCAL and views.x.shape[0] <= 2:
        return views.reduced(batch.reduced(own * 0.0), reduction)  # no negative, but a gradient of zeros
    log_number = log_count(batch.pool, views.y, 2, own)
    log_r, _, _ = batch.all_lse(pairs, power=1.0 + beta)
    if beta > 0:
        log_r = log_r - batch.all_lse(pairs, power=beta)[0] + log_number
    least = log_number - batch.scale
    share = tau_plus * torch.exp(own - log_r + log_number)  # of R that is expected to be of the positive's class
    left = share < 1
    debiased = log_r + torch.log1p(-share.masked_fill(~left, 0.0)) - math.log1p(-tau_plus)
    floor = torch.zeros_like(own) + least
    log_g = torch.maximum(torch.where(left, debiased, floor), floor)
    return views.reduced(batch.reduced(softplus(log_g - own)), reduction)
