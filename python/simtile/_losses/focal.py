"""KaLM-Embedding's InfoNCE: a focal weight, and hard negatives mixed online from others, in score space.

The cosine of a query with the mixture m = Σ_k α_k h_k of its hard negatives needs no mixture:

    cos(q, m) = Σ_k α_k <q, h_k> / sqrt(αᵀ G α),  G_kl = <h_k, h_l>

so S mixtures of K negatives cost the K scores and a K x K Gram matrix a query instead of S vectors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from simtile._losses.batch import checked_batch
from simtile._normalize import SHORTEST, unit
from simtile._pairs import Pairs, Scale, as_ids_pair, check_like, loss_dtype
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
    others, _, _ = batch.lse(batch.query, batch.key, pairs)
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
    z = others - row_dot(batch.query, batch.key[:M]) * batch.scale
    # (1 - p)^γ = sigmoid(z)^γ through its logarithm: 1 - p has no digits left where p is nearly 1. A row without
    # negatives, z = -inf, has loss 0 and no gradient.
    empty = torch.isneginf(z)
    z = z.masked_fill(empty, 0.0)
    loss = (gamma * logsigmoid(z)).exp() * softplus(z) if gamma != 0 else softplus(z)
    return batch.reduced(loss.masked_fill(empty, 0.0))


def mixed_scores(scores: Tensor, hard: Tensor, mixing: Tensor) -> Tensor:
    """(M, S) cosines with normalised mixtures Σ_k α_isk h_ik, from the cosines (M, K) with unit rows h (M, K, D).

    Metrix (arXiv:2106.04990) and MoCHi (arXiv:2010.01028) make the same mixtures as vectors.
    """
    M, K = scores.shape
    if mixing.ndim != 3 or mixing.shape[0] != M or mixing.shape[2] != K:
        raise ValueError(f"mixing: shape ({M}, S, {K}), got {tuple(mixing.shape)}")
    alpha, wide = mixing.detach().to(scores.dtype), hard.to(scores.dtype)
    with torch.autocast(scores.device.type, enabled=False):
        gram = wide @ wide.mT
        squared = ((alpha @ gram) * alpha).sum(-1)
        return (alpha @ scores.unsqueeze(-1)).squeeze(-1) / squared.clamp_min(SHORTEST**2).sqrt()


def pair_mixing(
    rows: int, negatives: int, mixtures: int, *, alpha: float = 2.0, generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """Weights (rows, mixtures, negatives) of mixtures of two: λ and 1 - λ, λ ~ Beta(alpha, alpha), of two at random.

    Raises ValueError for fewer than two negatives.
    """
    if negatives < 2:
        raise ValueError(f"negatives: at least 2 to mix, got {negatives}")
    first = torch.randint(negatives, (rows, mixtures), generator=generator)
    second = (first + torch.randint(1, negatives, (rows, mixtures), generator=generator)) % negatives
    # A Beta draw as a ratio of Gamma draws: torch.distributions takes no generator.
    draws = torch._standard_gamma(torch.full((2, rows, mixtures), alpha), generator=generator)
    share = draws[0] / draws.sum(0)
    weights = torch.zeros(rows, mixtures, negatives)
    weights.scatter_(2, first[..., None], share[..., None]).scatter_(2, second[..., None], 1 - share[..., None])
    return weights.to(device)


def list_mixing(query: Tensor, row_negatives: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Weights (M, 1, K) of one mixture of all of a query's negatives: the softmax of their cosines."""
    with torch.no_grad():
        scores = row_dot(unit(query).unsqueeze(1), unit(row_negatives)).to(loss_dtype(query))
        return torch.softmax(scores / temperature, 1).unsqueeze(1)
