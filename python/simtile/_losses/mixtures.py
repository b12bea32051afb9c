"""Scores with mixtures of embeddings, from the scores with what is mixed.

    <x, λ y_j + (1 - λ) y_k> = λ <x, y_j> + (1 - λ) <x, y_k>
    ‖Σ_k α_k y_k‖² = αᵀ G α,  G_kl = <y_k, y_l>

A mixture is never made: it costs as many numbers as it has parts, not D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simtile._normalize import SHORTEST, unit
from simtile._pair_lists import listed_scores
from simtile._pairs import as_ids, as_vector, check_like, check_matrix, loss_dtype
from simtile.targets import row_dot


def mix_scores(
    x: Tensor, y: Tensor, rows: Tensor, first: Tensor, second: Tensor, share: Tensor, *, normalize: bool = True
) -> Tensor:  # fmt: skip
    """Scores <x_r, v> with mixtures v = λ y_j + (1 - λ) y_k of two, listed as (r, j, k, λ).

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    rows, first, second : integer Tensor (P,)      r, j and k of each mixture
    share : Tensor (P,)      λ, with its gradient
    normalize : bool      divide by the mixture's length, at least 1e-12: cosines, if x has unit rows

    Returns
    -------
    Tensor (P,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    O(P) numbers instead of P·D; few mixtures gather their parts, many are read from products of a few rows at a time,
    which the backward pass makes again. The mixtures of Metrix (arXiv:2106.04990), MoCHi (arXiv:2010.01028) and
    SupReMix (arXiv:2309.16633).

    Examples
    --------
    >>> one, zero = torch.tensor([1]), torch.tensor([0])
    >>> mix_scores(torch.eye(2), torch.eye(2), zero, zero, one, torch.tensor([0.5]))
    tensor([0.7071])
    """
    check_matrix("x", x)
    check_like("y", y, "x", x)
    if rows.ndim != 1:
        raise ValueError(f"rows: a tensor of one dimension, got shape {tuple(rows.shape)}")
    P = rows.shape[0]
    rows, first, second = (as_ids(n, p, P, x) for n, p in (("rows", rows), ("first", first), ("second", second)))
    part = as_vector("share", share, P, x)
    assert part is not None
    mixed = part * listed_scores(x, y, rows, first) + (1 - part) * listed_scores(x, y, rows, second)
    if not normalize:
        return mixed
    lengths = row_dot(y, y)
    squared = part.square() * lengths[first] + (1 - part).square() * lengths[second]
    squared = squared + 2 * part * (1 - part) * listed_scores(y, y, first, second)
    return mixed / squared.clamp_min(SHORTEST**2).sqrt()


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
    share = beta_draws((rows, mixtures), alpha, alpha, generator)
    weights = torch.zeros(rows, mixtures, negatives)
    weights.scatter_(2, first[..., None], share[..., None]).scatter_(2, second[..., None], 1 - share[..., None])
    return weights.to(device)


def list_mixing(query: Tensor, row_negatives: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Weights (M, 1, K) of one mixture of all of a query's negatives: the softmax of their cosines."""
    with torch.no_grad():
        scores = row_dot(unit(query).unsqueeze(1), unit(row_negatives)).to(loss_dtype(query))
        return torch.softmax(scores / temperature, 1).unsqueeze(1)


def beta_draws(shape: tuple[int, ...], a: float, b: float, generator: torch.Generator | None) -> Tensor:
    """Draws of Beta(a, b) as ratios of Gamma draws: torch.distributions takes no generator."""
    left, right = (torch._standard_gamma(torch.full(shape, float(part)), generator=generator) for part in (a, b))
    return left / (left + right)
