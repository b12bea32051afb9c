"""Margin-MSE: a bi-encoder's score differences follow a cross-encoder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._normalize import unit
from simtile._pairs import Scale, as_scalar, as_vector, check_choice, check_like, check_matrix, loss_dtype
from simtile._reductions import REDUCTIONS, reduced
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import Reduction


def margin_mse(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    teacher_margin: Tensor,
    *,
    scale: Scale = 1.0,
    normalize: bool = False,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean squared error between the student's and a teacher's margins of a positive over each negative.

    loss_i = mean_k (scale·(<q_i, p_i> - <q_i, n_ik>) - m_ik)²

    Parameters
    ----------
    query, positive : Tensor (M, D)
    negatives : Tensor (M, K, D)
    teacher_margin : Tensor (M, K)      m, the teacher's score of the positive minus that of each negative, constants
    scale : float or one-element Tensor      of the student's scores
    normalize : bool      the student's scores are cosines
    weight : Tensor (M,)      multiplies the rows' losses, a constant
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    O(M·K) memory, no in-batch pairs. Margins leave the level of the teacher's scores free, which distilling the scores
    themselves (Barkan et al. 2020, arXiv:1908.05161) does not. Hofstätter et al. 2020, arXiv:2010.02666.
    """
    check_matrix("query", query)
    check_like("positive", positive, "query", query)
    check_choice("reduction", reduction, REDUCTIONS)
    M = query.shape[0]
    if positive.shape[0] != M:
        raise ValueError(f"positive: as many rows as query, {M}, got {positive.shape[0]}")
    if not isinstance(negatives, Tensor) or negatives.ndim != 3 or negatives.shape[::2] != query.shape:
        got = tuple(negatives.shape) if isinstance(negatives, Tensor) else type(negatives).__name__
        raise ValueError(f"negatives: a Tensor (M, K, D) with M, D = {tuple(query.shape)}, got {got}")
    if not isinstance(teacher_margin, Tensor) or teacher_margin.shape != negatives.shape[:2]:
        got = tuple(teacher_margin.shape) if isinstance(teacher_margin, Tensor) else type(teacher_margin).__name__
        raise ValueError(f"teacher_margin: a Tensor {tuple(negatives.shape[:2])}, got {got}")
    weight = as_vector("weight", weight, M, query)
    factor = as_scalar("scale", scale, query)
    if normalize:
        query, positive, negatives = unit(query), unit(positive), unit(negatives)
    dtype = loss_dtype(query)
    with torch.autocast(query.device.type, enabled=False):
        against = torch.bmm(negatives.to(dtype), query.to(dtype).unsqueeze(2)).squeeze(2)
    margin = (row_dot(query, positive)[:, None] - against) * factor
    loss = (margin - teacher_margin.detach().to(dtype)).square().mean(1)
    return reduced(loss, None if weight is None else weight.detach(), reduction)
