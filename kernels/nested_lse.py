"""Log-sum-exp for several prefixes of the coordinates (Matryoshka) in one sweep over them.

    c_k[i, j] = <x[i, :d_k], y[j, :d_k]> / (|x[i, :d_k]| |y[j, :d_k]|)      d_1 <= ... <= d_K: a running dot product
    row[k, i] = log(sum_j exp(scale * c_k[i, j]))                           (K, M), likewise column (K, N)

The dot product of a prefix is a partial sum of the next one's, so all K cost one GEMM and K passes over the tile in
registers, where a loss a prefix [1] costs a GEMM a prefix. Sums, flags and memory are those of
:mod:`simtile.kernels.partial_sums`, K times; the gradient is in :mod:`simtile.kernels.nested_grad`.

[1] Kusupati et al., Matryoshka representation learning, arXiv:2205.13147.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pairs import Direction, PairOptions, Pairs, blocks
from simtile.kernels.partial_sums import FLAGGED, PARTIALS_BYTES, log_sum, partials_block, reduce_sums, store_sums
from simtile.kernels.tile import dot_range, leave_out, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack

EPSILON = 1e-12  # of torch.nn.functional.normalize: a zero row stays zero


class Prefixes(NamedTuple):
    """The prefixes' bounds, ascending, and the reciprocal norms of both sides; None without normalisation."""

    bounds: Tensor  # (K + 1,) int32, from 0
    inv_x: Tensor | None  # (K, M) float32
    inv_y: Tensor | None  # (K, N)

    def block(self, row: int, rows: int, column: int, columns: int) -> Prefixes:
        """Those of a block of pairs; copies, so that a prefix's norms are contiguous at stride M or N."""
        if self.inv_x is None or self.inv_y is None:
            return self
        m, n = slice(row, row + rows), slice(column, column + columns)
        return Prefixes(self.bounds, self.inv_x[:, m].contiguous(), self.inv_y[:, n].contiguous())


@triton.jit
def divided(dot, factor, inv_x, inv_y, k, rm, rn, M, N):
    """A tile times a factor, divided by the norms of prefix k; the factor is spent on the rows, not on every pair."""
    if inv_x is not None:
        by_row = tl.load(inv_x + k * M + rm, mask=rm < M, other=0.0) * factor
        by_column = tl.load(inv_y + k * N + rn, mask=rn < N, other=0.0)
        return dot * by_column[None, :] * by_row[:, None]
    return dot * factor


@triton.jit(do_not_specialize=["M", "N", "prefixes"])
def _nested_lse_fwd_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    bounds,  # (prefixes + 1,) int32
    inv_x,  # (prefixes, M) or None
    inv_y,  # (prefixes, N) or None
    row_sum,  # (prefixes, N / BLOCK_N, M) or None
    column_sum,  # (prefixes, M / BLOCK_M, N) or None
    tile_max,  # (prefixes, tiles)
    M,
    N,
    prefixes,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    ALIGNED: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile_m, tile_n = tile_position(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    rm = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tiles_m = tl.cdiv(M, BLOCK_M).to(tl.int64)
    tiles_n = tl.cdiv(N, BLOCK_N).to(tl.int64)
    tile = tile_m * tl.cdiv(N, BLOCK_N) + tile_n
    scale = tl.load(terms.scale)
    dot = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.range(0, prefixes):
        begin = tl.multiple_of(tl.load(bounds + k), ALIGNED)
        end = tl.multiple_of(tl.load(bounds + k + 1), ALIGNED)
        dot = dot_range(dot, x, y, rm, rn, M, N, begin, end, stride_x, stride_y, BLOCK_K, PRECISION)
        s = divided(dot, scale, inv_x, inv_y, k, rm, rn, M, N)
        s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
        rows = row_sum
        if row_sum is not None:
            rows = row_sum + k * tiles_n * M
        columns = column_sum
        if column_sum is not None:
            columns = column_sum + k * tiles_m * N
        store_sums(s, rows, columns, tile_max + k * tiles_m * tiles_n + tile, tile_m, tile_n, rm, rn, M, N)


@triton.jit(do_not_specialize=["M", "N", "prefixes"])
def _nested_lse_fix_kernel(
    x,
    y,
    terms,
    bounds,
    inv_x,
    inv_y,
    row_sum,
    column_sum,
    tile_max,
    M,
    N,
    prefixes,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ALIGNED: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Replaces the sums of flagged tiles by logarithms, as in :mod:`simtile.kernels.pair_lse`."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    for index in tl.range(tl.program_id(0), prefixes * tiles_m * tiles_n, tl.num_programs(0)):
        if tl.load(tile_max + index) == FLAGGED:
            k = index // (tiles_m * tiles_n)
            tile = index % (tiles_m * tiles_n)
            rm = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
            rn = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
            dot = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            # Range by range as in the other kernels: the gradient's exp(s - lse) wants the same bits of s.
            for j in tl.range(0, k + 1):
                begin = tl.multiple_of(tl.load(bounds + j), ALIGNED)
                end = tl.multiple_of(tl.load(bounds + j + 1), ALIGNED)
                dot = dot_range(dot, x, y, rm, rn, M, N, begin, end, stride_x, stride_y, BLOCK_K, PRECISION)
            s = divided(dot, tl.load(terms.scale), inv_x, inv_y, k, rm, rn, M, N)
            s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
            zero = tl.zeros((1,), tl.int64)
            if row_sum is not None:
                at = row_sum + (zero + k * tiles_n + tile % tiles_n) * M + rm
                tl.store(at, log_sum(s, 1), mask=rm < M)
            if column_sum is not None:
                at = column_sum + (zero + k * tiles_m + tile // tiles_n) * N + rn
                tl.store(at, log_sum(s, 0), mask=rn < N)


def nested_lse_fwd(
    x: Tensor,
    y: Tensor,
    dims: Sequence[int],
    *,
    normalize: bool = True,
    direction: Direction = "row",
    launch: Launch | None = None,
    partials_bytes: int = PARTIALS_BYTES,
    **options: Unpack[PairOptions],
) -> tuple[Tensor | None, Tensor | None]:
    """Row (K, M) and column (K, N) float32 log-sum-exp of each prefix, in the order of ``dims``.

    ``options``: everything but biases.
    """
    pairs = Pairs.of(x, y, **options)
    launch = launch or pick("nested_lse", pairs)
    prefixes, order = ascending(pairs, dims, normalize)
    K = len(dims)
    new: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    row = torch.full((K, pairs.M), -math.inf, **new) if direction != "column" else None
    column = torch.full((K, pairs.N), -math.inf, **new) if direction != "row" else None
    extent = partials_block(pairs.M, pairs.N, launch, max(1, partials_bytes // max(K, 1)))
    for m, height, n, width in blocks(pairs.M, pairs.N, *extent):
        block, bounds = pairs.block(m, height, n, width), prefixes.block(m, height, n, width)
        tiles_m, tiles_n = triton.cdiv(height, launch.block_m), triton.cdiv(width, launch.block_n)
        row_sum = None if row is None else torch.empty((K, tiles_n, height), **new)
        column_sum = None if column is None else torch.empty((K, tiles_m, width), **new)
        tile_max = torch.empty((K, tiles_m, tiles_n), **new)
        common = (block.x, block.y, block.terms(launch), *bounds, row_sum, column_sum, tile_max)
        tile = {"ALIGNED": alignment(dims), **tile_arguments(block, launch)}
        with torch.cuda.device_of(x):
            _nested_lse_fwd_kernel[(tiles_m * tiles_n,)](
                *common, *shape_arguments(block, K), GROUP=launch.group, **tile
            )
            _nested_lse_fix_kernel[(min(K * tiles_m * tiles_n, 1024),)](*common, *shape_arguments(block, K), **tile)
            for k in range(K):
                reduce_sums(
                    None if row is None else row[k, m : m + height],
                    None if column is None else column[k, n : n + width],
                    None if row_sum is None else row_sum[k],
                    None if column_sum is None else column_sum[k],
                    tile_max[k],
                    launch,
                )
    back = torch.argsort(order)
    return None if row is None else row[back], None if column is None else column[back]


def ascending(pairs: Pairs, dims: Sequence[int], normalize: bool) -> tuple[Prefixes, Tensor]:
    """Ascending prefixes, and which of ``dims`` each of them is."""
    order = torch.tensor(sorted(range(len(dims)), key=dims.__getitem__), dtype=torch.int64, device=pairs.x.device)
    ends = sorted(dims)
    bounds = torch.tensor([0, *ends], dtype=torch.int32, device=pairs.x.device)
    if not normalize:
        return Prefixes(bounds, None, None), order
    return Prefixes(bounds, _inverse_norms(pairs.x, ends), _inverse_norms(pairs.y, ends)), order


def _inverse_norms(x: Tensor, ends: list[int]) -> Tensor:
    """(K, rows) float32: 1 / max(norm, EPSILON) of each prefix; a range of coordinates is squared once.

    Summed in float64: at scale 300 a last digit of a norm is a relative error of 2e-5 in a whole column's coefficients.
    """
    ranges = zip([0, *ends[:-1]], ends, strict=True)
    squares = [x[:, begin:end].float().square().sum(1, dtype=torch.float64) for begin, end in ranges]
    # Not torch.cumsum, which deterministic mode refuses on CUDA.
    sums = torch.stack(list(itertools.accumulate(squares)))
    return sums.sqrt_().clamp_(min=EPSILON).reciprocal_().float()


def alignment(dims: Sequence[int]) -> int:
    """The largest power of two, at most 16, that divides all bounds: it allows 16-byte loads."""
    return math.gcd(16, *dims)


def shape_arguments(pairs: Pairs, prefixes: int) -> tuple[int, ...]:
    return pairs.M, pairs.N, prefixes, pairs.x.stride(0), pairs.y.stride(0)


def tile_arguments(pairs: Pairs, launch: Launch) -> dict[str, Any]:
    return {
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "IDS_MODE": pairs.ids_mode,
        "PRECISION": precision(pairs.x),
        **launch.options,
    }
