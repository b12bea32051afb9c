"""The k best columns of every row, exactly, without the (M, N) scores.

    s[i, j] = y_scale[j] * <x[i], y[j]> + y_bias[j]                (M, N), lives one tile at a time

1. A tile kernel leaves the maximum of every group of 32 columns of a row: 1/32 of the scores.
2. A row's k best groups hold its k best columns: each of them holds a score no smaller than the k-th group maximum, and
   no other group holds a larger one [1]. Groups and, later, columns are ordered by a 64-bit key (score, then smaller
   index), so that ties end where a stable sort would end them, whatever their number.
3. A second kernel scores the k * 32 columns of those groups again, and the same key picks the best.

Both kernels multiply at the same precision; columns whose scores differ by less than its rounding may change places, as
under any GEMM, while equal rows of y always score equally. Left-out pairs never enter a group's maximum. Columns are
processed in slices that merge; no kernel is specialised to M, N or k.

Memory: ``workspace_bytes``, through blocks of rows and columns.

[1] The bound of Chern et al., TPU-KNN, arXiv:2206.14286, made exact by scoring the surviving groups again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.accumulate import WORKSPACE_BYTES
from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pairs import Pairs, blocks
from simtile.kernels.tile import dot_tile, leave_out, tile_position

# Columns whose maximum is kept. Smaller: more maxima to sort through; larger: more columns to score again.
GROUPED = 32
_COLUMNS = 1 << 22  # of one slice: 1M maxima of 32 columns a row are 12 MB with their keys


class TopK(NamedTuple):
    """The best scores of each row, descending, ties by the smaller column; padded with -inf and -1."""

    scores: Tensor  # (M, k) float32
    ids: Tensor  # (M, k) int64


@triton.jit
def _column_scores(dot, y_scale, y_bias, rn, N):
    """Scores of dot products (., BLOCK_N)."""
    if y_scale is not None:
        dot = dot * tl.load(y_scale + rn, mask=rn < N, other=0.0)[None, :]
    if y_bias is not None:
        dot = dot + tl.load(y_bias + rn, mask=rn < N, other=0.0)[None, :]
    return dot


@triton.jit(do_not_specialize=["M", "N", "groups"])
def _group_max_kernel(
    x,  # (M, D)
    y,  # (N, D), of x's type or int8
    terms,
    y_scale,  # (N,) float32 or None
    y_bias,  # (N,) float32 or None
    maxima,  # (M, groups) float32
    M,
    N,
    D,
    groups,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile_m, tile_n = tile_position(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    rm = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tile_m * tl.cdiv(N, BLOCK_N) + tile_n
    s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    s = _column_scores(s, y_scale, y_bias, rn, N)
    s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, "exclude", PRECISION)
    best = tl.max(tl.reshape(s, (BLOCK_M, BLOCK_N // GROUPED, GROUPED)), 2)
    group = tile_n * (BLOCK_N // GROUPED) + tl.arange(0, BLOCK_N // GROUPED)
    at = maxima + rm.to(tl.int64)[:, None] * groups + group[None, :]
    tl.store(at, best, mask=(rm < M)[:, None] & (group < groups)[None, :])


@triton.jit(do_not_specialize=["N", "chosen_count"])
def _rescore_kernel(
    x,  # (M, D)
    y,  # (N, D)
    y_scale,
    y_bias,
    chosen,  # (M, chosen_count) int64 groups
    out,  # (M, chosen_count, GROUPED) float32
    N,
    D,
    chosen_count,
    stride_x,
    stride_y,
    GROUPED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One row against one group. The row fills all 16 rows that the smallest matrix instruction has."""
    row = tl.program_id(0)
    slot = row.to(tl.int64) * chosen_count + tl.program_id(1)
    rm = tl.zeros((16,), tl.int32)
    rn = tl.load(chosen + slot).to(tl.int32) * GROUPED + tl.arange(0, GROUPED)
    own = x + row.to(tl.int64) * stride_x
    s = dot_tile(own, y, rm, rn, 1, N, D, stride_x, stride_y, 16, GROUPED, BLOCK_K, PRECISION)
    s = _column_scores(s, y_scale, y_bias, rn, N)
    s = tl.where((rn < N)[None, :], s, float("-inf"))
    tl.store(out + slot * GROUPED + tl.arange(0, GROUPED), tl.max(s, 0))


def pair_topk_fwd(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    y_scale: Tensor | None = None,
    y_bias: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    launch: Launch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    slice_columns: int = _COLUMNS,
) -> TopK:
    """The k best columns of each row of x (M, D) among y (N, D), which has x's type or is int8 with ``y_scale``.

    ``exclude`` is a CSR pattern (indptr, indices) of the columns left out of each row. Worth its two passes where N is
    much larger than 32 * k; below, plain scores and ``torch.topk`` are less work.
    """
    pairs = Pairs.of(x, y, exclude=exclude)
    M, N = pairs.M, pairs.N
    scale, bias = (None if part is None else part.detach().float().contiguous() for part in (y_scale, y_bias))
    excluded = None
    if pairs.excluded is not None:
        excluded = torch.sort(pairs.excluded[0] * N + pairs.excluded[1]).values
    best = TopK(
        torch.full((M, k), float("-inf"), device=x.device), torch.full((M, k), -1, dtype=torch.int64, device=x.device)
    )
    # Of a row: a float32 and an int64 for each group and for each column that is scored again.
    row_bytes = 12 * (triton.cdiv(min(N, slice_columns), GROUPED) + 2 * k * GROUPED)
    for m, height, n, width in blocks(M, N, max(1, workspace_bytes // row_bytes), slice_columns):
        block = pairs.block(m, height, n, width)
        columns = tuple(None if part is None else part[n : n + width] for part in (scale, bias))
        scores, ids = _candidates(block, k, columns, launch or pick("pair_topk_few" if M <= 16 else "pair_topk", block))
        if excluded is not None and excluded.shape[0]:
            at = (torch.arange(m, m + height, device=x.device) * N)[:, None] + ids
            found = excluded[torch.searchsorted(excluded, at).clamp_(max=excluded.shape[0] - 1)] == at
            scores.masked_fill_(found, float("-inf"))
        rows = slice(m, m + height)
        merged = best_of(torch.cat([best.scores[rows], scores], 1), torch.cat([best.ids[rows], ids], 1), k)
        best.scores[rows], best.ids[rows] = merged
    return best


def best_of(scores: Tensor, ids: Tensor, k: int) -> TopK:
    """The k best of candidates (M, C), C >= k, by (score, smaller id); ids below 2**32."""
    _, order = torch.topk(_keys(scores, ids), k, dim=1)
    top = scores.gather(1, order)
    return TopK(top, ids.gather(1, order).masked_fill_(top == float("-inf"), -1))


def _keys(scores: Tensor, ids: Tensor) -> Tensor:
    """int64 keys that order float32 scores first and then the smaller id; no two are equal."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | (0xFFFFFFFF - ids.clamp(min=0))


def _candidates(pairs: Pairs, k: int, columns: tuple[Tensor | None, ...], launch: Launch) -> tuple[Tensor, Tensor]:
    """Scores (M, C) and columns (M, C) int64, counted over the whole job, of the groups that hold the k best."""
    x, y, M, N = pairs.x, pairs.y, pairs.M, pairs.N
    groups = triton.cdiv(N, GROUPED)
    maxima = torch.empty((M, groups), dtype=torch.float32, device=x.device)
    shape: dict[str, Any] = {"BLOCK_K": launch.block_k, "PRECISION": precision(x), **launch.options}
    grid = (triton.cdiv(M, launch.block_m) * triton.cdiv(N, launch.block_n),)
    numbers = torch.arange(groups, device=x.device).expand(M, groups)
    with torch.cuda.device_of(x):
        if groups <= k:
            chosen = numbers.contiguous()
        else:
            _group_max_kernel[grid](
                x, y, pairs.terms(launch), *columns, maxima, M, N, pairs.D, groups, x.stride(0), y.stride(0),
                BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, GROUP=launch.group, GROUPED=GROUPED, **shape,
            )  # fmt: skip
            chosen = torch.topk(_keys(maxima, numbers), k, dim=1, sorted=False).indices
        scores = torch.empty((M, chosen.shape[1], GROUPED), dtype=torch.float32, device=x.device)
        shape |= {"num_warps": 2}
        _rescore_kernel[(M, chosen.shape[1])](
            x, y, *columns, chosen, scores, N, pairs.D, chosen.shape[1], x.stride(0), y.stride(0),
            GROUPED=GROUPED, **shape,
        )  # fmt: skip
    ids = chosen[:, :, None] * GROUPED + torch.arange(GROUPED, device=x.device)
    return scores.flatten(1), ids.flatten(1) + pairs.first_column
