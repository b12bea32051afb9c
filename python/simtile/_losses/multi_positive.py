"""Several positives of one query, each in a contest of its own against the negatives and its slot of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._pairs import Pairs, Scale, as_ids
from simtile.kernels.reference_torch import merge_lse, softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def multi_positive_info_nce(
    query: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    temperature: Scale = 0.05,
    symmetric: bool = False,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """The mean of as many InfoNCE losses as a query has positives: a query's positives never compete with each other.

    loss_i = mean_r log(1 + exp(L_ir - s_ir)), L_ir over all negatives of the batch and the r-th positives of the other
    queries: CoDiEmb's retrieval loss. With ``symmetric`` and no negatives the multi-text loss of LaCLIP, for images and
    several texts of each.

    Parameters
    ----------
    query : Tensor (M, D)
    positives : Tensor (M, P, D)      P positives of each query
    negatives : Tensor (M, K, D)      hard negatives; those of all queries are everybody's
    ids : integer Tensor (M,)      positives of a query of the same id are false negatives and left out
    temperature : float or one-element Tensor
    symmetric : bool      the mean with the other direction, each r-th positive against all queries
    normalize, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u of 2·M·M·(K + P)·D: the negatives' log-sum-exp is shared by all slots, where P cross-entropies take
    2·M·M·P·(K + 1)·D three times. Memory O(M·(K + P)). Zhang et al. 2025, arXiv:2508.11442, as in the authors' code;
    Fan et al. 2023, arXiv:2305.20088.
    """
    flat = _flattened("positives", positives, query)
    batch = checked_batch(
        query, flat, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group, names=("query", "positives"), paired=False,
    )  # fmt: skip
    same = None if ids is None else as_ids("ids", ids, query.shape[0], query)
    slots = batch.key.view(positives.shape).unbind(1)
    shared = None
    if negatives is not None:
        hard = checked_batch(
            query, _flattened("negatives", negatives, query), 1.0, normalize=normalize, weight=None,
            reduction=reduction, plan=plan, names=("query", "negatives"), paired=False,
        ).key  # fmt: skip
        shared, _, _ = batch.lse(batch.query, hard, Pairs())
    losses = []
    for slot in slots:
        others = Pairs(same, same, diagonal="skip")
        row, column, own = batch.lse(batch.query, slot, others, column=symmetric, positive=True)
        assert own is not None
        loss = softplus((row if shared is None else merge_lse(row, shared)) - own)
        losses.append(loss if column is None else (loss + softplus(column - own)) / 2)
    return batch.reduced(torch.stack(losses).mean(0))


def _flattened(name: str, items: Tensor, query: Tensor) -> Tensor:
    """(M·K, D) of (M, K, D)."""
    if not isinstance(items, Tensor) or items.ndim != 3 or items.shape[0] != query.shape[0] or items.shape[1] == 0:
        got = tuple(items.shape) if isinstance(items, Tensor) else type(items).__name__
        raise ValueError(f"{name}: a Tensor (M, K, D) with M = {query.shape[0]} and K >= 1, got {got}")
    return items.flatten(0, 1)
