"""InfoNCE in a subspace for each pair of classes: Hydra, later SimLAP.

    s_ij = <g_i ⊙ x_i, g_i ⊙ y_j> / temperature = <g_i² ⊙ x_i, y_j> / temperature

A gate belongs to a row, so it moves into that row: the subspaces cost no more than the row's own coordinates, where
gating every key for every row would take (M, N, D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._pair_lists import equal_pairs, listed_scores
from simtile._pairs import Pairs, Scale, as_ids, csr_rows, loss_dtype
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


def gated_info_nce(
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    key_labels: Tensor,
    *,
    temperature: Scale = 0.1,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """Learn that any two classes are alike in some subspace: a row finds its partner class behind a gate.

    loss_i = mean_{p ∈ P(i)} log(1 + exp(N_i - s_ip)), s_ij = <g_i² ⊙ x_i, y_j> / temperature, P(i) the keys of the
    partner class, N_i the log-sum-exp over the keys of neither class.

    Parameters
    ----------
    query : Tensor (M, D)
    key : Tensor (N, D)
    gate : Tensor (M, D)      a weight of each coordinate, from 0 to 1: a function of the row's two classes, such as
        :class:`simtile.losses.LabelGate`; it gets its gradient
    labels : integer Tensor (M,)      the queries' classes
    partner_labels : integer Tensor (M,)      the classes they are paired with, at random or, as in SupCon, their own
    key_labels : integer Tensor (N,)
    temperature : float or one-element Tensor      0.1 as in the authors' code
    normalize : bool      divide the rows of query and key by their length, before the gate
    weight : Tensor (M,)      multiplies the rows' losses, a constant without a gradient
    reduction : {"mean", "sum", "none"}      a row without keys of its partner class has loss 0 and does not count
    plan : {"auto", "dense", "recompute"}      see :func:`explain`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u, and a gather of the positives, whose scores are kept: their number is M·N over the number of classes. Wu et al.
    2024, arXiv:2410.18200; positives and negatives as in the authors' public code.
    """
    batch = checked_batch(
        query, key, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan, paired=False
    )
    if not isinstance(gate, Tensor) or gate.shape != query.shape or gate.dtype != query.dtype:
        got = f"{gate.dtype}, {tuple(gate.shape)}" if isinstance(gate, Tensor) else type(gate).__name__
        raise ValueError(f"gate: the dtype and shape of query, {query.dtype}, {tuple(query.shape)}, got {got}")
    M, N = query.shape[0], key.shape[0]
    labels = as_ids("labels", labels, M, query)
    partner_labels = as_ids("partner_labels", partner_labels, M, query)
    key_labels = as_ids("key_labels", key_labels, N, query)
    gated = batch.query * gate.square()
    positives = equal_pairs(partner_labels, key_labels)
    assert positives is not None
    indptr, indices = positives
    negatives, _, _ = batch.lse(gated, batch.key, Pairs(labels, key_labels, indptr=indptr, indices=indices))
    rows = csr_rows(indptr, indices)
    losses = softplus(negatives[rows] - listed_scores(gated, batch.key, rows, indices) * batch.scale)
    count = indptr.diff().to(losses.dtype)
    some = (count > 0).to(losses.dtype)
    batch = batch._replace(weight=some if batch.weight is None else some * batch.weight)
    return batch.reduced(losses.new_zeros(M).index_add(0, rows, losses) / count.clamp_min(1.0))


def gate_entropy(gate: Tensor) -> Tensor:
    """Mean entropy of gates as coin tosses, in nats: a penalty that is 0 where all are open or shut.

    Parameters
    ----------
    gate : Tensor      of values from 0 to 1

    Returns
    -------
    Tensor ()      at most log 2; its gradient is finite for gates of exactly 0 and 1

    Examples
    --------
    >>> gate_entropy(torch.tensor([0.0, 0.5, 1.0, 0.5]))
    tensor(0.3466)
    """
    wide = gate.to(loss_dtype(gate))
    nearly = torch.finfo(wide.dtype).eps
    open_, shut = wide.clamp_min(nearly), (1.0 - wide).clamp_min(nearly)
    return -(wide * open_.log() + (1.0 - wide) * shut.log()).mean()
