"""InfoNCE of scores that something else has computed: cross-attention, late interaction, a diffusion model's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._pairs import Scale, as_ids, as_scalar, as_vector, check_choice, check_matrix, loss_dtype
from simtile._reductions import REDUCTIONS, reduced
from simtile.kernels.reference_torch import logsumexp, softplus

if TYPE_CHECKING:
    from simtile.functional import Reduction


def score_info_nce(
    scores: Tensor,
    *,
    targets: Tensor | None = None,
    temperature: Scale = 1.0,
    symmetric: bool = False,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE of a matrix of scores, for scores that are no inner products of two vectors.

    loss_i = log(1 + exp(L_i - s_i)), s_i the score of row i's target, L_i the log-sum-exp of its other scores

    Parameters
    ----------
    scores : Tensor (M, N)      -inf leaves a pair out
    targets : integer Tensor (M,)      the column that row i belongs to; None: column i, which needs N >= M
    temperature : float or one-element Tensor      divides the scores
    symmetric : bool      the mean with the other direction; without ``targets`` only
    weight : Tensor (M,)      multiplies the rows' losses, a constant
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 scores

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    As ``torch.nn.functional.cross_entropy``, but with the relative accuracy of :func:`info_nce` near saturation. Memory
    a few times the scores: where they are inner products take :func:`info_nce`, which stores none.
    """
    check_matrix("scores", scores)
    check_choice("reduction", reduction, REDUCTIONS)
    M, N = scores.shape
    if targets is None and N < M:
        raise ValueError(f"scores: at least as many columns as rows, {M}, unless targets are given; got {N}")
    if symmetric and targets is not None:
        raise ValueError("symmetric: pairs column i with row i; got targets")
    own_column = torch.arange(M, device=scores.device) if targets is None else as_ids("targets", targets, M, scores)
    weight = as_vector("weight", weight, M, scores)
    s = scores.to(loss_dtype(scores)) / as_scalar("temperature", temperature, scores, positive=True)
    own = s.gather(1, own_column[:, None]).squeeze(1)
    others = s.scatter(1, own_column[:, None], -torch.inf)
    loss = softplus(logsumexp(others, 1) - own)
    if symmetric:
        loss = (loss + softplus(logsumexp(others[:, :M], 0) - own)) / 2
    return reduced(loss, None if weight is None else weight.detach(), reduction)


def soft_repa(
    errors: Tensor,
    *,
    targets: Tensor | None = None,
    temperature: Scale = 0.07,
    scale: Scale = 4.0,
    error_weight: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """SoftREPA: an image's prompt is the one under which its denoising error is least.

    loss_i = CE of row i of scale · exp(-errors / temperature) with its own prompt as target + error_weight · own error

    Parameters
    ----------
    errors : Tensor (M, N)      of image i under prompt j, e.g. of the predicted velocity; not negative
    targets : integer Tensor (M,)      the prompt of image i; None: prompt i, which needs N >= M
    temperature, scale : float or one-element Tensor      0.07 and 4 as in the authors' code, which learns both
    error_weight : float      of the images' errors under their own prompts, 0 in the authors' code
    weight, reduction      as in :func:`score_info_nce`

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Scores lie in (0, scale], so a loss cannot go below log(1 + (N - 1) exp(-scale)). Lee et al. 2025, arXiv:2503.08250,
    as in the authors' code.
    """
    check_matrix("errors", errors)
    tau = as_scalar("temperature", temperature, errors, positive=True)
    scores = as_scalar("scale", scale, errors) * torch.exp(-errors.to(loss_dtype(errors)) / tau)
    loss = score_info_nce(scores, targets=targets, weight=weight, reduction=reduction)
    if error_weight == 0:
        return loss
    kept = as_vector("weight", weight, errors.shape[0], errors)
    wide = errors.to(loss_dtype(errors))
    own = wide.diagonal() if targets is None else wide.gather(1, targets.long()[:, None]).squeeze(1)
    return loss + error_weight * reduced(own, None if kept is None else kept.detach(), reduction)
