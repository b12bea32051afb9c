"""Hinges on the hardest negative, and margins that a frozen anchor branch sets pair by pair.

    s_ij = <x_i, y_j>, trained      a_ij = <p_i, q_j>, the anchor branch's, constant

Deep boosting asks of every pair, and of the hardest negative of its row and of its column,

    absolute   2 [m γ + a_ii - s_ii]₊ + [m (1 - γ) + max_j (s_ij - a_ij)]₊
    relative   [m + (a_ii - s_ii) + max_j (s_ij - a_ij)]₊

The hinge grows with what it is applied to, so its maximum is that of s_ij - a_ij; and this difference is one inner
product, of [x_i, p_i] and [y_j, -q_j]. So both forms are a search for the best column of wider rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from simtile._losses.batch import Batch, checked_batch
from simtile._normalize import unit
from simtile._pairs import check_choice, check_like, check_matrix
from simtile._topk import topk
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import Reduction


def max_violation(
    query: Tensor,
    key: Tensor,
    *,
    margin: float = 0.2,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Triplet hinge against the hardest negative of the batch, in both directions (VSE++).

    loss_i = [m + max_{j ≠ i} s_ij - s_ii]₊ + [m + max_{j ≠ i} s_ji - s_ii]₊

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M      rows M..N-1 serve as extra negatives
    margin : float      0.2 as in the paper
    normalize, weight, reduction      as in :func:`simtile.functional.info_nce`; the paper sums

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Two searches for one column a row: 2u, and O((M + N)·D) backwards. Faghri et al. 2018, VSE++, arXiv:1707.05612,
    eq. 6; the anchor branch's loss in deep boosting learning.

    Examples
    --------
    >>> max_violation(torch.eye(3), torch.eye(3)[[1, 0, 2]])
    tensor(1.6000)
    """
    batch = _checked(query, key, margin, normalize, weight, reduction)
    row, column = _hardest(batch.query, batch.key)
    short = margin - row_dot(batch.query, batch.key[: query.shape[0]])
    return batch.reduced(relu(short + row) + relu(short + column))


def deep_boosting(
    query: Tensor,
    key: Tensor,
    anchor_query: Tensor,
    anchor_key: Tensor,
    *,
    kind: Literal["absolute", "relative"] = "absolute",
    margin: float = 0.2,
    gamma: float = 0.5,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Deep boosting learning: the target branch must beat a frozen anchor branch by a margin, pair by pair.

    Added to the branch's own :func:`max_violation`, with weight 1 in the authors' code, for a target that starts from
    the anchor's weights.

    Parameters
    ----------
    query : Tensor (M, D)      the target branch; row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M
    anchor_query, anchor_key : Tensor (M, E), (N, E)      the same items in the anchor branch; constants
    kind : {"absolute", "relative"}      a margin on each of the two scores, or on their difference
    margin : float      0.2 as in the authors' code
    gamma : float in [0, 1]      "absolute": the positive's share of the margin, 0.5 in their code
    normalize : bool      divide all rows, the anchor's too, by their length
    weight, reduction      as in :func:`simtile.functional.info_nce`; the authors sum

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Two searches over rows of D + E numbers, whose concatenation is the extra memory; no (M, N) scores of either branch.
    Diao et al. 2024, arXiv:2404.18114.
    """
    batch = _checked(query, key, margin, normalize, weight, reduction)
    check_choice("kind", kind, ("absolute", "relative"))
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: a number from 0 to 1, got {gamma}")
    check_matrix("anchor_query", anchor_query)
    check_like("anchor_key", anchor_key, "anchor_query", anchor_query)
    for name, part, rows in (("anchor_query", anchor_query, query), ("anchor_key", anchor_key, key)):
        if part.shape[0] != rows.shape[0]:
            raise ValueError(f"{name}: {rows.shape[0]} rows, got {part.shape[0]}")
    p, q = anchor_query.detach(), anchor_key.detach()
    if normalize:
        p, q = unit(p), unit(q)
    x = torch.cat([batch.query, p.to(query.dtype)], 1)
    y = torch.cat([batch.key, -q.to(query.dtype)], 1)
    row, column = _hardest(x, y)
    short = -row_dot(x, y[: query.shape[0]])  # a_ii - s_ii
    if kind == "relative":
        return batch.reduced(relu(margin + short + row) + relu(margin + short + column))
    rest = margin * (1 - gamma)
    return batch.reduced(2 * relu(margin * gamma + short) + relu(rest + row) + relu(rest + column))


def _hardest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) the best score of each row of x, and of each of the first M rows of y, without the pairs (i, i)."""
    M = x.shape[0]
    indptr = torch.arange(M + 1, device=x.device)
    found = [topk(a, b, 1, None, None, indptr, indptr[:-1]).scores.squeeze(1) for a, b in ((x, y), (y[:M], x))]
    return found[0], found[1]


def _checked(
    query: Tensor, key: Tensor, margin: float, normalize: bool, weight: Tensor | None, reduction: str
) -> Batch:
    if not margin >= 0:
        raise ValueError(f"margin: a number of at least 0, got {margin}")
    return checked_batch(
        query, key, 1.0, normalize=normalize, weight=weight, reduction=reduction, plan="auto"
    )  # fmt: skip
