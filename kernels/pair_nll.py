"""Negative log-likelihood of target scores, with its gradient made in the forward pass: three GEMMs in all.

    loss[i] = link(L[i] - target[i]),  L[i] = log(sum_j exp(s[i, j])),  link(z) = z or softplus(z) = log(1 + e^z)
    P[i, j] = weight[i] * link'(L[i] - target[i]) * exp(s[i, j] - L[i])

A row's coefficient is known as soon as its own scores have been seen. So one block of rows at a time, the tile kernel
of :mod:`simtile.kernels.pair_lse` leaves the dot products in a workspace, its log-sum-exp gives the coefficients, and
the workspace turns into P without a second S: chunked as in Liger-Kernel, arXiv:2410.10989, with the rows' statistics
taken in the GEMM's epilogue. Link "softplus" is for a target that was left out of L and keeps relative accuracy near
saturation; a row without any kept pair has loss 0 and no gradient.

Memory: ``workspace_bytes`` and float32 sums of the gradients' sizes. Where the workspace holds less than FEWEST_ROWS
full rows (more than 87,000 columns of bfloat16 in 256 MiB), the scores are recomputed in blocks: four GEMMs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from simtile.kernels.accumulate import (
    WORKSPACE_BYTES,
    GradientSum,
    PairGrads,
    Wanted,
    aligned,
    coefficient_unit,
    scaled,
)
from simtile.kernels.launch import Launch, pick
from simtile.kernels.pair_grad import add_coefficients, coefficients
from simtile.kernels.pair_lse import lse_of
from simtile.kernels.pairs import PairOptions, Pairs

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Below, the two products that follow a block of rows are too flat to run at a GEMM's rate.
FEWEST_ROWS = 512

Link = Literal["lse", "softplus"]


class PairNLL(NamedTuple):
    """What the forward pass knows; the gradients are those of Σ weight * loss, None unless they were asked for."""

    loss: Tensor  # (M,) float32, not weighted
    lse: Tensor  # (M,) float32
    target_grad: Tensor  # (M,) float32, -weight * link': what a row's coefficients sum to, negated
    grads: PairGrads | None


def linked(lse: Tensor, target: Tensor, link: Link) -> tuple[Tensor, Tensor]:
    """(M,) loss and its derivative by lse, 0 in empty rows. -logsigmoid(-z): torch's softplus cuts at 20."""
    z = lse - target.detach().float()
    empty = lse == float("-inf")
    if link == "softplus":
        return torch.where(empty, 0.0, -logsigmoid(-z)), torch.sigmoid(z)
    return torch.where(empty, 0.0, z), torch.where(empty, 0.0, torch.ones_like(z))


def pair_nll_fwd(
    x: Tensor,
    y: Tensor,
    target: Tensor | None,
    *,
    weight: Tensor | None = None,
    link: Link = "lse",
    wanted: Wanted | None = None,
    launch: Launch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    **options: Unpack[PairOptions],
) -> PairNLL:
    """Row losses (M,) against target scores (M,), and the gradients of their weighted sum.

    ``target`` None: the row's own score s_ii (N >= M), whose gradient is then a part of ``grads``; with
    ``skip_diagonal`` it is left out of L. Given scores get theirs through ``target_grad`` instead. ``weight`` (M,) is
    d total / d loss_i, 1 / M for a mean; default 1. ``wanted`` None: no gradient work at all, one GEMM.
    """
    pairs = Pairs.of(x, y, **options)
    weight = torch.ones(pairs.M, device=x.device) if weight is None else weight.detach().float()
    forward = launch or pick("pair_lse_fwd", pairs, crowded=wanted is not None)
    if wanted is None:
        return _rows(pairs, target, weight, link, None, forward)

    backward = launch or pick("pair_lse_bwd", pairs)
    unit = coefficient_unit(x.dtype, weight)
    total = GradientSum(pairs, wanted)
    # Whole tiles: the loss has the same bits however many blocks its rows come in.
    height = workspace_bytes // (max(pairs.N, 1) * _pair_bytes(x.dtype)) // forward.block_m * forward.block_m
    if height < min(pairs.M, FEWEST_ROWS):
        rows = _rows(pairs, target, weight, link, None, forward)
        add_coefficients(total, pairs, backward, workspace_bytes, **_coefficients(rows, unit, target))
        return rows._replace(grads=total.finish(unit))

    result = torch.empty((3, pairs.M), dtype=torch.float32, device=x.device)
    dots = aligned(min(height, pairs.M), pairs.N, torch.float32, x.device)
    space = dots if x.dtype == torch.float32 else aligned(dots.shape[0], pairs.N, x.dtype, x.device)
    for first in range(0, pairs.M, height):
        own = slice(first, min(first + height, pairs.M))
        block = pairs.block(first, own.stop - first, 0, pairs.N)
        stash, out = dots[: block.M], space[: block.M]
        rows = _rows(block, None if target is None else target[own], weight[own], link, stash, forward)
        coefficients(block, out, backward, stash=stash, **_coefficients(rows, unit, target))
        total.add(out, first, 0)
        result[:, own] = torch.stack(rows[:3])
    loss, lse, target_grad = result
    return PairNLL(loss, lse, target_grad, total.finish(unit))


class _Coefficients(TypedDict):
    row: tuple[Tensor, Tensor]
    diagonal: Tensor | None


def _coefficients(rows: PairNLL, unit: Tensor | None, target: Tensor | None) -> _Coefficients:
    """What the gradient kernel wants to know of a block's rows; own targets get theirs on the diagonal."""
    coefficient = scaled(-rows.target_grad, unit)
    return {"row": (rows.lse, coefficient), "diagonal": -coefficient if target is None else None}


def _rows(
    pairs: Pairs, target: Tensor | None, weight: Tensor, link: Link, stash: Tensor | None, launch: Launch
) -> PairNLL:
    """Losses of a block's rows, without gradients."""
    own = torch.empty(pairs.M, dtype=torch.float32, device=pairs.x.device) if target is None else None
    lse, _ = lse_of(pairs, direction="row", stash=stash, own=own, launch=launch)
    right = target if own is None else own
    assert lse is not None and right is not None
    loss, slope = linked(lse, right, link)
    # 0 where the weight is 0, even if the slope is NaN.
    return PairNLL(loss, lse, torch.where(weight == 0, 0.0, -slope * weight), None)


def _pair_bytes(dtype: torch.dtype) -> int:
    """Of workspace: float32 dot products, turned into coefficients in place or, of 16-bit inputs, beside them."""
    return 4 if dtype == torch.float32 else 4 + dtype.itemsize
