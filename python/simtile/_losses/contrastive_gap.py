"""Alignment and uniformity, and the loss that closes the gap between two modalities with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from simtile import _ops
from simtile._losses.batch import checked_batch
from simtile._losses.info_nce import info_nce
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_vector, check_choice, check_like, check_matrix
from simtile._plan import PLANS, choose
from simtile._reductions import REDUCTIONS, reduced
from simtile.kernels.reference_torch import logsumexp
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


def alignment(
    query: Tensor, key: Tensor, *, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:  # fmt: skip
    """Squared distance of partners on the unit sphere, ‖q_i - k_i‖² = 2 - 2 cos(q_i, k_i).

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``; both are normalised
    key : Tensor (N, D), N >= M
    weight, reduction      as in :func:`info_nce`

    Notes
    -----
    Computed as a distance: 2 - 2 cos has no digits left where partners are close. Wang & Isola 2020, arXiv:2005.10242,
    with α = 2.
    """
    batch = checked_batch(query, key, 1.0, normalize=True, weight=weight, reduction=reduction, plan="auto")
    apart = batch.query - batch.key[: query.shape[0]]
    return batch.reduced(row_dot(apart, apart))


def uniformity(x: Tensor, y: Tensor | None = None, *, t: float = 2.0, plan: PlanName = "auto") -> Tensor:
    """How unevenly rows lie on the unit sphere: log mean_{i ≠ j} exp(-t ‖x_i - x_j‖²), lower is more even.

    Parameters
    ----------
    x : Tensor (M, D)      normalised
    y : Tensor (N, D)      given, the cross uniformity log mean_{i ≠ j} exp(-t ‖x_i - y_j‖²)
    t : float      2 as in the paper
    plan : {"auto", "dense", "recompute", "stash"}      see :func:`explain`

    Returns
    -------
    Tensor ()      in [-4t, 0]; 0 where there is no pair

    Notes
    -----
    On the sphere -t ‖x - y‖² = 2t <x, y> - 2t, so that this is a log-sum-exp over all pairs: 4u, O(M + N) memory. For a
    regular simplex of n points it is -2t·n / (n - 1). Wang & Isola 2020, arXiv:2005.10242; across modalities:
    Fahim et al. 2024, arXiv:2405.18570.
    """
    check_matrix("x", x)
    if y is not None:
        check_like("y", y, "x", x)
    check_choice("plan", plan, PLANS)
    x = unit(x)
    y = x if y is None else unit(y)
    rows, _, _ = _ops.pair_lse(
        x, y, 2.0 * t, None, None, Pairs(diagonal="skip"), row=True, column=False, positive=False,
        plan=choose(x, y, 2.0 * t, one_sided=False, plan=plan),
    )  # fmt: skip
    M, N = x.shape[0], y.shape[0]
    number = M * N - min(M, N)
    assert rows is not None
    return logsumexp(rows, 0) - (2.0 * t + math.log(number)) if number else rows.new_zeros(())


def contrastive_gap_loss(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scale = 0.07,
    align: float = 1.0,
    uniform: float = 1.0,
    cross_uniform: float = 1.0,
    t: float = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """CLIP's loss with alignment and uniformity: closes the gap between modalities at equal retrieval.

    loss = CLIP + align·mean ‖q_i - k_i‖² + uniform·(U(q) + U(k)) / 2 + cross_uniform·U(q, k)

    Parameters
    ----------
    query, key : Tensor (B, D)      normalised
    temperature : float or one-element Tensor
    align, uniform, cross_uniform : float      weights of the terms; cross_uniform = 0 is the paper's L_CUA, 1 its
        L_CUAXU
    t : float      of :func:`uniformity`
    weight : Tensor (B,)      multiplies CLIP's and the alignment's share of a pair, not the uniformity of all
    reduction : {"mean", "sum", "none"}      with "none" every row holds the uniformity terms
    plan      see :func:`explain`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    16u: four log-sum-exps. A term of weight 0 is not computed. Fahim et al. 2024, arXiv:2405.18570.
    """
    check_matrix("query", query)
    check_like("key", key, "query", query)
    check_choice("reduction", reduction, REDUCTIONS)
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"key: as many rows as query, {query.shape[0]}, got {key.shape[0]}")
    loss = info_nce(query, key, temperature=temperature, symmetric=True, reduction="none", plan=plan)
    if align != 0:
        loss = loss + align * alignment(query, key, reduction="none")
    even = loss.new_zeros(())
    if uniform != 0:
        even = even + uniform / 2 * (uniformity(query, t=t, plan=plan) + uniformity(key, t=t, plan=plan))
    if cross_uniform != 0:
        even = even + cross_uniform * uniformity(query, key, t=t, plan=plan)
    total = reduced(loss, as_vector("weight", weight, query.shape[0], query), reduction)
    rows = query.shape[0] if reduction == "sum" else 1
    return total + rows * even
