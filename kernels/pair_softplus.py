"""Sum of softplus over each row's pairs (SigLIP), with its gradient made in the forward pass: three GEMMs in all.

    rows[i] = sum_j softplus(s[i, j]) = sum_j log(1 + exp(s[i, j]))       (M,)
    P[i, j] = weight[i] * sigmoid(s[i, j])                                (M, N), lives in a bounded workspace

The coefficient of a pair needs no other pair, so one kernel leaves the row sums and, where gradients are wanted, P; two
plain GEMMs follow [1]. Positives are pairs whose sign flips: softplus(-s) and -sigmoid(-s), on the diagonal or between
equal ids (several positives). softplus(s) = max(s, 0) + log1p(exp(-|s|)), and log1p of a value in (0, 1] is a
polynomial: the ``log`` of 1 + u loses the digits of a small u, and those are nearly all pairs under SigLIP's bias.

[1] Zhai et al., Sigmoid loss for language image pre-training, arXiv:2303.15343.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
from simtile.kernels.partial_sums import PARTIALS_BYTES, partials_block
from simtile.kernels.tile import all_scores, dot_tile, flipped, leave_out, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack


@triton.jit
def log1p_unit(u):
    """log(1 + u) for u in [0, 1] to 2e-7 of itself: u times the degree-8 minimax polynomial of log1p(u) / u."""
    p = 0.005232669413089752 * u - 0.029505137354135513
    p = p * u + 0.07822578400373459
    p = p * u - 0.1366323083639145
    p = p * u + 0.19105999171733856
    p = p * u - 0.2484298050403595
    p = p * u + 0.3331909775733948
    p = p * u - 0.4999949336051941
    p = p * u + 0.9999999403953552
    return u * p


@triton.jit(do_not_specialize=["M", "N"])
def _pair_softplus_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    row_sum,  # (N / BLOCK_N, M) float32 partials
    row_coef,  # (M,) float32, with out; both None: no gradient
    out,  # (M, N) coefficients
    M,
    N,
    D,
    stride_x,
    stride_y,
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
    s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    s = flipped(all_scores(s, terms, rm, rn, M, N), terms, rm, rn, M, N, IDS_MODE)
    s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
    u = tl.exp(-tl.abs(s))
    if out is not None:
        p = tl.where(s > 0, 1.0, u) / (1.0 + u)
        p = flipped(p, terms, rm, rn, M, N, IDS_MODE) * tl.load(row_coef + rm, mask=rm < M, other=0.0)[:, None]
        at = out + rm.to(tl.int64)[:, None] * stride_out + rn[None, :]
        tl.store(at, p.to(out.dtype.element_ty), mask=(rm < M)[:, None] & (rn < N)[None, :])
    sums = tl.sum(tl.maximum(s, 0.0) + log1p_unit(u), 1)
    tl.store(row_sum + tile_n.to(tl.int64) * M + rm, sums, mask=rm < M)


class PairSoftplus(NamedTuple):
    """Row sums, not weighted, and the gradients of Σ weight * rows; None unless they were asked for."""

    rows: Tensor  # (M,) float32
    grads: PairGrads | None


def pair_softplus_fwd(
    x: Tensor,
    y: Tensor,
    *,
    weight: Tensor | None = None,
    wanted: Wanted | None = None,
    launch: Launch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    **options: Unpack[PairOptions],
) -> PairSoftplus:
    """Row sums (M,) of softplus over the kept pairs, and the gradients of their weighted sum.

    ``weight`` (M,) is d total / d rows_i, 1 / M for a mean; default 1. ``wanted`` None: no gradient work, one GEMM.
    """
    pairs = Pairs.of(x, y, **options)
    launch = launch or pick("pair_softplus", pairs)
    rows = torch.zeros(pairs.M, dtype=torch.float32, device=x.device)
    if wanted is None:
        for m, height, n, width in blocks(pairs.M, pairs.N, *partials_block(pairs.M, pairs.N, launch, PARTIALS_BYTES)):
            rows[m : m + height] += _block_sums(pairs.block(m, height, n, width), None, None, launch)
        return PairSoftplus(rows, None)

    weight = torch.ones_like(rows) if weight is None else weight
    unit = coefficient_unit(x.dtype, weight)
    coefficient = scaled(weight, unit)
    total = GradientSum(pairs, wanted)
    space = workspace(pairs, workspace_bytes)
    for m, height, n, width in blocks(pairs.M, pairs.N, *space.shape):
        own, out = slice(m, m + height), space[:height, :width]
        rows[own] += _block_sums(pairs.block(m, height, n, width), coefficient[own], out, launch)
        total.add(out, m, n)
    return PairSoftplus(rows, total.finish(unit))


def _block_sums(pairs: Pairs, coefficient: Tensor | None, out: Tensor | None, launch: Launch) -> Tensor:
    """Row sums (M,) of a block, whose coefficients fill ``out`` (M, N)."""
    tiles_m, tiles_n = triton.cdiv(pairs.M, launch.block_m), triton.cdiv(pairs.N, launch.block_n)
    row_sum = torch.empty((tiles_n, pairs.M), dtype=torch.float32, device=pairs.x.device)
    with torch.cuda.device_of(pairs.x):
        _pair_softplus_kernel[(tiles_m * tiles_n,)](
            pairs.x, pairs.y, pairs.terms(launch), row_sum, coefficient, out,
            pairs.M, pairs.N, pairs.D, pairs.x.stride(0), pairs.y.stride(0), 0 if out is None else out.stride(0),
            BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_K=launch.block_k, GROUP=launch.group,
            IDS_MODE=pairs.ids_mode, PRECISION=precision(pairs.x), **launch.options,
        )  # fmt: skip
    return row_sum.sum(0)
