"""InfoNCE whose samples count by how hard their negatives are and how far the training is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._losses.info_nce import info_nce
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_ids_pair, as_vector
from simtile.kernels.reference_torch import logsumexp, merge_lse
from simtile.targets import row_dot

if TYPE_CHECKING:
    from collections.abc import Callable

    from simtile.functional import PlanName, Reduction

SHARPNESS = 1.0
"""How far :func:`easy_then_hard` goes: at either end of the training a row one deviation apart counts e times more."""


def easy_then_hard(difficulty: Tensor, progress: float) -> Tensor:
    """Row weights (M,) of mean 1: a softmax of the standardised difficulty, first falling, halfway flat, then rising.

    Parameters
    ----------
    difficulty : Tensor (M,)      L_i - s_i, how far a row's negatives are above its positive
    progress : float in [0, 1]      the share of the training that is done
    """
    spread = difficulty.std(unbiased=False).clamp_min(1e-6)
    tilt = SHARPNESS * (2 * progress - 1)
    return torch.softmax(tilt * (difficulty - difficulty.mean()) / spread, 0) * difficulty.shape[0]


def progressive_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    progress: float,
    schedule: Callable[[Tensor, float], Tensor] = easy_then_hard,
    row_negatives: Tensor | None = None,
    temperature: Scale = 0.01,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """InfoNCE with progressive sample weights, as in PEG, for batches of tens of thousands.

    loss_i = w_i · InfoNCE_i, w = schedule(d, progress), d_i = L_i - s_i: the log-sum-exp of all negatives of row i,
    private ones included, minus its positive.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``; all are normalised
    key : Tensor (N, D), N >= M
    progress : float in [0, 1]      the share of the training that is done
    schedule : callable      (difficulty (M,), progress) -> weights (M,), which are constants. The paper's was not found
        in public text or code; the default, :func:`easy_then_hard`, is this library's
    row_negatives : Tensor (M, K, D)      private hard negatives of each query, five in the paper
    weight : Tensor (M,)      multiplies the schedule's weights
    temperature, query_ids, key_ids, reduction, plan      as in :func:`simtile.functional.info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    1u for the difficulties and 3u for the loss, O((M + N)·D) memory: the 80,000 in-batch negatives of the paper are
    25.6 GB of float32 logits where these are stored. Wu et al. 2023, PEG, arXiv:2311.11691.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: a number from 0 to 1, got {progress}")
    M = query.shape[0]
    with torch.no_grad():
        batch = checked_batch(
            query, key, temperature, normalize=True, weight=weight, reduction=reduction, plan=plan
        )  # fmt: skip
        pairs = Pairs(*as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key), diagonal="skip")
        others, _, _ = batch.lse(batch.query, batch.key, pairs)
        if row_negatives is not None and row_negatives.ndim == 3 and row_negatives.shape[0] == M:  # or info_nce refuses
            private = row_dot(batch.query.unsqueeze(1), unit(row_negatives)) * batch.scale
            others = merge_lse(others, logsumexp(private, 1))
        difficulty = others - row_dot(batch.query, batch.key[:M]) * batch.scale
        shares = as_vector("schedule's weights", schedule(difficulty, progress), M, query)
        if batch.weight is not None and shares is not None:
            shares = shares * batch.weight
    return info_nce(
        query, key, temperature=temperature, row_negatives=row_negatives, query_ids=query_ids, key_ids=key_ids,
        weight=shares, reduction=reduction, plan=plan,
    )  # fmt: skip
