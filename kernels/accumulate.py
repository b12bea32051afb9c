"""Gradients as sums of blocks of coefficients: dX = scale * P Y, dY = scale * Pᵀ X, one block P at a time.

P (M, N) = d loss / d s holds what a tile kernel wrote for a block of pairs into a bounded workspace; the products are
plain GEMMs of the inputs' precision with float32 sums. No atomics, any D, and the order of the blocks fixes the bits.

    dscale = <X, P Y>     dx_bias = P 1     dy_bias = Pᵀ 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simtile.kernels.pairs import Pairs

WORKSPACE_BYTES = 256 << 20
# Rows of a workspace block: enough for the GEMMs to run at their full rate; then the columns fill the budget.
WORKSPACE_ROWS = 4096
# Coefficients of float16 inputs are stored as multiples of 1 / FLOAT16_RANGE of the largest row or column coefficient:
# a probability of 1e-8 times a row weight of 1 / 65,536 is far below float16's range, its quotient is not. A pair's
# coefficient is at most twice the largest, so 2**14 is reached and 65,504 is not.
FLOAT16_RANGE = 2.0**13
# torch.addmm with out_dtype wanted the added matrix in the factors' type before: 2.13 is known to take float32.
_ADDMM_MIXES_TYPES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


@dataclass(frozen=True)
class Wanted:
    """Which gradients are wanted: nothing is computed for a frozen side."""

    x: bool = True
    y: bool = True
    scale: bool = False
    x_bias: bool = False
    y_bias: bool = False

    @property
    def left_product(self) -> bool:
        """P Y is needed."""
        return self.x or (self.scale and not self.y)


class PairGrads(NamedTuple):
    """Gradients, None where not wanted: of bfloat16 inputs in bfloat16, everything else in float32.

    float16 gradients would underflow before a gradient scaler's factor reaches them.
    """

    x: Tensor | None  # (M, D)
    y: Tensor | None  # (N, D)
    scale: Tensor | None  # ()
    x_bias: Tensor | None  # (M,)
    y_bias: Tensor | None  # (N,)


def gradient_type(dtype: torch.dtype) -> torch.dtype:
    """What a gradient is returned in, by the type of its input."""
    return torch.float32 if dtype == torch.float16 else dtype


def workspace_shape(M: int, N: int, itemsize: int, budget: int) -> tuple[int, int]:
    """(rows, columns) of a workspace of at most ``budget`` bytes, for M x N coefficients."""
    rows = max(1, min(M, WORKSPACE_ROWS))
    columns = max(1, min(N, budget // (rows * itemsize)))
    if columns == N:  # N is small: more rows fit
        rows = max(rows, min(M, budget // (N * itemsize)))
    elif columns >= WORKSPACE_ROWS:  # a multiple of every tile's width
        columns = columns // WORKSPACE_ROWS * WORKSPACE_ROWS
    return rows, columns


def workspace(pairs: Pairs, budget: int) -> Tensor:
    """(rows, columns) uninitialised coefficients in the GEMMs' precision, that of the inputs."""
    return aligned(*workspace_shape(pairs.M, pairs.N, pairs.x.element_size(), budget), pairs.x.dtype, pairs.x.device)


def aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, columns) uninitialised, each row on a boundary of 16 entries.

    Kernels then store whole vectors, and are not compiled again when the number of columns stops being a multiple.
    """
    return torch.empty((rows, -(-columns // 16) * 16), dtype=dtype, device=device)[:, :columns]


def coefficient_unit(dtype: torch.dtype, *coefficients: Tensor | None) -> Tensor | None:
    """() float32 that coefficients are divided by before they are stored in ``dtype``; None for 1."""
    if dtype != torch.float16:
        return None
    maxima = [c.abs().amax() for c in coefficients if c is not None and c.numel()]
    if not maxima:
        return None
    largest = torch.stack(maxima).amax()
    return torch.where(largest > 0, largest / FLOAT16_RANGE, 1.0)


class GradientSum:
    """Adds up blocks of coefficients; the sums over all blocks are the gradients."""

    def __init__(self, pairs: Pairs, wanted: Wanted) -> None:
        self._pairs = pairs
        self._wanted = wanted
        zeros: dict[str, Any] = {"dtype": torch.float32, "device": pairs.x.device}
        self._x = torch.zeros((pairs.M, pairs.D), **zeros) if wanted.left_product else None
        self._y = torch.zeros((pairs.N, pairs.D), **zeros) if wanted.y else None
        self._x_bias = torch.zeros(pairs.M, **zeros) if wanted.x_bias else None
        self._y_bias = torch.zeros(pairs.N, **zeros) if wanted.y_bias else None

    def add(self, coefficients: Tensor, row: int, column: int) -> None:
        """Adds the block of coefficients (rows, columns) at (row, column)."""
        m = slice(row, row + coefficients.shape[0])
        n = slice(column, column + coefficients.shape[1])
        if self._x is not None:
            add_product(self._x[m], coefficients, self._pairs.y[n])
        if self._y is not None:
            add_product(self._y[n], coefficients.mT, self._pairs.x[m])
        if self._x_bias is not None:
            self._x_bias[m] += coefficients.sum(1, dtype=torch.float32)
        if self._y_bias is not None:
            self._y_bias[n] += coefficients.sum(0, dtype=torch.float32)

    def finish(self, unit: Tensor | None = None) -> PairGrads:
        """The gradients; ``unit`` is what the coefficients were divided by."""
        pairs, wanted = self._pairs, self._wanted
        for total in (self._x, self._y, self._x_bias, self._y_bias):
            if total is not None and unit is not None:
                total *= unit
        dtype = gradient_type(pairs.x.dtype)
        scale_grad = None
        if wanted.scale:
            # The float32 sum before the scale is applied: exact also at scale 0.
            rows, products = (pairs.x, self._x) if self._x is not None else (pairs.y, self._y)
            assert products is not None
            scale_grad = torch.einsum("md,md->", rows.float(), products)
        return PairGrads(
            x=None if self._x is None or not wanted.x else (self._x * pairs.scale).to(dtype),
            y=None if self._y is None else (self._y * pairs.scale).to(dtype),
            scale=scale_grad,
            x_bias=self._x_bias,
            y_bias=self._y_bias,
        )


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, with the operands' precision in the products and float32 in the sums."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif not a.is_cuda:
        total.addmm_(a.float(), b.float())
    elif _ADDMM_MIXES_TYPES:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += torch.mm(a, b, out_dtype=torch.float32)


def scaled(coefficient: Tensor, unit: Tensor | None) -> Tensor:
    """A coefficient vector in float32, in multiples of ``unit``."""
    coefficient = coefficient.detach().float().contiguous()
    return coefficient if unit is None else coefficient / unit
