"""Row and column log-sum-exp of a similarity matrix that is never stored, both from one pass.

    s[i, j]   = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]      (M, N), lives one tile at a time
    row[i]    = log(sum_j exp(s[i, j]))                           (M,)
    column[j] = log(sum_i exp(s[i, j]))                           (N,)

Tiles leave raw sums, flagged tiles are made again, and the sums are reduced: :mod:`simtile.kernels.partial_sums`. No
atomics: the bits depend only on shapes and tiles.

Memory: the partial sums, bounded by ``partials_bytes`` through blocks of rows and columns that merge in order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pairs import Direction, PairOptions, Pairs, blocks
from simtile.kernels.partial_sums import FLAGGED, PARTIALS_BYTES, log_sum, partials_block, reduce_sums, store_sums
from simtile.kernels.tile import all_scores, dot_tile, leave_out, meets_diagonal, scores, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack


@triton.jit(do_not_specialize=["M", "N", "diagonal"])
def _pair_lse_fwd_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    row_sum,  # (N / BLOCK_N, M) float32, sum_j exp(s - tile_max) over the tile's columns; or None
    column_sum,  # (M / BLOCK_M, N) float32; or None
    tile_max,  # (M / BLOCK_M, N / BLOCK_N) float32; FLAGGED where a sum is too small to be used
    stash,  # (M, N) of any float type, receives <x[i], y[j]>; or None
    own,  # (M,) float32, receives s[i, i + diagonal], left out or not; or None
    diagonal,
    M,
    N,
    D,
    stride_x,
    stride_y,
    stride_stash,
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
    s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    if stash is not None:
        at = stash + rm.to(tl.int64)[:, None] * stride_stash + rn[None, :]
        tl.store(at, s.to(stash.dtype.element_ty), mask=(rm < M)[:, None] & (rn < N)[None, :])
    s = all_scores(s, terms, rm, rn, M, N)
    if own is not None:
        first_m = tile_m * BLOCK_M
        first_n = tile_n * BLOCK_N
        if meets_diagonal(first_m, first_n, diagonal, BLOCK_M, BLOCK_N):
            rd = rm + diagonal
            pair = tl.sum(tl.where(rd[:, None] == rn[None, :], s, 0.0), 1)
            tl.store(own + rm, pair, mask=(rm < M) & (rd >= first_n) & (rd < tl.minimum(first_n + BLOCK_N, N)))
    s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
    store_sums(s, row_sum, column_sum, tile_max + tile, tile_m, tile_n, rm, rn, M, N)


@triton.jit(do_not_specialize=["M", "N"])
def _pair_lse_fix_kernel(
    x,
    y,
    terms,
    row_sum,
    column_sum,
    tile_max,
    M,
    N,
    D,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Replaces the sums of flagged tiles by logarithms. Few programs walk over many tiles: most do nothing."""
    columns = tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BLOCK_M) * columns, tl.num_programs(0)):
        if tl.load(tile_max + tile) == FLAGGED:
            rm = tile // columns * BLOCK_M + tl.arange(0, BLOCK_M)
            rn = tile % columns * BLOCK_N + tl.arange(0, BLOCK_N)
            s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
            s = scores(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
            if row_sum is not None:
                partial = row_sum + (tile % columns + tl.zeros((1,), tl.int64)) * M
                tl.store(partial + rm, log_sum(s, 1), mask=rm < M)
            if column_sum is not None:
                partial = column_sum + (tile // columns + tl.zeros((1,), tl.int64)) * N
                tl.store(partial + rn, log_sum(s, 0), mask=rn < N)


def pair_lse_fwd(
    x: Tensor,
    y: Tensor,
    *,
    direction: Direction = "row",
    stash: Tensor | None = None,
    own: Tensor | None = None,
    launch: Launch | None = None,
    partials_bytes: int = PARTIALS_BYTES,
    **options: Unpack[PairOptions],
) -> tuple[Tensor | None, Tensor | None]:
    """Row (M,) and column (N,) float32 log-sum-exp over the kept pairs; None for a direction not asked for.

    x (M, D) and y (N, D) are float32, bfloat16 or float16. ``stash`` (M, N), of any float type, receives the dot
    products, so that a backward pass need not recompute them; ``own`` (M,) float32 receives the scores s_ii, left out
    or not (rows from N on are not written). Extra memory: O(M + N) floats and ``partials_bytes``.
    """
    pairs = Pairs.of(x, y, **options)
    return lse_of(pairs, direction=direction, stash=stash, own=own, launch=launch, budget=partials_bytes)


def lse_of(
    pairs: Pairs,
    *,
    direction: Direction,
    stash: Tensor | None = None,
    own: Tensor | None = None,
    launch: Launch | None = None,
    budget: int = PARTIALS_BYTES,
) -> tuple[Tensor | None, Tensor | None]:
    """:func:`pair_lse_fwd` of a block that is already prepared."""
    launch = launch or pick("pair_lse_fwd", pairs, crowded=stash is not None)
    row = pairs.x.new_full((pairs.M,), -math.inf, dtype=torch.float32) if direction != "column" else None
    column = pairs.y.new_full((pairs.N,), -math.inf, dtype=torch.float32) if direction != "row" else None
    rows, columns = partials_block(pairs.M, pairs.N, launch, budget)
    for m, height, n, width in blocks(pairs.M, pairs.N, rows, columns):
        _accumulate(
            pairs.block(m, height, n, width),
            None if row is None else row[m : m + height],
            None if column is None else column[n : n + width],
            None if stash is None else stash[m : m + height, n : n + width],
            None if own is None else own[m : m + height],
            launch,
        )
    return row, column


def _accumulate(
    pairs: Pairs,
    row: Tensor | None,
    column: Tensor | None,
    stash: Tensor | None,
    own: Tensor | None,
    launch: Launch,
) -> None:
    """Merges a block's log-sum-exp into ``row`` (M,) and ``column`` (N,)."""
    x, y, M, N = pairs.x, pairs.y, pairs.M, pairs.N
    tiles_m, tiles_n = triton.cdiv(M, launch.block_m), triton.cdiv(N, launch.block_n)
    new: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    row_sum = torch.empty((tiles_n, M), **new) if row is not None else None
    column_sum = torch.empty((tiles_m, N), **new) if column is not None else None
    tile_max = torch.empty((tiles_m, tiles_n), **new)
    terms = pairs.terms(launch)
    tile = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_K": launch.block_k}
    mode = {"IDS_MODE": pairs.ids_mode, "PRECISION": precision(x)}
    shape = (M, N, pairs.D, x.stride(0), y.stride(0))
    stride_stash = stash.stride(0) if stash is not None else 0
    with torch.cuda.device_of(x):
        _pair_lse_fwd_kernel[(tiles_m * tiles_n,)](
            x, y, terms, row_sum, column_sum, tile_max, stash, own, pairs.diagonal,
            *shape, stride_stash, **tile, GROUP=launch.group, **mode, **launch.options,
        )  # fmt: skip
        _pair_lse_fix_kernel[(min(tiles_m * tiles_n, 1024),)](
            x, y, terms, row_sum, column_sum, tile_max, *shape, **tile, **mode, **launch.options
        )
        reduce_sums(row, column, row_sum, column_sum, tile_max, launch)
