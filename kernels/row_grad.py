"""Gradient of row and column log-sum-exp for narrow features, without a workspace: dX stays in registers.

    P[i, j] = g[i] * exp(s[i, j] - row[i]) + h[j] * exp(s[i, j] - column[j])
    dX[i]   = scale * sum_j P[i, j] y[j]                  a program owns rows i and walks over all j

A second launch with the sides exchanged makes dY, so that s is computed twice: five GEMMs in all instead of the four of
:mod:`simtile.kernels.pair_grad`, but P never leaves the registers, which there costs six bytes a pair and 16-bit
product. The accumulator (BLOCK_M, D) caps D at 256: beyond, its tile would be lower than a tensor-core instruction.

Jobs whose exclusions are not symmetric in form (lists, limits) belong to pair_grad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.accumulate import PairGrads, Wanted
from simtile.kernels.launch import Launch, Op, pick, precision
from simtile.kernels.pair_grad import probabilities
from simtile.kernels.pairs import PairOptions, Pairs
from simtile.kernels.tile import meets_diagonal, scores

if TYPE_CHECKING:
    from typing_extensions import Unpack

WIDEST = 256


@triton.jit(do_not_specialize=["M", "N"])
def _row_grad_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    row_lse,  # (M,) float32, with row_coef; both None for a column loss
    row_coef,
    column_lse,  # (N,), with column_coef; both None for a row loss
    column_coef,
    diagonal_coef,  # (min(M, N),) is added to the coefficients of the pairs (i, i); or None
    out,  # (M, D) float32, sum_j P y
    M,
    N,
    D,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rm = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rd = tl.arange(0, BLOCK_D)
    a = tl.load(
        x + tl.where(rm < M, rm, 0).to(tl.int64)[:, None] * stride_x + rd[None, :], mask=(rd < D)[None, :], other=0
    )
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in tl.range(0, N, BLOCK_N):
        rn = first + tl.arange(0, BLOCK_N)
        b = tl.load(
            y + tl.where(rn < N, rn, 0).to(tl.int64)[:, None] * stride_y + rd[None, :], mask=(rd < D)[None, :], other=0
        )
        s = tl.dot(a, tl.trans(b), input_precision=PRECISION)
        s = scores(s, terms, 0, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_D, IDS_MODE, PRECISION)
        if row_lse is not None:
            p = probabilities(s, row_lse, row_coef, rm, M, 1)
            if column_lse is not None:
                p += probabilities(s, column_lse, column_coef, rn, N, 0)
        else:
            p = probabilities(s, column_lse, column_coef, rn, N, 0)
        if diagonal_coef is not None:
            if meets_diagonal(tl.program_id(0) * BLOCK_M, first, 0, BLOCK_M, BLOCK_N):
                own = tl.load(diagonal_coef + rm, mask=(rm < M) & (rm < N), other=0.0)
                p += tl.where(rm[:, None] == rn[None, :], own[:, None], 0.0)
        total = tl.dot(p.to(b.dtype), b, total, input_precision=PRECISION)
    tl.store(out + rm.to(tl.int64)[:, None] * D + rd[None, :], total, mask=(rm < M)[:, None] & (rd < D)[None, :])


def narrow_lse_bwd(
    x: Tensor,
    y: Tensor,
    *,
    row: Tensor | None = None,
    column: Tensor | None = None,
    grad_row: Tensor | None = None,
    grad_column: Tensor | None = None,
    diagonal: Tensor | None = None,
    wanted: Wanted | None = None,
    launch: Launch | None = None,
    **options: Unpack[PairOptions],
) -> PairGrads:
    """As :func:`simtile.kernels.pair_grad.pair_lse_bwd`, for bfloat16 inputs with D up to WIDEST.

    float32 inputs have no tensor cores to feed unless torch allows TF32, float16's coefficients would need a unit, and
    gradients of biases the coefficients themselves: these are left to ``pair_lse_bwd``, as are ``exclude``,
    ``threshold`` and ``guide``.
    """
    pairs = Pairs.of(x, y, **options)
    wanted = wanted or Wanted()
    rows = None if row is None or grad_row is None else (row, grad_row.detach().float().contiguous())
    columns = None if column is None or grad_column is None else (column, grad_column.detach().float().contiguous())
    own = None if diagonal is None else diagonal.detach().float().contiguous()
    left = _product(pairs, rows, columns, own, launch) if wanted.left_product else None
    right = _product(pairs.exchanged(), columns, rows, own, launch) if wanted.y else None
    scale_grad = None
    if wanted.scale:
        features, product = (pairs.x, left) if left is not None else (pairs.y, right)
        assert product is not None
        scale_grad = torch.einsum("md,md->", features.float(), product)
    return PairGrads(
        x=(left * pairs.scale).to(x.dtype) if left is not None and wanted.x else None,
        y=(right * pairs.scale).to(x.dtype) if right is not None else None,
        scale=scale_grad,
        x_bias=None,
        y_bias=None,
    )


def _product(
    pairs: Pairs,
    row: tuple[Tensor, Tensor] | None,
    column: tuple[Tensor, Tensor] | None,
    diagonal: Tensor | None,
    launch: Launch | None,
) -> Tensor:
    """(M, D) float32 P Y; ``row`` and ``column`` are (log-sum-exp, its gradient)."""
    out = torch.zeros((pairs.M, pairs.D), dtype=torch.float32, device=pairs.x.device)
    if (row is None and column is None) or pairs.N == 0:
        return out
    width = max(16, triton.next_power_of_2(pairs.D))
    launch = launch or pick(row_grad_op(width), pairs)
    with torch.cuda.device_of(out):
        _row_grad_kernel[(triton.cdiv(pairs.M, launch.block_m),)](
            pairs.x, pairs.y, pairs.terms(launch), *(row or (None, None)), *(column or (None, None)), diagonal, out,
            pairs.M, pairs.N, pairs.D, pairs.x.stride(0), pairs.y.stride(0), BLOCK_M=launch.block_m,
            BLOCK_N=launch.block_n, BLOCK_D=width, IDS_MODE=pairs.ids_mode, PRECISION=precision(pairs.x),
            **launch.options,
        )  # fmt: skip
    return out


def row_grad_op(width: int) -> Op:
    """The launch table's entry for features of that padded width."""
    return "row_grad_64" if width <= 64 else "row_grad_128" if width <= 128 else "row_grad_256"
