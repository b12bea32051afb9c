"""Host side of every pair kernel: the operands of a job over all pairs, cut into blocks.

    s[i, j] = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]        x (M, D), y (N, D)

:class:`PairOptions` are the keyword arguments that all launchers share. The launchers stand below the checking layer:
they take well-formed tensors on one device, and they never wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor

from simtile.kernels.tile import Terms

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from simtile.kernels.launch import Launch

IdsMode = Literal["exclude", "only", "flip"]
Direction = Literal["row", "column", "both"]


class PairOptions(TypedDict, total=False):
    """What makes a score, and which pairs are left out (:func:`simtile.kernels.reference.left_out`)."""

    scale: float | Tensor  # a 0-d tensor is not read by the host
    x_bias: Tensor | None  # (M,)
    y_bias: Tensor | None  # (N,)
    x_ids: Tensor | None  # (M,) integers, together with y_ids
    y_ids: Tensor | None  # (N,)
    ids_mode: IdsMode  # "flip", the sign between equal ids, is for pair_softplus only
    exclude: tuple[Tensor, Tensor] | None  # CSR (indptr (M + 1,), indices)
    skip_diagonal: bool
    flip_diagonal: bool  # pair_softplus only: s_ii changes its sign
    threshold: Tensor | None  # (M,): pairs whose score is above are left out
    guide: tuple[Tensor, Tensor] | None  # (M, G), (N, G): compare <guide_x, guide_y>, not the score, with the threshold


@dataclass(frozen=True)
class Pairs:
    """A block of pairs, as kernels want it: contiguous coordinates, float32 biases, exclusions as coordinates."""

    x: Tensor  # (M, D)
    y: Tensor  # (N, D)
    scale: Tensor  # () float32
    x_bias: Tensor | None
    y_bias: Tensor | None
    x_ids: Tensor | None
    y_ids: Tensor | None
    ids_mode: IdsMode
    excluded: tuple[Tensor, Tensor] | None  # rows (nnz,) and columns (nnz,), counted over the whole job
    skip_diagonal: bool
    flip_diagonal: bool
    threshold: Tensor | None
    guide: tuple[Tensor, Tensor] | None
    first_row: int = 0
    first_column: int = 0

    @classmethod
    def of(cls, x: Tensor, y: Tensor, **options: Unpack[PairOptions]) -> Pairs:
        """The whole job."""
        exclude = options.get("exclude")
        guide = options.get("guide")
        return cls(
            x=_rows(x),
            y=_rows(y),
            scale=device_scalar(options.get("scale", 1.0), x.device),
            x_bias=_float32(options.get("x_bias")),
            y_bias=_float32(options.get("y_bias")),
            x_ids=_flat(options.get("x_ids")),
            y_ids=_flat(options.get("y_ids")),
            ids_mode=options.get("ids_mode", "exclude"),
            excluded=None if exclude is None else coordinates(*exclude),
            skip_diagonal=options.get("skip_diagonal", False),
            flip_diagonal=options.get("flip_diagonal", False),
            threshold=_float32(options.get("threshold")),
            guide=None if guide is None else (guide[0].contiguous(), guide[1].contiguous()),
        )

    @property
    def M(self) -> int:
        return self.x.shape[0]

    @property
    def N(self) -> int:
        return self.y.shape[0]

    @property
    def D(self) -> int:
        return self.x.shape[1]

    @property
    def diagonal(self) -> int:
        """Pair (i, i) of the whole job is pair (i, i + diagonal) of the block."""
        return self.first_row - self.first_column

    @property
    def masked(self) -> bool:
        """Whether tiles hold more than scores: biases, ids, limits or lists cost registers."""
        terms = (self.x_bias, self.y_bias, self.x_ids, self.threshold, self.excluded)
        return any(term is not None for term in terms)

    def block(self, row: int, rows: int, column: int, columns: int) -> Pairs:
        """The block of ``rows`` x ``columns`` pairs at (row, column): views, no copies."""
        m, n = slice(row, row + rows), slice(column, column + columns)
        return replace(
            self,
            x=self.x[m],
            y=self.y[n],
            x_bias=None if self.x_bias is None else self.x_bias[m],
            y_bias=None if self.y_bias is None else self.y_bias[n],
            x_ids=None if self.x_ids is None else self.x_ids[m],
            y_ids=None if self.y_ids is None else self.y_ids[n],
            threshold=None if self.threshold is None else self.threshold[m],
            guide=None if self.guide is None else (self.guide[0][m], self.guide[1][n]),
            first_row=self.first_row + row,
            first_column=self.first_column + column,
        )

    def exchanged(self) -> Pairs:
        """The job with x and y exchanged; lists and limits, which belong to rows, must be absent."""
        assert self.excluded is None and self.threshold is None
        return replace(
            self,
            x=self.y,
            y=self.x,
            x_bias=self.y_bias,
            y_bias=self.x_bias,
            x_ids=self.y_ids,
            y_ids=self.x_ids,
            first_row=self.first_column,
            first_column=self.first_row,
        )

    def terms(self, launch: Launch) -> Terms:
        """The kernels' view of the block, for tiles of ``launch``'s size."""
        lists: tuple[Tensor | None, ...] = (None, None, None)
        if self.excluded is not None:
            lists = self._tile_lists(launch.block_m, launch.block_n)
        guide_x, guide_y = self.guide if self.guide is not None else (None, None)
        return Terms(
            self.scale,
            self.x_bias,
            self.y_bias,
            self.x_ids,
            self.y_ids,
            self.diagonal if self.skip_diagonal else None,
            self.diagonal if self.flip_diagonal else None,
            self.threshold,
            guide_x,
            guide_y,
            None if guide_x is None else guide_x.shape[1],
            *lists,
        )

    def _tile_lists(self, block_m: int, block_n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The block's left-out pairs grouped by tile: a tile walks through its own few instead of all of its rows'."""
        assert self.excluded is not None
        row = self.excluded[0] - self.first_row
        column = self.excluded[1] - self.first_column
        width = -(-self.N // block_n)
        tiles = -(-self.M // block_m) * width
        inside = (row >= 0) & (row < self.M) & (column >= 0) & (column < self.N)
        tile = torch.where(inside, row // block_m * width + column // block_n, tiles)
        tile, order = torch.sort(tile, stable=True)
        pointer = torch.searchsorted(tile, torch.arange(tiles + 1, device=tile.device))
        return pointer.int(), row[order].int(), column[order].int()


def coordinates(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) int64 of a CSR pattern; ``output_size`` spares the device a synchronisation."""
    rows = torch.arange(indptr.shape[0] - 1, device=indptr.device)
    return torch.repeat_interleave(rows, indptr.diff(), output_size=indices.shape[0]), indices.long()


def blocks(M: int, N: int, rows: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """(row, rows, column, columns) of every block, row-major: the order in which results merge, hence their bits."""
    for row in range(0, M, rows):
        for column in range(0, N, columns):
            yield row, min(rows, M - row), column, min(columns, N - column)


def device_scalar(value: float | Tensor, device: torch.device) -> Tensor:
    """() float32 on the device; filling it is a launch, not a copy that waits."""
    if isinstance(value, Tensor):
        return value.detach().to(device=device, dtype=torch.float32).reshape(())
    return torch.full((), value, dtype=torch.float32, device=device)


def _rows(x: Tensor) -> Tensor:
    """Rows whose coordinates are contiguous; a view with any row stride stays a view."""
    x = x.detach()
    return x if x.stride(1) == 1 else x.contiguous()


def _flat(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().contiguous()


def _float32(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().float().contiguous()
