"""Statistics of every column against a bank of rows (hubness correction), without the (M, N) scores.

    lse[b, j] = log(sum_i exp(beta_b * s[i, j]))      s[i, j] = <bank[i], y[j]>
    mean[j], var[j] = mean and population variance of s[:, j]
    top[:, j] = the k largest s[:, j], descending

One pass serves every beta and the variance: beta * max(s) is the maximum of beta * s for beta >= 0, so a tile's columns
are shifted once. The mean is linear, <mean of the bank, y[j]>, and is known before the pass; the variance is the mean
square of what is left after it, which a difference of squares would cancel away. The largest scores come from
:mod:`simtile.kernels.pair_topk` with the sides exchanged.

Memory: ``partials_bytes``, through blocks of the bank that merge in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pair_topk import pair_topk_fwd
from simtile.kernels.pairs import Pairs, blocks
from simtile.kernels.partial_sums import PARTIALS_BYTES
from simtile.kernels.tile import dot_tile, tile_position


class PairStats(NamedTuple):
    """Float32 statistics of the columns."""

    lse: Tensor  # (len(betas), N), -inf for an empty bank
    mean: Tensor  # (N,), 0 for an empty bank
    var: Tensor  # (N,)
    top: Tensor  # (k, N), padded with -inf


@triton.jit(do_not_specialize=["M", "N", "count"])
def _pair_stats_kernel(
    x,  # (M, D) the bank
    y,  # (N, D)
    betas,  # (count,) float32, positive
    mean,  # (N,) float32
    column_max,  # (M / BLOCK_M, N) float32 partials
    column_sum,  # (M / BLOCK_M, count, N), sum_i exp(beta * (s - column_max))
    square,  # (M / BLOCK_M, N), sum_i (s - mean)**2
    M,
    N,
    D,
    count,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile_m, tile_n = tile_position(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    rm = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    at = tile_m.to(tl.int64) * N + rn
    center = tl.load(mean + rn, mask=rn < N, other=0.0)
    off = tl.where((rm < M)[:, None], s - center[None, :], 0.0)
    tl.store(square + at, tl.sum(off * off, 0), mask=rn < N)
    s = tl.where((rm < M)[:, None], s, float("-inf"))
    top = tl.max(s, 0)
    tl.store(column_max + at, top, mask=rn < N)
    at = tile_m.to(tl.int64) * count * N + rn
    for b in tl.range(0, count):
        slope = tl.load(betas + b)
        tl.store(column_sum + at, tl.sum(tl.exp((s - top[None, :]) * slope), 0), mask=rn < N)
        at += N


def pair_stats_fwd(
    bank: Tensor,
    y: Tensor,
    *,
    betas: Sequence[float] = (),
    k: int = 0,
    launch: Launch | None = None,
    partials_bytes: int = PARTIALS_BYTES,
) -> PairStats:
    """Statistics of <bank_i, y_j> over the rows i of a bank (M, D), for every row j of y (N, D); betas are positive."""
    pairs = Pairs.of(bank, y)
    M, N, count = pairs.M, pairs.N, len(betas)
    launch = launch or pick("pair_stats", pairs)
    slopes = torch.tensor(betas, dtype=torch.float32, device=y.device)
    # float64: the one sum here that runs over the whole bank.
    mean = (pairs.y.double() @ pairs.x.sum(0, dtype=torch.float64) / max(M, 1)).float()
    square = torch.zeros(N, dtype=torch.float64, device=y.device)
    lse = torch.full((count, N), -math.inf, device=y.device)
    width = max(1, min(N, partials_bytes // (4 * (count + 2))))
    height = max(1, partials_bytes // (4 * (count + 2) * width)) * launch.block_m
    for m, rows, n, columns in blocks(M, N, height, width):
        block = pairs.block(m, rows, n, columns)
        own = slice(n, n + columns)
        tiles_m, tiles_n = triton.cdiv(rows, launch.block_m), triton.cdiv(columns, launch.block_n)
        column_max = torch.empty((tiles_m, columns), device=y.device)
        column_sum = torch.empty((tiles_m, count, columns), device=y.device)
        squares = torch.empty((tiles_m, columns), device=y.device)
        with torch.cuda.device_of(y):
            _pair_stats_kernel[(tiles_m * tiles_n,)](
                block.x, block.y, slopes, mean[own], column_max, column_sum, squares,
                rows, columns, pairs.D, count, block.x.stride(0), block.y.stride(0),
                BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_K=launch.block_k, GROUP=launch.group,
                PRECISION=precision(block.x), **launch.options,
            )  # fmt: skip
        square[own] += squares.sum(0, dtype=torch.float64)
        # A sum is at least exp(0): its logarithm is finite.
        partial = column_max[:, None] * slopes[:, None] + column_sum.log()
        lse[:, own] = torch.logaddexp(lse[:, own], torch.logsumexp(partial, 0))
    top = pair_topk_fwd(y, bank, k).scores.T if k else torch.empty((0, N), device=y.device)
    return PairStats(lse, mean, (square / max(M, 1)).float(), top)
