"""The contrastive term of cMIM: a positive against the mean of its negatives, whatever their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from simtile._losses.batch import checked_batch, log_count
from simtile._pairs import Pairs, Scale

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def cmim(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scale = 0.1,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Contrastive mutual information machine, its contrastive term: independent of the number of negatives.

    loss_i = -log(exp(s_i) / (exp(s_i) + mean_{j ≠ i} exp(s_ij))): with negatives at one similarity c it is
    softplus(c - s_i) for every batch size, where InfoNCE grows with log N.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M      may be ``query`` itself: then exp(s_i) = exp(1 / temperature), the paper's form
    temperature : float or one-element Tensor
    normalize, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The likelihood terms of the mutual information machine are the model's own. 3u when reduced, O(M + N) memory. Livne
    2025, arXiv:2509.21511.
    """
    batch = checked_batch(
        query, key, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group,
    )  # fmt: skip
    own = batch.own()
    others = log_count(batch.pool, key, 1, own)
    return batch.all_nll(Pairs(diagonal="skip"), own + others, link="softplus")
