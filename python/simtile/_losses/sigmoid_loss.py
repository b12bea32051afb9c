"""SigLIP's loss: a sum of softplus with the positives' sign turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile import _dense_sigmoid_loss
from simtile._normalize import unit
from simtile._pairs import (
    Pairs,
    Scale,
    as_ids_pair,
    as_scalar,
    as_vector,
    check_choice,
    check_like,
    check_matrix,
    loss_dtype,
    traced,
)
from simtile._plan import PLANS, choose
from simtile._pool import LOCAL, pool_of
from simtile._reductions import REDUCTIONS

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def sigmoid_loss(
    query: Tensor,
    key: Tensor,
    *,
    scale: Scale = 10.0,
    bias: Scale = -10.0,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """SigLIP's sigmoid loss: every pair is a binary classification, without the (M, N) logits.

    loss_i = -Σ_j logsigmoid(z_ij (scale·<query_i, key_j> + bias)), z_ij = 1 for pairs (i, i) and where the ids are
    equal (several positives), else -1.

    Parameters
    ----------
    query : Tensor (M, D)
    key : Tensor (N, D)      N may differ from M
    scale, bias : float or one-element Tensor      10 and -10 as in the paper; tensors get their gradients
    normalize : bool      divide all rows by their length: scores are cosines
    query_ids, key_ids : integer Tensor (M,), (N,)      further positives where equal
    weight : Tensor (M,)      multiplies the rows' sums, a constant without a gradient
    reduction : {"mean", "sum", "none"}      the sum over all pairs divided by M (Σ weight, where given), this sum, or
        the row sums (M,)
    plan : {"auto", "dense", "chunked", "recompute"}      see :func:`explain`
    process_group : ProcessGroup, DeviceMesh or Ranks      all its ranks' keys count: :mod:`simtile.distributed`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u when reduced without weights: gradients are made in the forward pass; else 4u. Extra memory as
    :func:`info_nce`. Zhai et al. 2023, arXiv:2303.15343, eq. 1.

    Examples
    --------
    >>> sigmoid_loss(torch.eye(2), torch.eye(2))
    tensor(0.6932)
    """
    check_matrix("query", query)
    check_like("key", key, "query", query)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("plan", plan, PLANS)
    pool = pool_of(process_group)
    factor, shift = as_scalar("scale", scale, query), as_scalar("bias", bias, query)
    query_ids, key_ids = as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key)
    M = query.shape[0]
    weight = as_vector("weight", weight, M, query)
    rows = reduction == "none" or weight is not None
    chosen = choose(query, key, factor, one_sided=not rows, plan=plan, stashable=False)
    if pool is LOCAL and chosen == "dense" and not rows and query.dtype != torch.float16 and not traced(query):
        ids = None if query_ids is None or key_ids is None else (query_ids, key_ids)
        share = 1.0 if reduction == "sum" else 1.0 / max(M, 1)
        return _dense_sigmoid_loss.sigmoid_loss(query, key, factor, shift, ids, factor=share, normalize=normalize)
    if isinstance(shift, Tensor):
        biases = shift.to(query.device).expand(M)
    else:
        biases = torch.full((M,), shift, dtype=loss_dtype(query), device=query.device)
    if normalize:
        query, key = unit(query), unit(key)
    pairs = Pairs(query_ids, key_ids, "flip" if query_ids is not None else "exclude", diagonal="flip")
    loss = pool.pair_softplus(
        query, key, factor, biases, None, pairs, reduction="none" if rows else reduction, plan=chosen
    )
    return loss if weight is None else pool.reduced(loss, weight.detach(), reduction)
