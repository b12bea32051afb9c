"""Gradient of row and column log-sum-exp: tiles of coefficients into a workspace, then plain GEMMs.

    P[i, j] = g[i] * exp(s[i, j] - row[i]) + h[j] * exp(s[i, j] - column[j])      g = dloss/drow, h = dloss/dcolumn
    dX = scale * P Y      dY = scale * Pᵀ X      dscale = <X, P Y>

The tile kernel recomputes s (or reads it from a stash), so two-sided losses cost 4 GEMMs in all: one forward, three
here; with a stash 3. A register accumulator for dX would cap the tile at 32 rows from D = 768 on, below what the tensor
cores take; a workspace serves any D [1]. ``diagonal`` adds a coefficient at (i, i): for a positive that was left out of
the sums, ``-sigmoid(L - s+)`` keeps the relative accuracy near saturation that ``p - 1`` has lost.

Memory: ``workspace_bytes`` and float32 sums of the gradients' sizes, whatever M and N are.

[1] Liger-Kernel's Hopper kernels and QuACK bound a workspace of logits' gradients in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.accumulate import (
    WORKSPACE_BYTES,
    GradientSum,
    PairGrads,
    Wanted,
    coefficient_unit,
    scaled,
    workspace,
)
from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pairs import PairOptions, Pairs, blocks
from simtile.kernels.tile import dot_tile, meets_diagonal, scores, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack


@triton.jit
def probabilities(s, lse, coefficient, index, length, AXIS: tl.constexpr):
    """coefficient * exp(s - lse) along one axis of a tile; 0 for an empty row, whose scores are all -inf."""
    log_sum = tl.load(lse + index, mask=index < length, other=float("inf"))
    log_sum = tl.where(log_sum == float("-inf"), 0.0, log_sum)
    weight = tl.load(coefficient + index, mask=index < length, other=0.0)
    return tl.expand_dims(weight, AXIS) * tl.exp(s - tl.expand_dims(log_sum, AXIS))


@triton.jit(do_not_specialize=["M", "N", "diagonal"])
def _pair_grad_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    stash,  # (M, N) dot products from the forward pass; None: recomputed
    row_lse,  # (M,) float32, with row_coef; both None for a column loss
    row_coef,
    column_lse,  # (N,), with column_coef; both None for a row loss
    column_coef,
    diagonal_coef,  # (M,) is added to the coefficients of the pairs (i, i + diagonal); or None
    diagonal,
    out,  # (M, N) coefficients
    M,
    N,
    D,
    stride_x,
    stride_y,
    stride_stash,
    stride_out,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile_m, tile_n = tile_position(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    rm = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tile_m * tl.cdiv(N, BLOCK_N) + tile_n
    inside = (rm < M)[:, None] & (rn < N)[None, :]
    if stash is not None:
        at = stash + rm.to(tl.int64)[:, None] * stride_stash + rn[None, :]
        s = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    else:
        s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    s = scores(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
    if row_lse is not None:
        p = probabilities(s, row_lse, row_coef, rm, M, 1)
        if column_lse is not None:
            p += probabilities(s, column_lse, column_coef, rn, N, 0)
    else:
        p = probabilities(s, column_lse, column_coef, rn, N, 0)
    if diagonal_coef is not None:
        if meets_diagonal(tile_m * BLOCK_M, tile_n * BLOCK_N, diagonal, BLOCK_M, BLOCK_N):
            own = tl.load(diagonal_coef + rm, mask=rm < M, other=0.0)
            p += tl.where((rm + diagonal)[:, None] == rn[None, :], own[:, None], 0.0)
    tl.store(out + rm.to(tl.int64)[:, None] * stride_out + rn[None, :], p.to(out.dtype.element_ty), mask=inside)


def pair_lse_bwd(
    x: Tensor,
    y: Tensor,
    *,
    row: Tensor | None = None,
    column: Tensor | None = None,
    grad_row: Tensor | None = None,
    grad_column: Tensor | None = None,
    diagonal: Tensor | None = None,
    stash: Tensor | None = None,
    wanted: Wanted | None = None,
    launch: Launch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    **options: Unpack[PairOptions],
) -> PairGrads:
    """Gradients of Σ grad_row * row + Σ grad_column * column, from the results of :func:`pair_lse_fwd`.

    ``diagonal`` (M,) is d loss / d s_ii by way of the own scores, the forward pass's ``own``. ``stash`` (M, N) are the
    forward pass's dot products. A direction without gradient is None.
    """
    pairs = Pairs.of(x, y, **options)
    wanted = wanted or Wanted()
    launch = launch or pick("pair_lse_bwd", pairs)
    unit = coefficient_unit(x.dtype, grad_row, grad_column, diagonal)
    total = GradientSum(pairs, wanted)
    add_coefficients(
        total,
        pairs,
        launch,
        workspace_bytes,
        row=None if row is None or grad_row is None else (row, scaled(grad_row, unit)),
        column=None if column is None or grad_column is None else (column, scaled(grad_column, unit)),
        diagonal=None if diagonal is None else scaled(diagonal, unit),
        stash=stash,
    )
    return total.finish(unit)


def add_coefficients(
    total: GradientSum,
    pairs: Pairs,
    launch: Launch,
    workspace_bytes: int,
    *,
    row: tuple[Tensor, Tensor] | None = None,
    column: tuple[Tensor, Tensor] | None = None,
    diagonal: Tensor | None = None,
    stash: Tensor | None = None,
) -> None:
    """Adds all blocks of coefficients to ``total``; ``row`` and ``column`` are (log-sum-exp, its gradient)."""
    if row is None and column is None:
        if diagonal is None:
            return
        row = (torch.zeros_like(diagonal), torch.zeros_like(diagonal))
    space = workspace(pairs, workspace_bytes)
    for m, height, n, width in blocks(pairs.M, pairs.N, *space.shape):
        rows, columns = slice(m, m + height), slice(n, n + width)
        block = coefficients(
            pairs.block(m, height, n, width),
            space[:height, :width],
            launch,
            row=None if row is None else (row[0][rows], row[1][rows]),
            column=None if column is None else (column[0][columns], column[1][columns]),
            diagonal=None if diagonal is None else diagonal[rows],
            stash=None if stash is None else stash[rows, columns],
        )
        total.add(block, m, n)


def coefficients(
    pairs: Pairs,
    out: Tensor,
    launch: Launch,
    *,
    row: tuple[Tensor, Tensor] | None = None,
    column: tuple[Tensor, Tensor] | None = None,
    diagonal: Tensor | None = None,
    stash: Tensor | None = None,
) -> Tensor:
    """Fills ``out`` (M, N) with a block's coefficients and returns it; arguments as in :func:`add_coefficients`."""
    row_lse, row_coef = row or (None, None)
    column_lse, column_coef = column or (None, None)
    grid = (triton.cdiv(pairs.M, launch.block_m) * triton.cdiv(pairs.N, launch.block_n),)
    with torch.cuda.device_of(out):
        _pair_grad_kernel[grid](
            pairs.x, pairs.y, pairs.terms(launch), stash, row_lse, row_coef, column_lse, column_coef,
            diagonal, pairs.diagonal, out, pairs.M, pairs.N, pairs.D, pairs.x.stride(0), pairs.y.stride(0),
            0 if stash is None else stash.stride(0), out.stride(0),
            BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_K=launch.block_k, GROUP=launch.group,
            IDS_MODE=pairs.ids_mode, PRECISION=precision(pairs.x), **launch.options,
        )  # fmt: skip
    return out
