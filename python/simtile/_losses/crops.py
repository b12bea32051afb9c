"""What CLIP borrows from self-supervised learning (clip-rocket): more crops, and losses without negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.distillation import distillation_loss
from simtile._losses.info_nce import info_nce
from simtile._normalize import unit
from simtile._pairs import Scale, as_vector, check_choice, check_like, check_matrix, loss_dtype
from simtile._reduce import pair_reduce
from simtile._reductions import REDUCTIONS, reduced
from simtile.targets import row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction

NORM_EPSILON = 1e-5
"""Added to variances, as in ``torch.nn.BatchNorm1d``."""


def multi_crop_info_nce(
    query: Tensor,
    key: Tensor,
    query_crops: Sequence[Tensor],
    key_crops: Sequence[Tensor],
    *,
    temperature: Scale = 0.07,
    crop_temperature: Scale = 0.1,
    label_smoothing: float = 0.1,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """CLIP's loss of whole items, and of every crop of one side against every crop of the other.

    loss = (InfoNCE(query, key) + n · mean_ab InfoNCE(query_crops[a], key_crops[b])) / (1 + n), both directions each, n
    the crops of a side; whole items without label smoothing, crops with it.

    Parameters
    ----------
    query, key : Tensor (B, D)      whole items, images and texts for example
    query_crops, key_crops : sequences of n Tensors (B, E)      their crops or augmentations; n = 0 is CLIP
    temperature, crop_temperature : float or one-element Tensor      0.07 and 0.1, where clip-rocket starts
    label_smoothing : float in [0, 1]      of the crops; 0.1 as in clip-rocket's best recipe
    normalize, weight, reduction, plan, process_group      as in :func:`simtile.functional.info_nce`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u of 2·B·B·D FLOP for each of the 1 + n² pairs. Fini et al. 2023, arXiv:2305.08675.
    """
    crops = len(query_crops)
    if len(key_crops) != crops:
        raise ValueError(f"key_crops: as many as query_crops, {crops}, got {len(key_crops)}")

    def clip(x: Tensor, y: Tensor, factor: float, temperature: Scale, smoothing: float) -> Tensor:
        return factor * info_nce(
            x, y, temperature=temperature, symmetric=True, normalize=normalize, weight=weight,
            label_smoothing=smoothing, reduction=reduction, plan=plan, process_group=process_group,
        )  # fmt: skip

    loss = clip(query, key, 1 / (1 + crops), temperature, 0.0)
    for x in query_crops:
        for y in key_crops:
            loss = loss + clip(x, y, 1 / (crops * (1 + crops)), crop_temperature, label_smoothing)
    return loss


def swalip(
    query_crops: Sequence[Tensor],
    key_crops: Sequence[Tensor],
    *,
    temperature: Scale = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """SwALIP: which key a crop belongs to is predicted from the balanced assignment of the other crops.

    loss = mean_ab of the cross-entropy of query_crops[a] against key_crops[b], under the Sinkhorn assignment of
    query_crops[1 - a] to key_crops[1 - b], both directions: a SwAV whose prototypes are the batch's other side.

    Parameters
    ----------
    query_crops, key_crops : pairs of Tensors (B, D)      two crops of each side
    temperature : float or one-element Tensor      where clip-rocket starts to learn it
    epsilon, iterations      see :func:`sinkhorn`; 0.05 and 3 as in clip-rocket, which adds 0.2 of this loss to CLIP's
    normalize, weight, reduction, plan      as in :func:`simtile.functional.info_nce`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Four times :func:`simtile.functional.distillation_loss` with a balanced teacher. Fini et al. 2023, arXiv:2305.08675.
    """
    for name, crops in (("query_crops", query_crops), ("key_crops", key_crops)):
        if len(crops) != 2:
            raise ValueError(f"{name}: 2 tensors (B, D), got {len(crops)}")
    parts = [
        distillation_loss(
            query_crops[a], key_crops[b], query_crops[1 - a], key_crops[1 - b], temperature=temperature,
            teacher_temperature=epsilon, sinkhorn_iterations=iterations, normalize=normalize, weight=weight,
            reduction=reduction, plan=plan,
        )
        for a in range(2)
        for b in range(2)
    ]  # fmt: skip
    return torch.stack(parts).mean(0)


def siamese_loss(
    prediction: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """SimSiam's and BYOL's loss: 2 - 2 cos(prediction, target), the target a constant.

    Parameters
    ----------
    prediction : Tensor (B, D)      a predictor's output on one view
    target : Tensor (B, D)      of another view or modality: SimSiam the same projector's output, BYOL that of a
        follower (:func:`simtile.losses.momentum_update`); no gradient reaches it
    weight : Tensor (B,)      multiplies the rows' losses
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    No pairs of different items: nothing here needs a kernel. Chen & He 2021, arXiv:2011.10566; Grill et al. 2020,
    arXiv:2006.07733; between modalities, SiamLIP and BYOLIP: Fini et al. 2023, arXiv:2305.08675.

    Examples
    --------
    >>> siamese_loss(torch.eye(2), torch.ones(2, 2))
    tensor(0.5858)
    """
    _check_views(prediction, target, "prediction", "target")
    check_choice("reduction", reduction, REDUCTIONS)
    weight = as_vector("weight", weight, prediction.shape[0], prediction)
    loss = 2.0 - 2.0 * row_dot(unit(prediction), unit(target.detach()))
    return reduced(loss, None if weight is None else weight.detach(), reduction)


def barlow_twins(
    view_a: Tensor, view_b: Tensor, *, redundancy: float = 5e-3, standardize: bool = True, scale: float = 1.0
) -> Tensor:
    """Barlow Twins: the cross-correlation of two views' coordinates is pulled to the identity.

    loss = scale · (Σ_i (1 - c_ii)² + redundancy · Σ_{i ≠ j} c_ij²), c_ij = mean over the batch of a_i b_j.

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      two views, or two modalities, of each item
    redundancy : float >= 0      of the other coordinates; 0.005 as in the paper
    standardize : bool      each coordinate to mean 0 and variance 1 over the batch first, as in the paper; False where
        the projector ends in a batch normalisation, as in clip-rocket
    scale : float      0.025 in clip-rocket, for a term beside CLIP's loss

    Returns
    -------
    Tensor ()      float32, or float64 for float64 inputs; 0 for an empty batch

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    A sum over all pairs of coordinates, so :func:`simtile.functional.pair_reduce` makes it in chunks: the (D, D)
    correlations, 268 MB in float32 at the paper's D = 8,192, are never stored. 8·B·D·D FLOP. Zbontar et al. 2021,
    arXiv:2103.03230.

    Examples
    --------
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> barlow_twins(z, z, standardize=False)
    tensor(0.)
    """
    _check_views(view_a, view_b, "view_a", "view_b")
    if not redundancy >= 0:
        raise ValueError(f"redundancy: at least 0, got {redundancy}")
    B = view_a.shape[0]
    if B == 0:
        return (view_a + view_b).to(loss_dtype(view_a)).sum()  # 0, with a gradient
    a, b = ((_standardized(part) if standardize else part.to(loss_dtype(part))).T for part in (view_a, view_b))
    own = row_dot(a, b) / B
    others = pair_reduce(a / B, b, lambda c, i, j: c.masked_fill(i == j, 0.0).square(), "sum")
    return scale * ((1.0 - own).square().sum() + redundancy * others.sum())


def _standardized(x: Tensor) -> Tensor:
    wide = x.to(loss_dtype(x))
    centred = wide - wide.mean(0)
    return centred * (centred.square().mean(0) + NORM_EPSILON).rsqrt()


def _check_views(a: Tensor, b: Tensor, first: str, second: str) -> None:
    check_matrix(first, a)
    check_like(second, b, first, a)
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"{second}: as many rows as {first}, {a.shape[0]}, got {b.shape[0]}")
