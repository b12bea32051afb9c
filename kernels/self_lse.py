"""Row log-sum-exp of a matrix against itself (SimCLR, SupCon), from half of its pairs.

    s[i, j] = scale * <x[i], x[j]> = s[j, i]                       (M, M)
    row[i]  = log(sum_j exp(s[i, j]))                              (M,)

Of every pair of row blocks a < b, one pass over the block (a, b) gives the rows of a and, as its columns, the rows of
b; the block (b, a) is never computed. The same holds for the gradient, where W[i, j] = g[i] e^(s-row[i]) + g[j]
e^(s-row[j]) is symmetric: dX = scale * W X, with W[a, b] serving a and, transposed, b. Whatever is left out must be
symmetric too: the diagonal, or equal ids of rows and columns. With B blocks a fraction (B + 1) / 2B of the pairs is
computed.

No kernel of its own: blocks go through :mod:`simtile.kernels.pair_lse` and :mod:`simtile.kernels.pair_grad`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from simtile.kernels.accumulate import (
    WORKSPACE_BYTES,
    GradientSum,
    PairGrads,
    Wanted,
    aligned,
    coefficient_unit,
    scaled,
)
from simtile.kernels.launch import Launch, pick
from simtile.kernels.pair_grad import coefficients
from simtile.kernels.pair_lse import lse_of
from simtile.kernels.pairs import Pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

# 16 blocks compute 53 % of the pairs; smaller blocks than 1,024 rows leave a large card partly idle.
_BLOCKS = 16
_FEWEST_ROWS = 1024


def self_lse_fwd(
    x: Tensor,
    *,
    scale: float | Tensor = 1.0,
    ids: Tensor | None = None,
    ids_mode: Literal["exclude", "only"] = "exclude",
    skip_diagonal: bool = True,
    launch: Launch | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """(M,) float32 log-sum-exp of each row's scores against all rows of x (M, D) but itself, and but those left out."""
    pairs = Pairs.of(x, x, scale=scale, x_ids=ids, y_ids=ids, ids_mode=ids_mode, skip_diagonal=skip_diagonal)
    row = torch.full((pairs.M,), float("-inf"), dtype=torch.float32, device=x.device)
    for a, b in _triangle(pairs.M, block_rows or _rows(pairs.M)):
        block = pairs.block(a.start, a.stop - a.start, b.start, b.stop - b.start)
        upper, lower = lse_of(block, direction="row" if a == b else "both", launch=launch)
        for rows, part in ((a, upper), (b, lower)):
            if part is not None:
                row[rows] = torch.logaddexp(row[rows], part)
    return row


def self_lse_bwd(
    x: Tensor,
    row: Tensor,
    grad_row: Tensor,
    *,
    scale: float | Tensor = 1.0,
    ids: Tensor | None = None,
    ids_mode: Literal["exclude", "only"] = "exclude",
    skip_diagonal: bool = True,
    wanted_scale: bool = False,
    launch: Launch | None = None,
    block_rows: int | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> PairGrads:
    """Gradients of Σ grad_row * row by x (both of its roles) and, if wanted, by the scale."""
    pairs = Pairs.of(x, x, scale=scale, x_ids=ids, y_ids=ids, ids_mode=ids_mode, skip_diagonal=skip_diagonal)
    launch = launch or pick("pair_lse_bwd", pairs)
    unit = coefficient_unit(x.dtype, grad_row)
    gradient = scaled(grad_row, unit)
    largest = max(1, int((workspace_bytes / x.element_size()) ** 0.5))
    height = block_rows or min(_rows(pairs.M), largest)
    total = GradientSum(pairs, Wanted(x=True, y=False, scale=wanted_scale))
    space = aligned(min(height, pairs.M), min(height, pairs.M), x.dtype, x.device)
    for a, b in _triangle(pairs.M, height):
        block = pairs.block(a.start, a.stop - a.start, b.start, b.stop - b.start)
        out = space[: block.M, : block.N]
        coefficients(block, out, launch, row=(row[a], gradient[a]), column=(row[b], gradient[b]))
        total.add(out, a.start, b.start)
        if a != b:
            total.add(out.mT, b.start, a.start)
    grads = total.finish(unit)
    # <X, W X> counts every pair in both of its roles.
    return grads if grads.scale is None else grads._replace(scale=grads.scale / 2)


def _rows(M: int) -> int:
    return max(_FEWEST_ROWS, -(-M // _BLOCKS))


def _triangle(M: int, height: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of row blocks (a, b) with a <= b, in the order in which they merge."""
    parts: Sequence[slice] = [slice(first, min(first + height, M)) for first in range(0, M, height)]
    for i, a in enumerate(parts):
        for b in parts[i:]:
            yield a, b
