"""SyCL's list-wise loss: the Wasserstein distance of predicted and target distributions, taken as two Gaussians.

With the centred rows A = P - mean P, B = T - mean T (M, N), the covariances are AᵀA / (M - 1) and BᵀB / (M - 1), and

    tr(Σ_P + Σ_T) - 2 tr (Σ_P Σ_T)^½ = (‖A‖² + ‖B‖² - 2 ‖A Bᵀ‖_*) / (M - 1) = min_{W orthogonal} ‖A - W B‖² / (M - 1)

(Bures; orthogonal Procrustes). The minimum is at the polar factor W = U Vᵀ of A Bᵀ = U S Vᵀ, an M × M matrix. In the
last form nothing cancels, and at a minimum the derivative of W drops out: the gradient by A is 2 (A - W B) / (M - 1),
which has no square root of an eigenvalue in it and is finite at any rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from simtile._first_order import apply, first_order
from simtile._pairs import Scale, as_scalar, check_matrix, loss_dtype


def wasserstein_loss(scores: Tensor, relevance: Tensor, *, temperature: Scale = 1.0) -> Tensor:
    """2-Wasserstein distance between softmax(scores / temperature) and softmax(relevance), rows as samples.

    ‖mean P - mean T‖² + tr(Σ_P + Σ_T - 2 (Σ_P Σ_T)^½), over the N candidates of M queries.

    Parameters
    ----------
    scores : Tensor (M, N)
    relevance : Tensor (M, N)      graded labels, constants
    temperature : float or one-element Tensor      of the scores; the authors' code takes it from its command line

    Returns
    -------
    Tensor ()      float32, or float64 for float64 scores

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Products of M × N with N × M and one singular value decomposition M × M, where the authors' code takes eigenvalues
    of a general float64 matrix and adds 1e-15 under a square root. A direction in which the rows of P do not vary has
    a kink there; its gradient is taken to be 0. Esfandiarpoor et al. 2025, arXiv:2503.23239.

    Examples
    --------
    >>> graded = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> wasserstein_loss(torch.zeros(2, 3), graded)
    tensor(0.3101)
    """
    check_matrix("scores", scores)
    if not isinstance(relevance, Tensor) or relevance.shape != scores.shape:
        got = tuple(relevance.shape) if isinstance(relevance, Tensor) else type(relevance).__name__
        raise ValueError(f"relevance: a Tensor of the shape of scores, {tuple(scores.shape)}, got {got}")
    dtype = loss_dtype(scores)
    if scores.shape[0] == 0:
        return scores.to(dtype).sum()
    predicted = torch.softmax(scores.to(dtype) / as_scalar("temperature", temperature, scores, positive=True), 1)
    wanted = torch.softmax(relevance.detach().to(dtype), 1)
    mean, wanted_mean = predicted.mean(0), wanted.mean(0)
    bures: Tensor = apply(_Bures, predicted - mean, wanted - wanted_mean)
    return (mean - wanted_mean).square().sum() + bures


class _Bures(Function):
    """min_W ‖A - W B‖² / (M - 1) of centred rows A (with a gradient) and B (without)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            product = a @ b.T
            finite = product.isfinite().all()  # the decomposition raises where it is not
            u, s, vh = torch.linalg.svd(product.where(finite, 0.0))
            kept = (s > s[:1] * torch.finfo(s.dtype).eps * max(a.shape)).to(s.dtype)
            turned, moved = (u * kept) @ (vh @ b), kept[:, None] * (vh @ b)
            factor = 1.0 / max(a.shape[0] - 1, 1)
            apart = a - turned
            ctx.save_for_backward((2 * factor * apart).where(finite, torch.nan))
            # What W leaves out of B, the directions without variance in A, counts in full.
            value: Tensor = factor * (apart.square().sum() + (b - vh.T @ moved).square().sum())
            return value.where(finite, torch.nan)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,), (by_a,) = grads, ctx.saved_tensors
        assert grad is not None
        return by_a * grad, None
