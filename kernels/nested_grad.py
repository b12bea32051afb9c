"""Gradient of the log-sum-exp of several prefixes (Matryoshka): every block of coordinates is multiplied once.

Coordinates between d_{k-1} and d_k take part in every prefix from k on, with c_k as in
:mod:`simtile.kernels.nested_lse`:

    P_k[i, j] = g_k[i] * exp(scale * c_k - row[k, i]) + h_k[j] * exp(scale * c_k - column[k, j])
    dX[:, d_{k-1}:d_k] = scale * (sum_{l >= k} P_l / (|x_l| |y_l|)) Y[:, d_{k-1}:d_k] - projection
    projection[i]      = scale * (sum_{l >= k} r_l[i] / |x_l|^2) x[i, d_{k-1}:d_k],  r_l[i] = sum_j P_l c_l

So the coefficients are summed from the last prefix down, and a two-sided loss costs four GEMMs for all prefixes
together: one forward, one to make the coefficients again, two for the products. The tiles leave the partial sums of r.

Memory: ``workspace_bytes``, which K coefficients a pair share, and float32 sums of the gradients' sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.accumulate import (
    WORKSPACE_BYTES,
    PairGrads,
    Wanted,
    add_product,
    aligned,
    gradient_type,
    workspace_shape,
)
from simtile.kernels.launch import FUSED, Launch, pick
from simtile.kernels.nested_lse import Prefixes, alignment, ascending, divided, shape_arguments, tile_arguments
from simtile.kernels.pair_grad import probabilities
from simtile.kernels.pairs import PairOptions, Pairs, blocks
from simtile.kernels.tile import dot_range, leave_out, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack


@triton.jit(do_not_specialize=["M", "N", "prefixes"])
def _nested_grad_kernel(
    x,
    y,
    terms,
    bounds,
    inv_x,
    inv_y,
    row_lse,  # (prefixes, M) with row_coef; both None for a column loss
    row_coef,
    column_lse,  # (prefixes, N) with column_coef; both None for a row loss
    column_coef,
    row_dot,  # (prefixes, N / BLOCK_N, M) partial sums of P * cosine
    column_dot,  # (prefixes, M / BLOCK_M, N)
    out,  # (prefixes, M, stride_out) P / (|x| |y|)
    stride_out,
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
        if row_lse is not None:
            p = probabilities(s, row_lse + k * M, row_coef + k * M, rm, M, 1)
            if column_lse is not None:
                p += probabilities(s, column_lse + k * N, column_coef + k * N, rn, N, 0)
        else:
            p = probabilities(s, column_lse + k * N, column_coef + k * N, rn, N, 0)
        p = divided(p, 1.0, inv_x, inv_y, k, rm, rn, M, N)
        p_dot = p * dot
        tl.store(row_dot + (k * tiles_n + tile_n) * M + rm, tl.sum(p_dot, 1), mask=rm < M)
        tl.store(column_dot + (k * tiles_m + tile_m) * N + rn, tl.sum(p_dot, 0), mask=rn < N)
        # The address is made anew for each prefix: kept over the loop it would cost two registers a pair.
        at = out + (k * M.to(tl.int64) + rm)[:, None] * stride_out + rn[None, :]
        tl.store(at, p.to(out.dtype.element_ty), mask=(rm < M)[:, None] & (rn < N)[None, :])


@triton.jit(do_not_specialize=["size", "prefixes"])
def _suffix_sum_kernel(
    values,  # (prefixes, size), summed in place from the last prefix down
    size,
    prefixes,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    at = values + at + (prefixes - 1) * size.to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in tl.range(0, prefixes):
        total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, total.to(values.dtype.element_ty), mask=inside)
        at -= size


def nested_lse_bwd(
    x: Tensor,
    y: Tensor,
    dims: Sequence[int],
    *,
    row: Tensor | None = None,
    column: Tensor | None = None,
    grad_row: Tensor | None = None,
    grad_column: Tensor | None = None,
    normalize: bool = True,
    wanted: Wanted | None = None,
    launch: Launch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    **options: Unpack[PairOptions],
) -> PairGrads:
    """Gradients of Σ grad_row * row + Σ grad_column * column, (K, M) and (K, N) in the order of ``dims``.

    Of x, y and the scale. float16 inputs are multiplied in float32: a coefficient divided by two prefix norms may
    leave float16's range. Coordinates past the longest prefix get a gradient of 0.
    """
    pairs = Pairs.of(x, y, **options)
    launch = launch or pick("nested_grad", pairs)
    wanted = wanted or Wanted()
    prefixes, order = ascending(pairs, dims, normalize)
    K = len(dims)
    rows = None if row is None or grad_row is None else (row[order], grad_row[order].float())
    columns = None if column is None or grad_column is None else (column[order], grad_column[order].float())
    sums = _NestedSum(pairs, prefixes, sorted(dims), wanted)
    product_type = torch.float32 if x.dtype == torch.float16 else x.dtype
    height, width = workspace_shape(pairs.M, pairs.N, product_type.itemsize * max(K, 1), workspace_bytes)
    space = aligned(K * height, width, product_type, x.device)
    for m, h, n, w in blocks(pairs.M, pairs.N, height, width) if rows or columns else ():
        block, bounds = pairs.block(m, h, n, w), prefixes.block(m, h, n, w)
        own = [None if part is None else part[:, m : m + h].contiguous() for part in rows or (None, None)]
        other = [None if part is None else part[:, n : n + w].contiguous() for part in columns or (None, None)]
        tiles_m, tiles_n = triton.cdiv(h, launch.block_m), triton.cdiv(w, launch.block_n)
        row_dot, column_dot = (torch.empty(s, device=x.device) for s in ((K, tiles_n, h), (K, tiles_m, w)))
        out = space[: K * h, :w]
        with torch.cuda.device_of(x):
            _nested_grad_kernel[(tiles_m * tiles_n,)](
                block.x, block.y, block.terms(launch), *bounds, *own, *other, row_dot, column_dot, out,
                out.stride(0), *shape_arguments(block, K),
                GROUP=launch.group, ALIGNED=alignment(dims), **tile_arguments(block, launch),
            )  # fmt: skip
            size = h * out.stride(0)  # what lies between the rows is summed as well, and not used
            _suffix_sum_kernel[(triton.cdiv(size, 1024),)](out, size, K, BLOCK=1024, **FUSED)
        sums.add(out.unflatten(0, (K, h)), row_dot.sum(1), column_dot.sum(1), m, n)
    return sums.finish()


class _NestedSum:
    """Adds up blocks of suffix-summed coefficients, one range of coordinates a prefix."""

    def __init__(self, pairs: Pairs, prefixes: Prefixes, dims: list[int], wanted: Wanted) -> None:
        self._pairs, self._prefixes, self._wanted = pairs, prefixes, wanted
        self._ranges = [slice(begin, end) for begin, end in zip([0, *dims[:-1]], dims, strict=True)]
        new: dict[str, Any] = {"dtype": torch.float32, "device": pairs.x.device}
        self._x = torch.zeros((pairs.M, pairs.D), **new) if wanted.x else None
        self._y = torch.zeros((pairs.N, pairs.D), **new) if wanted.y else None
        self._row_dot = torch.zeros((len(dims), pairs.M), **new)
        self._column_dot = torch.zeros((len(dims), pairs.N), **new)

    def add(self, coefficients: Tensor, row_dot: Tensor, column_dot: Tensor, row: int, column: int) -> None:
        """Adds the block (K, rows, columns) at (row, column), and its sums of P * cosine."""
        m = slice(row, row + coefficients.shape[1])
        n = slice(column, column + coefficients.shape[2])
        self._row_dot[:, m] += row_dot
        self._column_dot[:, n] += column_dot
        dtype = coefficients.dtype
        for block, part in zip(coefficients, self._ranges, strict=True):
            if part.start == part.stop:
                continue
            if self._x is not None:
                add_product(self._x[m, part], block, self._pairs.y[n, part].to(dtype))
            if self._y is not None:
                add_product(self._y[n, part], block.mT, self._pairs.x[m, part].to(dtype))

    def finish(self) -> PairGrads:
        """The gradients, the norms' projections taken off."""
        for total, features, dots, inverse in (
            (self._x, self._pairs.x, self._row_dot, self._prefixes.inv_x),
            (self._y, self._pairs.y, self._column_dot, self._prefixes.inv_y),
        ):
            if total is not None and inverse is not None:
                # From the last prefix down, as the coefficients.
                weights = itertools.accumulate(reversed((dots * inverse.square()).unbind()))
                for weight, part in zip(weights, reversed(self._ranges), strict=True):
                    total[:, part] -= weight[:, None] * features[:, part].float()
                _make_orthogonal(total, features, self._ranges)
        scale, wanted = self._pairs.scale, self._wanted
        dtype = gradient_type(self._pairs.x.dtype)
        return PairGrads(
            x=None if self._x is None else (self._x * scale).to(dtype),
            y=None if self._y is None else (self._y * scale).to(dtype),
            scale=self._row_dot.sum() if wanted.scale else None,
            x_bias=None,
            y_bias=None,
        )


def _make_orthogonal(gradient: Tensor, features: Tensor, ranges: list[slice]) -> None:
    """Takes off what roundings left of the gradient (rows, D) along its own row, in place.

    A cosine does not change with the length of x[i], so its gradient is orthogonal to x[i]. Plain torch, which projects
    each prefix's gradient, has no error in that direction; a projection whose coefficients come from other sums than
    the products has all of it. The ranges share the rest by their mean squares, as they do the products' roundings.
    """
    rest = torch.zeros_like(gradient[:, 0])
    size = torch.full_like(rest, torch.finfo(torch.float32).tiny)  # rows of zeros: 0 / size
    shares = []
    for part in ranges:
        g, x = gradient[:, part], features[:, part].float()
        shares.append(torch.einsum("md,md->m", g, g) / max(part.stop - part.start, 1))
        rest += torch.einsum("md,md->m", g, x)
        size += shares[-1] * torch.einsum("md,md->m", x, x)
    for part, share in zip(ranges, shares, strict=True):
        gradient[:, part] -= (rest / size * share)[:, None] * features[:, part].float()
