"""KaLM-Embedding's InfoNCE: a focal weight, and hard negatives mixed online from others, in score space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from simtile._losses.batch import checked_batch
from simtile._losses.mixtures import mixed_scores
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_ids_pair, check_like
from simtile.kernels.reference_torch import logsumexp, merge_lse, softplus
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def focal_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    gamma: float = 0.5,
    row_negatives: Tensor | None = None,
    mixing: Tensor | None = None,
    temperature: Scale = 0.01,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Focal InfoNCE with hard negatives, given and mixed online.

    loss_i = (1 - p_i)^γ · (-log p_i), p_i = e^{s_i} / (e^{s_i} + Σ over the other keys, the private negatives and their
    mixtures). The weight has a gradient too. γ = 0 is InfoNCE.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``; all are normalised
    key : Tensor (N, D), N >= M
    gamma : float >= 0      how much less easy pairs count; the paper gives the form, 0.5 is this library's choice
    row_negatives : Tensor (M, K, D)      private hard negatives of each query
    mixing : Tensor (M, S, K)      weights of S further negatives, each a normalised mixture of the query's K; see
        :func:`pair_mixing` and :func:`list_mixing`
    temperature : float or one-element Tensor
    query_ids, key_ids, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u, and O(M·K·(D + K + S)) for the hard negatives. Zhao et al. 2025, KaLM-Embedding-V2, arXiv:2506.20923; focal
    weight: Lin et al. 2017, arXiv:1708.02002.
    """
    batch = checked_batch(
        query, key, temperature, normalize=True, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group,
    )  # fmt: skip
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma: a finite number of at least 0, got {gamma}")
    M = query.shape[0]
    pairs = Pairs(*as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key), diagonal="skip")
    others, _, _ = batch.all_lse(pairs)
    if row_negatives is not None:
        if row_negatives.ndim != 3 or row_negatives.shape[0] != M:
            raise ValueError(f"row_negatives: a Tensor (M, K, D) with M = {M}, got {tuple(row_negatives.shape)}")
        check_like("row_negatives", row_negatives.flatten(0, 1), "query", query)
        hard = unit(row_negatives)
        private = row_dot(batch.query.unsqueeze(1), hard)
        if mixing is not None:
            private = torch.cat([private, mixed_scores(private, hard, mixing)], 1)
        others = merge_lse(others, logsumexp(private * batch.scale, 1))
    elif mixing is not None:
        raise ValueError("row_negatives: needed together with mixing, got None")
    z = others - batch.own()
    # (1 - p)^γ = sigmoid(z)^γ through its logarithm: 1 - p has no digits left where p is nearly 1. A row without
    # negatives, z = -inf, has loss 0 and no gradient.
    empty = torch.isneginf(z)
    z = z.masked_fill(empty, 0.0)
    loss = (gamma * logsigmoid(z)).exp() * softplus(z) if gamma != 0 else softplus(z)
    return batch.reduced(loss.masked_fill(empty, 0.0))
