"""Device side of every pair kernel: one tile of scores in registers.

    s[i, j] = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]        -inf where pair (i, j) is left out

Scores stay in natural units. In base 2 an exponential would save one multiply of several thousand instructions a
thread, and the two roundings by log2(e) cost up to three times plain torch's error in gradients at scale 100.
Everything optional is a field of :class:`Terms`; an absent field is None, which Triton knows at compile time, so a
kernel is specialised to the rules in use and pays for no others. Its host side is :mod:`simtile.kernels.pairs`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Terms(NamedTuple):
    """What makes a score of a dot product, and which pairs are left out. Indices count from the block's corner."""

    scale: Any  # () float32, on the device: never read by the host
    x_bias: Any = None  # (M,) float32
    y_bias: Any = None  # (N,) float32
    x_ids: Any = None  # (M,) integers
    y_ids: Any = None  # (N,)
    skip: Any = None  # int: pairs (i, i + skip) are left out
    flip: Any = None  # int: the scores of pairs (i, i + flip) change their sign
    threshold: Any = None  # (M,) float32: pairs above it are left out
    guide_x: Any = None  # (M, guide_dim): the threshold is compared with <guide_x[i], guide_y[j]> instead of the score
    guide_y: Any = None  # (N, guide_dim)
    guide_dim: Any = None  # int
    list_ptr: Any = None  # (tiles + 1,) int32: left-out pairs, grouped by tile (row-major tile number)
    list_row: Any = None  # (nnz,) int32
    list_col: Any = None  # (nnz,) int32


@triton.jit
def tile_position(index, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Tile numbers (row, column) of a program: GROUP rows of tiles at a time, so that their inputs stay in L2."""
    rows = tl.cdiv(M, BLOCK_M)
    columns = tl.cdiv(N, BLOCK_N)
    first = (index // (GROUP * columns)) * GROUP
    height = min(rows - first, GROUP)
    within = index % (GROUP * columns)
    return first + within % height, within // height


@triton.jit
def dot_range(
    dot,  # (BLOCK_M, BLOCK_N) float32, is added to
    x,  # (M, .)
    y,  # (N, .), of x's type or int8
    rm,
    rn,
    M,
    N,
    begin,
    end,
    stride_x,
    stride_y,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds the dot products over coordinates begin..end-1. Rows past the end repeat row 0: the caller masks them."""
    rk = tl.arange(0, BLOCK_K)
    # int64 before the product with a stride: M * D passes 2**31 at 16M rows of 128.
    x_at = x + tl.where(rm < M, rm, 0).to(tl.int64)[:, None] * stride_x + (begin + rk)[None, :]
    y_at = y + tl.where(rn < N, rn, 0).to(tl.int64)[None, :] * stride_y + (begin + rk)[:, None]
    for k in tl.range(begin, end, BLOCK_K):
        inside = rk < end - k
        a = tl.load(x_at, mask=inside[None, :], other=0)
        b = tl.load(y_at, mask=inside[:, None], other=0)
        dot = tl.dot(a, b.to(a.dtype), dot, input_precision=PRECISION)
        x_at += BLOCK_K
        y_at += BLOCK_K
    return dot


@triton.jit
def dot_tile(
    x,
    y,
    rm,
    rn,
    M,
    N,
    D,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BLOCK_M, BLOCK_N) float32 dot products of whole rows."""
    dot = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    return dot_range(dot, x, y, rm, rn, M, N, 0, D, stride_x, stride_y, BLOCK_K, PRECISION)


@triton.jit
def meets_diagonal(first_m, first_n, diagonal, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Whether a tile holds pairs (i, i + diagonal)."""
    return (first_n < first_m + diagonal + BLOCK_M) & (first_m + diagonal < first_n + BLOCK_N)


@triton.jit
def flipped(s, terms, rm, rn, M, N, IDS_MODE: tl.constexpr):
    """Scores whose sign changes on the flipped diagonal and, in mode "flip", between equal ids; twice is none."""
    if terms.x_ids is not None:
        if IDS_MODE == "flip":
            equal = same_ids(terms, rm, rn, M, N)
            if terms.flip is not None:
                equal = equal | ((rm + terms.flip)[:, None] == rn[None, :])
            return tl.where(equal, -s, s)
    if terms.flip is not None:
        return tl.where((rm + terms.flip)[:, None] == rn[None, :], -s, s)
    return s


@triton.jit
def leave_out(
    s,  # (BLOCK_M, BLOCK_N) scores
    terms,
    tile,  # row-major number of the tile, for the lists
    rm,
    rn,
    M,
    N,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """-inf at the pairs that ids, diagonal, threshold or lists leave out, and past the matrix's edge."""
    first_m = tl.min(rm, 0)
    first_n = tl.min(rn, 0)
    # Scalar branches: only the tiles at an edge, or on the diagonal, pay for the comparison.
    if (first_m + BLOCK_M > M) | (first_n + BLOCK_N > N):
        s = tl.where((rm < M)[:, None] & (rn < N)[None, :], s, float("-inf"))
    if terms.skip is not None:
        if meets_diagonal(first_m, first_n, terms.skip, BLOCK_M, BLOCK_N):
            s = tl.where((rm + terms.skip)[:, None] == rn[None, :], float("-inf"), s)
    if terms.x_ids is not None:
        if IDS_MODE != "flip":
            equal = same_ids(terms, rm, rn, M, N)
            if IDS_MODE == "only":
                s = tl.where(equal, s, float("-inf"))
            else:
                s = tl.where(equal, float("-inf"), s)
    if terms.threshold is not None:
        limit = tl.load(terms.threshold + rm, mask=rm < M, other=0.0)
        if terms.guide_x is not None:
            g = terms.guide_dim
            guide = dot_tile(terms.guide_x, terms.guide_y, rm, rn, M, N, g, g, g, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
            s = tl.where(guide > limit[:, None], float("-inf"), s)
        else:
            s = tl.where(s > limit[:, None], float("-inf"), s)
    if terms.list_ptr is not None:
        for entry in tl.range(tl.load(terms.list_ptr + tile), tl.load(terms.list_ptr + tile + 1)):
            row = tl.load(terms.list_row + entry)
            column = tl.load(terms.list_col + entry)
            s = tl.where((rm == row)[:, None] & (rn == column)[None, :], float("-inf"), s)
    return s


@triton.jit
def same_ids(terms, rm, rn, M, N):
    """(BLOCK_M, BLOCK_N), true where a row and a column carry the same id."""
    x_ids = tl.load(terms.x_ids + rm, mask=rm < M, other=0)
    y_ids = tl.load(terms.y_ids + rn, mask=rn < N, other=0)
    return x_ids[:, None] == y_ids[None, :]


@triton.jit
def all_scores(dot, terms, rm, rn, M, N):
    """(BLOCK_M, BLOCK_N) scores of dot products, those of left-out pairs included."""
    s = dot * tl.load(terms.scale)
    if terms.x_bias is not None:
        s += tl.load(terms.x_bias + rm, mask=rm < M, other=0.0)[:, None]
    if terms.y_bias is not None:
        s += tl.load(terms.y_bias + rn, mask=rn < N, other=0.0)[None, :]
    return s


@triton.jit
def scores(
    dot,  # (BLOCK_M, BLOCK_N) float32
    terms,
    tile,
    rm,
    rn,
    M,
    N,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of a tile of dot products, -inf where a pair is left out."""
    s = all_scores(dot, terms, rm, rn, M, N)
    return leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
