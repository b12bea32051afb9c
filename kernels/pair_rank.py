"""How many columns of a row score above a target, and how many equal it: in-batch accuracy and recall without logits.

    above[i] = |{j : s[i, j] > target[i]}|      equal[i] = |{j : s[i, j] = target[i]}|      (M,) int64, kept pairs only

Without a given target it is the row's own score s[i, i]. That score comes from tiles of the same shape and precision as
all others, so a duplicate of the own column counts as equal, not as above by a rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from simtile.kernels.launch import Launch, pick, precision
from simtile.kernels.pairs import PairOptions, Pairs, blocks
from simtile.kernels.partial_sums import PARTIALS_BYTES, partials_block
from simtile.kernels.tile import all_scores, dot_tile, leave_out, meets_diagonal, tile_position

if TYPE_CHECKING:
    from typing_extensions import Unpack


@triton.jit(do_not_specialize=["M", "N", "diagonal"])
def _pair_rank_kernel(
    x,  # (M, D)
    y,  # (N, D)
    terms,
    target,  # (M,) float32; with OWN it is written instead, from the tiles on the diagonal
    above,  # (N / BLOCK_N, M) int32 partial counts; None with OWN
    equal,
    diagonal,
    M,
    N,
    D,
    stride_x,
    stride_y,
    OWN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    IDS_MODE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile_m, tile_n = tile_position(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    first_n = tile_n * BLOCK_N
    if OWN and not meets_diagonal(tile_m * BLOCK_M, first_n, diagonal, BLOCK_M, BLOCK_N):
        return
    rm = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = first_n + tl.arange(0, BLOCK_N)
    s = dot_tile(x, y, rm, rn, M, N, D, stride_x, stride_y, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
    s = all_scores(s, terms, rm, rn, M, N)
    if OWN:
        rd = rm + diagonal
        own = tl.sum(tl.where(rd[:, None] == rn[None, :], s, 0.0), 1)
        tl.store(target + rm, own, mask=(rm < M) & (rd >= first_n) & (rd < tl.minimum(first_n + BLOCK_N, N)))
    else:
        tile = tile_m * tl.cdiv(N, BLOCK_N) + tile_n
        s = leave_out(s, terms, tile, rm, rn, M, N, BLOCK_M, BLOCK_N, BLOCK_K, IDS_MODE, PRECISION)
        limit = tl.load(target + rm, mask=rm < M, other=0.0)[:, None]
        at = tile_n.to(tl.int64) * M + rm
        # -inf marks what is left out: never above, and equal only to a target of -inf.
        tl.store(above + at, tl.sum((s > limit).to(tl.int32), 1), mask=rm < M)
        tl.store(equal + at, tl.sum(((s == limit) & (s > float("-inf"))).to(tl.int32), 1), mask=rm < M)


def pair_rank_fwd(
    x: Tensor, y: Tensor, target: Tensor | None = None, *, launch: Launch | None = None, **options: Unpack[PairOptions]
) -> tuple[Tensor, Tensor]:
    """(above, equal), both (M,) int64; ``target`` (M,), None: the row's own score, M <= N."""
    pairs = Pairs.of(x, y, **options)
    launch = launch or pick("pair_rank", pairs)
    limits = torch.empty(pairs.M, device=x.device) if target is None else target.detach().float()
    counts = torch.zeros((2, pairs.M), dtype=torch.int64, device=x.device)
    extent = partials_block(pairs.M, pairs.N, launch, PARTIALS_BYTES)
    passes = (True, False) if target is None else (False,)
    for own in passes:
        for m, height, n, width in blocks(pairs.M, pairs.N, *extent):
            block = pairs.block(m, height, n, width)
            rows = slice(m, m + height)
            tiles_m, tiles_n = triton.cdiv(height, launch.block_m), triton.cdiv(width, launch.block_n)
            partial = [torch.empty((tiles_n, height), dtype=torch.int32, device=x.device) for _ in range(2)]
            above, equal = (None, None) if own else partial
            with torch.cuda.device_of(x):
                _pair_rank_kernel[(tiles_m * tiles_n,)](
                    block.x, block.y, block.terms(launch), limits[rows], above, equal, block.diagonal,
                    height, width, pairs.D, block.x.stride(0), block.y.stride(0), OWN=own,
                    BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_K=launch.block_k, GROUP=launch.group,
                    IDS_MODE=pairs.ids_mode, PRECISION=precision(block.x), **launch.options,
                )  # fmt: skip
            if not own:
                counts[:, rows] += torch.stack([part.sum(0) for part in partial])
    return counts[0], counts[1]
