"""Log-sum-exp in two steps: raw sums of the tiles, then one logarithm for each row and each column.

    sums[t, i] = sum_{j in tile t} exp(s[i, j] - top[t])          top[t] = the tile's maximum
    lse[i]     = log(sum_t exp(top[t]) * sums[t, i])

A tile takes one exponential per element, shifted by its own maximum [1]; the logarithms are taken by a small reduction
kernel (a ``log`` a row and tile costs some 800 instructions). A row that lies so far below its tile's maximum that its
sum underflows flags the tile; a second kernel, of the operation's own, makes flagged tiles again with a maximum per row
and per column, and leaves logarithms in the place of sums. (An exact branch inside the tile kernel spills hundreds of
registers; a constant shift by the largest possible score gives -inf at scale 100 [2].)

[1] Milakov & Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867.
[2] Cherti et al., OpenCLIP scaling laws, arXiv:2212.07143: temperatures reach 0.01.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.launch import FUSED, Launch

# Terms under 2**-126 are flushed to zero. A sum of 2**-96 or more lost at most 256 * 2**-30 of itself: float32 noise.
SUM_FLOOR = tl.constexpr(2.0**-96)
FLAGGED = tl.constexpr(float("inf"))
PARTIALS_BYTES = 64 << 20


@triton.jit
def store_sums(s, row_sum, column_sum, tile_max, tile_m, tile_n, rm, rn, M, N):
    """Leaves a tile's raw row and column sums, shifted by its maximum, and the maximum or FLAGGED."""
    row_max = tl.max(s, 1)
    top = tl.max(row_max, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    lowest = 1.0
    if column_sum is not None:
        # Before s is overwritten: a column without any kept pair has a sum of 0 that must not raise the flag.
        column_max = tl.max(s, 0)
    e = tl.exp(s - shift)
    if row_sum is not None:
        sums = tl.sum(e, 1)
        tl.store(row_sum + tile_n.to(tl.int64) * M + rm, sums, mask=rm < M)
        lowest = tl.min(tl.where(row_max > float("-inf"), sums, 1.0), 0)
    if column_sum is not None:
        sums_n = tl.sum(e, 0)
        tl.store(column_sum + tile_m.to(tl.int64) * N + rn, sums_n, mask=rn < N)
        lowest = tl.minimum(lowest, tl.min(tl.where(column_max > float("-inf"), sums_n, 1.0), 0))
    tl.store(tile_max, tl.where(lowest < SUM_FLOOR, FLAGGED, top))


@triton.jit
def log_sum(s, AXIS: tl.constexpr):
    """log(sum(exp(s))) along an axis, exactly shifted; -inf where everything is left out."""
    top = tl.max(s, AXIS)
    top = tl.where(top == float("-inf"), 0.0, top)
    return top + tl.log(tl.sum(tl.exp(s - tl.expand_dims(top, AXIS)), AXIS))


# Neither on alignment: the sums of a prefix, or of a block, start anywhere.
@triton.jit(
    do_not_specialize=["count", "length", "max_stride_partial", "max_stride_block"],
    do_not_specialize_on_alignment=["partials", "tile_max", "lse"],
)
def _lse_reduce_kernel(
    partials,  # (count, length) float32: raw sums, or logarithms where the tile is flagged
    tile_max,  # tile maxima, addressed by partial and by block of TILE entries
    lse,  # (length,) float32, logarithms; what it holds is merged in
    count,
    length,
    max_stride_partial,
    max_stride_block,
    TILE: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    block = tl.program_id(0)
    rn = block * TILE + tl.arange(0, TILE)
    inside = rn < length
    top = tl.load(lse + rn, mask=inside, other=float("-inf"))
    total = tl.where(top == float("-inf"), 0.0, 1.0)
    for first in tl.range(0, count, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        maxima = tl.load(tile_max + r * max_stride_partial + block * max_stride_block, mask=r < count, other=0.0)
        at = partials + r.to(tl.int64)[:, None] * length + rn[None, :]
        p = tl.load(at, mask=(r < count)[:, None] & inside[None, :], other=0.0)
        flagged = (maxima == FLAGGED)[:, None]
        exponent = tl.where(flagged, p, tl.where(p == 0.0, float("-inf"), maxima[:, None]))
        new_top = tl.maximum(top, tl.max(exponent, 0))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.where(flagged, 1.0, p)
        total = total * tl.exp(top - shift) + tl.sum(weight * tl.exp(exponent - shift[None, :]), 0)
        top = new_top
    tl.store(lse + rn, tl.where(top == float("-inf"), top, top + tl.log(total)), mask=inside)


def partials_block(M: int, N: int, launch: Launch, budget: int) -> tuple[int, int]:
    """(rows, columns) of the largest block whose partial sums fit the budget; full rows where possible."""
    pair_bytes = 4 * (1 / launch.block_n + 1 / launch.block_m)  # of partial sums, for one pair
    columns = max(launch.block_n, min(N, int(budget / pair_bytes) // launch.block_m))
    rows = int(budget / pair_bytes) // columns // launch.block_m * launch.block_m
    return max(launch.block_m, rows), columns


def reduce_sums(
    row: Tensor | None,
    column: Tensor | None,
    row_sum: Tensor | None,
    column_sum: Tensor | None,
    tile_max: Tensor,
    launch: Launch,
) -> None:
    """Merges the tiles' sums into ``row`` (M,) and ``column`` (N,)."""
    tiles_m, tiles_n = tile_max.shape
    if row is not None:
        _lse_reduce_kernel[(tiles_m,)](
            row_sum, tile_max, row, tiles_n, row.shape[0], 1, tiles_n, TILE=launch.block_m, BLOCK_R=16, **FUSED
        )
    if column is not None:
        _lse_reduce_kernel[(tiles_n,)](
            column_sum, tile_max, column, tiles_m, column.shape[0], tiles_n, 1, TILE=launch.block_n, BLOCK_R=16, **FUSED
        )
