"""Contrastive distillation: the student's softmax over the batch follows a teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile import targets
from simtile._losses.batch import Batch, checked_batch
from simtile._losses.stored import Stored
from simtile._losses.swav import balanced_features
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, check_like, check_matrix, loss_dtype
from simtile._plan import choose

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction


def distillation_loss(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    *,
    temperature: Scale = 0.07,
    teacher_temperature: float | None = None,
    sinkhorn_iterations: int = 0,
    symmetric: bool = True,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """Cross-entropy between a teacher's and the student's similarities over the batch, without either matrix.

    row_i = L_i - Σ_j t_ij s_ij,  t_i = softmax_j(<p_i, q_j> / teacher_temperature), L_i over all keys.

    Parameters
    ----------
    query : Tensor (M, D)      the student's
    key : Tensor (N, D)
    teacher_query, teacher_key : Tensor (M, E), (N, E)      the teacher's features of the same items, constants
    temperature : float or one-element Tensor      the student's
    teacher_temperature : float      default that of the student, which must then be a number
    sinkhorn_iterations : int      this many first balance the teacher's weights, so that each key gets the same share,
        as in SwAV (:func:`simtile.self_supervised.sinkhorn`); 0: its plain softmax
    symmetric : bool      the mean of both directions; needs N = M
    normalize : bool      divide all rows, the teacher's too, by their length
    weight, reduction, plan      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs. Its least value is the teacher's entropy

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Small batches store both matrices. Otherwise the teacher's weights are an attention whose values are the student's
    keys, made 4 MiB at a time. Also known as CLIP-KD's contrastive relational distillation, and the loss of
    open_clip's DistillClipLoss. Yang et al. 2024, arXiv:2307.12732.
    """
    batch = checked_batch(
        query, key, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan, paired=symmetric
    )
    check_matrix("teacher_query", teacher_query)
    check_like("teacher_key", teacher_key, "teacher_query", teacher_query)
    for name, part, rows in (("teacher_query", teacher_query, query), ("teacher_key", teacher_key, key)):
        if part.shape[0] != rows.shape[0]:
            raise ValueError(f"{name}: {rows.shape[0]} rows, got {part.shape[0]}")
    if symmetric and key.shape[0] != query.shape[0]:
        raise ValueError(f"key: as many rows as query, {query.shape[0]}, for symmetric=True, got {key.shape[0]}")
    if teacher_temperature is None and not isinstance(temperature, (int, float)):
        raise ValueError("teacher_temperature: needed where temperature is a tensor, got None")
    if teacher_temperature is not None and not teacher_temperature > 0:
        raise ValueError(f"teacher_temperature: above 0, got {teacher_temperature}")
    sharp = 1.0 / float(temperature if teacher_temperature is None else teacher_temperature)
    if sinkhorn_iterations < 0:
        raise ValueError(f"sinkhorn_iterations: at least 0, got {sinkhorn_iterations}")
    teachers = teacher_query.detach(), teacher_key.detach()
    if normalize:
        teachers = unit(teachers[0]), unit(teachers[1])
    there = _weights(teachers[0], teachers[1], sharp, sinkhorn_iterations, batch)
    back = _weights(teachers[1], teachers[0], sharp, sinkhorn_iterations, batch) if symmetric else None
    stored = batch.stored
    if stored is None and choose(query, key, batch.scale, one_sided=False, plan=batch.tiles_plan) == "dense":
        stored = Stored(query, key, batch.scale, normalize)
    if stored is not None:
        with torch.autocast(query.device.type, enabled=False):
            return batch.reduced(_stored(stored, there, back, balanced=sinkhorn_iterations > 0))
    target = targets.teacher(batch.query, batch.key, *there, scale=batch.scale).score
    if back is None:
        return batch.all_nll(Pairs(), target, link="lse")
    other = targets.teacher(batch.key, batch.query, *back, scale=batch.scale).score
    row, column, _ = batch.all_lse(Pairs(), column=True)
    assert column is not None
    return batch.reduced((row - target + column - other) / 2)


def _weights(p: Tensor, q: Tensor, sharp: float, iterations: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """(M, E'), (N, E') whose inner products have the teacher's weights as their softmax."""
    if iterations:
        return balanced_features(p, q, 1.0 / sharp, iterations, plan=batch.sinkhorn_plan)
    return p.to(loss_dtype(p)) * sharp, q.to(loss_dtype(q))


def _stored(
    scores: Stored, there: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor] | None, *, balanced: bool
) -> Tensor:
    """(M,) losses from stored scores: one product of the student serves both directions, and one of a plain teacher."""
    s, t = scores.s, there[0] @ there[1].T
    row, column = scores.lse(Pairs(), column=back is not None)
    loss = row - (torch.softmax(t, 1) * s).sum(1)
    if back is None or column is None:
        return loss
    t = back[1] @ back[0].T if balanced else t
    return (loss + column - (torch.softmax(t, 0) * s).sum(0)) / 2
