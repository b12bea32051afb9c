"""Decoupled contrastive learning: the positive leaves the denominator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import Batch
from simtile._losses.nt_xent import Views
from simtile._pairs import Pairs, Scale, check_choice
from simtile._pool import LOCAL, pool_of
from simtile._reductions import REDUCTIONS

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


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
    process_group: ProcessGroup = None,
) -> Tensor:
    """DCL, and with ``sigma`` its weighted form DCLW: NT-Xent without the positive in the denominator.

    loss(i) = L_i - w_i s_i, L_i the log-sum-exp over the views of all other items; w_i = 1, or for DCLW
    2 - exp(c_i / sigma) / mean_j exp(c_j / sigma) with c_i = <a_i, b_i>: hard positives count more.

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i
    temperature : float or one-element Tensor      0.1 as in the paper
    sigma : float      0.5 in the paper's DCLW; None: DCL
    normalize, weight, reduction, plan, process_group      as in :func:`nt_xent`

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
    if sigma is not None and process_group is not None and not normalize:
        raise ValueError("sigma: None unless rows are normalised, over a process group")
    views = Views(view_a, view_b, None, pool_of(process_group))
    batch = views.batch(
        temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan, process_group=process_group
    )
    target = batch.own()
    if sigma is not None:
        target = target * (2.0 - _relative(batch, sigma))
    pairs = Pairs(views.x_ids, views.y_ids, diagonal="skip")
    return views.reduced(batch.all_nll(pairs, target, link="lse"), reduction)


def _relative(batch: Batch, sigma: float) -> Tensor:
    """(2B,) exp(c / sigma) divided by its mean over all rows, c the inner products of partners."""
    c = batch.own_products() / sigma
    if batch.pool is LOCAL:
        return c.shape[0] * torch.softmax(c, 0)
    share = (c - 1.0 / sigma).exp()  # of cosines: ranks would have to agree on another shift
    total, rows = batch.pool.row_sum(share[:, None])
    return share * (rows / total)
