"""CWCL: every key is a positive to the degree that a frozen model finds it similar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile import targets
from simtile._losses.batch import checked_batch
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, check_matrix
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def cwcl(
    query: Tensor,
    key: Tensor,
    features: Tensor,
    *,
    key_features: Tensor | None = None,
    temperature: Scale = 0.07,
    symmetric: bool = True,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Continuously weighted contrastive loss: keys attract a query by their similarity in a frozen modality.

    row_i = L_i - Σ_j w_ij s_ij / Σ_j w_ij,  w_ij = (1 + <f_i, f_j>) / 2 in [0, 1], L_i over all keys; the other
    direction is plain InfoNCE, and the loss of pair i the mean of the two.

    Parameters
    ----------
    query : Tensor (M, D)      the trained modality; row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M
    features : Tensor (N, E)      frozen features of the keys' items, in the paper those of the pretrained encoder
        itself; normalised here, constants. Row i < M stands for query i too
    key_features : Tensor (N, E)      given, ``features (M, E)`` are the queries' and these the keys'
    temperature : float or one-element Tensor
    symmetric : bool      False: the weighted direction alone
    normalize, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The weights are bilinear, so their sum factorises: O((M + N)·D·E) operations instead of an (M, N) matrix. 4u for
    both directions, 3u for one. Srinivasa et al. 2023, arXiv:2309.14580.
    """
    batch = checked_batch(
        query, key, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group,
    )  # fmt: skip
    M = query.shape[0]
    check_matrix("features", features)
    rows = key.shape[0] if key_features is None else M
    if features.shape[0] != rows:
        raise ValueError(f"features: {rows} rows, got {features.shape[0]}")
    right = unit(features if key_features is None else key_features)
    left = right[:M] if key_features is None else unit(features)
    if batch.stored is not None:
        target = batch.stored.bilinear_mean(left, right)
    else:
        target = targets.bilinear(batch.query, batch.key, left, right, scale=batch.scale, pool=batch.pool).mean
    if not symmetric:
        return batch.all_nll(Pairs(), target, link="lse")
    if batch.stored is not None and key.shape[0] == M:
        there = batch.stored.nll(Pairs(), target, link="lse")
        back = batch.stored.nll(Pairs(diagonal="skip"), batch.own(), link="softplus", column=True)
        return batch.reduced((there + back) / 2)
    row, column, own = batch.all_lse(Pairs(diagonal="skip"), column=True, positive=True)
    assert column is not None and own is not None
    # An own score is never -inf, so that torch.logaddexp needs no guard.
    return batch.reduced((torch.logaddexp(row, own) - target + softplus(column[:M] - own)) / 2)
