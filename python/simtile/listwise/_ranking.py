"""CoDiEmb's losses of one long list: the batch itself, ordered by graded similarity.

Bowen Zhang et al. 2025, arXiv:2508.11442; formulas as in the authors' code, the training code of Youtu-Embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simtile._normalize import unit
from simtile._pairs import Scale, as_scalar, check_like, check_matrix, loss_dtype
from simtile.functional import pair_nll
from simtile.targets import row_dot


def pearson_loss(scores: Tensor, target: Tensor) -> Tensor:
    """1 - the Pearson correlation of scores (N,) and graded targets (N,), in [0, 2].

    0 where all targets are equal, for there is nothing to follow; 1 with a finite gradient where all scores are.
    Raises TypeError or ValueError naming the argument.
    """
    s, y = _checked(scores, target)
    if y.shape[0] == 0:
        return s.sum()
    s, y = s - s.mean(), y - y.mean()
    tiny = torch.finfo(s.dtype).tiny ** 0.5
    # The square root's slope at 0 is infinite: below the clamp it is a constant.
    lengths = (s.square().sum().clamp_min(tiny) * y.square().sum().clamp_min(tiny)).sqrt()
    loss = 1.0 - (s * y).sum() / lengths
    return loss.masked_fill(_all_equal(target), 0.0)


def rank_kl_loss(scores: Tensor, target: Tensor, *, temperature: Scale = 0.05) -> Tensor:
    """KL(softmax of the targets' ranks || softmax of the scores) over the whole batch.

    p = softmax(ρ / temperature) with ρ = 1 for the highest target, 0 for the lowest, evenly between by rank, ties at
    their mean; q = softmax(scores / temperature).

    Parameters
    ----------
    scores : Tensor (N,)
    target : Tensor (N,)      graded similarities, constants
    temperature : float or one-element Tensor      0.05 as in the authors' code

    Notes
    -----
    Σ_i p_i log(p_i / q_i). The authors' code calls it with "batchmean" on a vector and so divides it by N, which
    :func:`sts_loss` does too. Raises TypeError or ValueError naming the argument.
    """
    s, y = _checked(scores, target)
    tau = as_scalar("temperature", temperature, scores, positive=True)
    N = y.shape[0]
    if N == 0:
        return s.sum()
    place = _average_place(y) / max(N - 1, 1)
    log_p = torch.log_softmax(place / tau, 0)
    return (log_p.exp() * (log_p - torch.log_softmax(s / tau, 0))).sum()


def pro_loss(scores: Tensor, target: Tensor, *, temperature: Scale = 0.05) -> Tensor:
    """Preference ranking (PRO): every item against all of lower target, by how much lower.

    loss_i = log(1 + Σ_{j: y_j < y_i} exp((y_i - y_j) s_j / τ - (y_i - min y) s_i / τ)), averaged over the items that
    are above another.

    Parameters
    ----------
    scores : Tensor (N,)
    target : Tensor (N,)      y, graded similarities, constants
    temperature : float or one-element Tensor      τ, 0.05 as in the authors' code

    Returns
    -------
    Tensor ()      0 where all targets are equal

    Notes
    -----
    (y_i - y_j) s_j = <(y_i, -1), (s_j, y_j s_j)>: a log-sum-exp over all pairs of two-dimensional vectors, masked by
    ranks, O(N) memory instead of a loop over N steps. Song et al. 2023, arXiv:2306.17492; for similarities CoDiEmb,
    arXiv:2508.11442. Raises TypeError or ValueError naming the argument.
    """
    s, y = _checked(scores, target)
    s = s / as_scalar("temperature", temperature, scores, positive=True)
    if y.shape[0] == 0:
        return s.sum()
    y = y - y.min()
    place = torch.unique(y, return_inverse=True)[1].to(s.dtype)  # equal targets share a place; exact where y - ε is not
    return pair_nll(
        torch.stack([y, -torch.ones_like(y)], 1), torch.stack([s, s * y], 1), s * y,
        weight=(place > 0).to(s.dtype), link="softplus",
        threshold=place - 0.5, guide=(torch.ones_like(place)[:, None], place[:, None]),
    )  # fmt: skip


def sts_loss(
    query: Tensor, key: Tensor, target: Tensor, *, pearson: float = 2.0, pro: float = 0.5, rank_kl: float = 5.0,
    temperature: Scale = 0.05,
) -> Tensor:  # fmt: skip
    """CoDiEmb's loss for graded sentence pairs: pearson·(1 - r) + pro·PRO + rank_kl·KL / N of the pairs' cosines.

    Parameters
    ----------
    query, key : Tensor (N, D)      row i of both is pair i; normalised
    target : Tensor (N,)      graded similarities, constants
    pearson, pro, rank_kl : float      weights as in the authors' code; a term of weight 0 is not computed
    temperature : float or one-element Tensor      of PRO and of the ranks

    Returns
    -------
    Tensor ()      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The authors add InfoNCE over the pairs of the highest grade from a middle layer:
    ``info_nce(..., weight=(target >= 1).float())``. Zhang et al. 2025, arXiv:2508.11442.
    """
    check_matrix("query", query)
    check_like("key", key, "query", query)
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"key: as many rows as query, {query.shape[0]}, got {key.shape[0]}")
    cosine = row_dot(unit(query), unit(key))
    loss = cosine.new_zeros(())
    if pearson != 0:
        loss = loss + pearson * pearson_loss(cosine, target)
    if pro != 0:
        loss = loss + pro * pro_loss(cosine, target, temperature=temperature)
    if rank_kl != 0:
        loss = loss + rank_kl / max(query.shape[0], 1) * rank_kl_loss(cosine, target, temperature=temperature)
    return loss


def _checked(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the loss's dtype, the targets without a gradient."""
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        raise TypeError(f"scores: a floating torch.Tensor, got {getattr(scores, 'dtype', type(scores).__name__)}")
    if scores.ndim != 1:
        raise ValueError(f"scores: shape (N,), got {tuple(scores.shape)}")
    if not isinstance(target, Tensor) or target.shape != scores.shape:
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target: a Tensor ({scores.shape[0]},), got {got}")
    dtype = loss_dtype(scores)
    return scores.to(dtype), target.detach().to(dtype)


def _all_equal(target: Tensor) -> Tensor:
    return (target == target[:1]).all()


def _average_place(y: Tensor) -> Tensor:
    """(N,) places from 0, the lowest, to N - 1; ties share their mean."""
    ordered = y.sort().values
    below, upto = (torch.searchsorted(ordered, y, right=side) for side in (False, True))
    return (below + upto - 1).to(y.dtype) / 2
