"""InfoNCE whose positives must win by a margin, in the cosine or in the angle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._pairs import Pairs, Scale, as_ids_pair, check_choice
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def margin_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    margin: float = 0.3,
    kind: Literal["additive", "angular"] = "additive",
    temperature: Scale = 0.05,
    symmetric: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Additive-margin or angular-margin softmax over the batch: the positive's score is lowered before it competes.

    loss_i = log(1 + exp(L_i - φ_i)), L_i over all other keys, φ_i = (cos θ_i - m) / τ ("additive": CosFace, AM-softmax)
    or cos(θ_i + m) / τ ("angular": ArcFace; where θ_i + m > π its continuation cos θ_i - m sin m).

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``; both are normalised
    key : Tensor (N, D), N >= M
    margin : float in [0, π)      0.3 as in bidirectional translation ranking; CosFace 0.35, ArcFace 0.5 radians
    kind : {"additive", "angular"}
    temperature : float or one-element Tensor
    symmetric : bool      the mean of both directions
    query_ids, key_ids, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The positive is outside of the kernel, so a margin costs nothing: 4u, 3u with ``symmetric=False``. Wang et al. 2018,
    arXiv:1801.09414 and arXiv:1801.05599; Deng et al. 2019, arXiv:1801.07698; Yang et al. 2019, arXiv:1902.08564.
    """
    batch = checked_batch(
        query, key, temperature, normalize=True, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group,
    )  # fmt: skip
    check_margin(margin, kind)
    M = query.shape[0]
    target = lowered(batch.own_products(), margin, kind) * batch.scale
    pairs = Pairs(*as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key), diagonal="skip")
    if not symmetric:
        return batch.all_nll(pairs, target, link="softplus")
    if batch.stored is not None and key.shape[0] == M:
        there, back = (batch.stored.nll(pairs, target, link="softplus", column=column) for column in (False, True))
        return batch.reduced((there + back) / 2)
    row, column, _ = batch.all_lse(pairs, column=True)
    assert column is not None
    return batch.reduced((softplus(row - target) + softplus(column[:M] - target)) / 2)


def check_margin(margin: float, kind: str) -> None:
    """What a loss's ``margin`` and ``kind`` may be."""
    check_choice("kind", kind, ("additive", "angular"))
    if not 0 <= margin < math.pi:
        raise ValueError(f"margin: a number from 0 to below pi, got {margin}")


def lowered(cosine: Tensor, margin: float, kind: str) -> Tensor:
    """cos θ - margin, or cos(θ + margin), continued beyond θ + margin = π so that it keeps falling."""
    if kind == "additive":
        return cosine - margin
    # Below an ulp under 1 the sine's slope would be infinite; there the clamp stops its gradient.
    sine = (1.0 - cosine.square()).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin))
