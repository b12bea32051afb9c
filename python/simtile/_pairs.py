"""Which pairs a job runs over, and the one place where a caller's arguments are checked.

Every check raises a ValueError or TypeError that names the argument, what was wanted and what came. Nothing here reads
the values of a tensor: on a GPU that would wait for the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Scale: TypeAlias = float | Tensor
CSR: TypeAlias = tuple[Tensor, Tensor]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Pairs(NamedTuple):
    """The kept pairs, in the engines' words."""

    x_ids: Tensor | None = None  # (M,) int64
    y_ids: Tensor | None = None  # (N,) int64
    ids_mode: str = "exclude"  # equal ids: "exclude", "only", "flip" (their sign turns, softplus only)
    indptr: Tensor | None = None  # (M + 1,) int64
    indices: Tensor | None = None  # (nnz,) int64, sorted within a row
    diagonal: str = "keep"  # pairs (i, i): "keep", "skip", "flip"; "above": only j > i (Rust)
    threshold: Tensor | None = None  # (M,): pairs of row i whose score is above threshold[i] are left out
    guide_x: Tensor | None = None  # (M, G): <guide_x[i], guide_y[j]> is compared instead of the score
    guide_y: Tensor | None = None  # (N, G)


class Want(NamedTuple):
    """Which gradients are asked for."""

    x: bool = False
    y: bool = False
    scale: bool = False
    x_bias: bool = False
    y_bias: bool = False


class Gradients(NamedTuple):
    """Gradients as an engine returns them: ``x`` and ``y`` in :func:`gradient_dtype`, None where not asked for."""

    x: Tensor | None = None
    y: Tensor | None = None
    scale: Tensor | None = None
    x_bias: Tensor | None = None
    y_bias: Tensor | None = None


def traced(x: Tensor) -> bool:
    """Whether the call is being compiled, exported or run on fake tensors."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


def loss_dtype(x: Tensor) -> torch.dtype:
    """Losses, statistics and biases: float64 for float64 inputs, otherwise float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def gradient_dtype(x: Tensor) -> torch.dtype:
    """What a gradient made in the forward pass waits in.

    float16 gradients wait in float32: before a GradScaler's factor reaches them they would underflow.
    """
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def check_matrix(name: str, x: Tensor) -> None:
    """A floating-point matrix with at least one column."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch.Tensor, got {type(x).__name__}")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: a matrix (rows, D) with D >= 1, got shape {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name}: float32, bfloat16, float16 or float64, got {x.dtype}")


def check_like(name: str, y: Tensor, x_name: str, x: Tensor) -> None:
    """A matrix of the columns, dtype and device of ``x``."""
    check_matrix(name, y)
    if y.shape[1] != x.shape[1]:
        raise ValueError(f"{name}: as many columns as {x_name}, {x.shape[1]}, got shape {tuple(y.shape)}")
    if y.dtype != x.dtype:
        raise TypeError(f"{name}: the dtype of {x_name}, {x.dtype}, got {y.dtype}")
    if y.device != x.device:
        raise ValueError(f"{name}: on the device of {x_name}, {x.device}, got {y.device}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name}: one of {', '.join(map(repr, choices))}, got {value!r}")


def as_scalar(name: str, value: Scale, x: Tensor, *, positive: bool = False) -> Scale:
    """A finite Python float, or a one-element tensor as a 0-d one in the loss's dtype, its gradient kept.

    ``positive`` applies to a Python number only; looking into a tensor would wait for the device.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.dtype.is_floating_point:
            raise ValueError(
                f"{name}: a number or a floating tensor of one element, got {value.dtype} {tuple(value.shape)}"
            )
        if value.device != x.device and value.device.type != "cpu":
            raise ValueError(f"{name}: on the device of the inputs, {x.device}, got {value.device}")
        return (value if value.ndim == 0 else value.reshape(())).to(loss_dtype(x))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: a number or a floating tensor of one element, got {type(value).__name__}")
    if not abs(value) < math.inf or (positive and value <= 0):  # math.isfinite would break a compiled graph
        raise ValueError(f"{name}: a finite number{' above 0' if positive else ''}, got {value}")
    return float(value)


def as_vector(name: str, values: Tensor | None, length: int, x: Tensor) -> Tensor | None:
    """(length,) in the loss's dtype, its gradient kept."""
    if values is None:
        return None
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: a torch.Tensor ({length},) or None, got {type(values).__name__}")
    if values.shape != (length,) or not values.dtype.is_floating_point:
        raise ValueError(f"{name}: floating point, shape ({length},), got {values.dtype}, {tuple(values.shape)}")
    if values.device != x.device:
        raise ValueError(f"{name}: on the device of the inputs, {x.device}, got {values.device}")
    return values.to(loss_dtype(x))


def as_ids(name: str, ids: Tensor, length: int, x: Tensor) -> Tensor:
    """(length,) int64."""
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name}: a torch.Tensor ({length},) of integers or None, got {type(ids).__name__}")
    if ids.dtype not in _INTEGERS:
        raise TypeError(f"{name}: integers, got {ids.dtype}")
    if ids.shape != (length,):
        raise ValueError(f"{name}: shape ({length},), got {tuple(ids.shape)}")
    if ids.device != x.device:
        raise ValueError(f"{name}: on the device of the inputs, {x.device}, got {ids.device}")
    return ids.to(torch.int64)


def as_ids_pair(
    x_name: str, x_ids: Tensor | None, y_name: str, y_ids: Tensor | None, x: Tensor, y: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Ids of both sides, or of none."""
    if x_ids is None and y_ids is None:
        return None, None
    if x_ids is None or y_ids is None:
        given, missing = (y_name, x_name) if x_ids is None else (x_name, y_name)
        raise ValueError(f"{missing}: needed together with {given}, got None")
    return as_ids(x_name, x_ids, x.shape[0], x), as_ids(y_name, y_ids, y.shape[0], y)


def as_csr(exclude: tuple[Tensor, Tensor] | None, M: int, N: int, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """``exclude=(indptr (M + 1,), indices (nnz,))`` as int64, the columns of a row sorted."""
    if exclude is None:
        return None, None
    if not isinstance(exclude, tuple) or len(exclude) != 2:
        raise TypeError(f"exclude: a pair (indptr, indices) of integer tensors or None, got {type(exclude).__name__}")
    indptr = as_ids("exclude[0] (indptr)", exclude[0], M + 1, x)
    if not isinstance(exclude[1], Tensor) or exclude[1].ndim != 1:
        raise ValueError("exclude[1] (indices): a tensor of one dimension")
    indices = as_ids("exclude[1] (indices)", exclude[1], exclude[1].shape[0], x)
    if indices.shape[0] == 0:
        return indptr, indices
    order = torch.argsort(csr_rows(indptr, indices) * max(N, 1) + indices)
    return indptr, indices[order]


def as_guide(
    guide: tuple[Tensor, Tensor] | None, threshold: Tensor | None, x: Tensor, y: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """``guide=(guide_x (M, G), guide_y (N, G))`` without gradients, in a dtype that the engines of ``x`` compute in."""
    if guide is None:
        return None, None
    if threshold is None:
        raise ValueError("threshold: needed together with guide, got None")
    if not isinstance(guide, tuple) or len(guide) != 2:
        raise TypeError(f"guide: a pair of matrices (M, G), (N, G) or None, got {type(guide).__name__}")
    names = "guide[0]", "guide[1]"
    check_matrix(names[0], guide[0])
    check_like(names[1], guide[1], names[0], guide[0])
    for name, part, rows in zip(names, guide, (x.shape[0], y.shape[0]), strict=True):
        if part.shape[0] != rows:
            raise ValueError(f"{name}: {rows} rows, got shape {tuple(part.shape)}")
        if part.device != x.device:
            raise ValueError(f"{name}: on the device of the inputs, {x.device}, got {part.device}")
    wide = x.dtype == torch.float64 or guide[0].dtype == torch.float64
    guide_x, guide_y = (part.detach().to(loss_dtype(x)) if wide else part.detach() for part in guide)
    return guide_x, guide_y


def csr_rows(indptr: Tensor, indices: Tensor) -> Tensor:
    """(nnz,) the row that each entry of a CSR list stands in."""
    entries = torch.arange(indices.shape[0], device=indices.device)
    return torch.searchsorted(indptr, entries, right=True) - 1


def transposed(pairs: Pairs, N: int) -> Pairs:
    """The same pairs with the roles of x and y (``N`` rows) exchanged; a threshold, of rows, must be absent."""
    assert pairs.threshold is None
    if pairs.indptr is None or pairs.indices is None:
        return pairs._replace(x_ids=pairs.y_ids, y_ids=pairs.x_ids)
    # Entries stand in row order, so a stable sort by column leaves each column's rows sorted.
    order = torch.argsort(pairs.indices, stable=True)
    indptr = torch.searchsorted(pairs.indices[order], torch.arange(N + 1, device=order.device))
    rows = csr_rows(pairs.indptr, pairs.indices)
    return pairs._replace(x_ids=pairs.y_ids, y_ids=pairs.x_ids, indptr=indptr, indices=rows[order])


def checked_pairs(
    x: Tensor, y: Tensor, scale: Scale, x_bias: Tensor | None, y_bias: Tensor | None, x_ids: Tensor | None,
    y_ids: Tensor | None, ids_mode: str, exclude: CSR | None, skip_diagonal: bool, threshold: Tensor | None,
    guide: tuple[Tensor, Tensor] | None,
) -> tuple[Scale, Tensor | None, Tensor | None, Pairs]:  # fmt: skip
    """Scale, x_bias, y_bias and pairs, each checked against the matrices; errors name the argument."""
    check_matrix("x", x)
    check_like("y", y, "x", x)
    check_choice("ids_mode", ids_mode, ("exclude", "only"))
    x_ids, y_ids = as_ids_pair("x_ids", x_ids, "y_ids", y_ids, x, y)
    if ids_mode == "only" and x_ids is None:
        raise ValueError("ids_mode: 'only' needs x_ids and y_ids, got None")
    M, N = x.shape[0], y.shape[0]
    indptr, indices = as_csr(exclude, M, N, x)
    limit = as_vector("threshold", threshold, M, x)
    diagonal = "skip" if skip_diagonal else "keep"
    return (
        as_scalar("scale", scale, x),
        as_vector("x_bias", x_bias, M, x),
        as_vector("y_bias", y_bias, N, x),
        Pairs(
            x_ids,
            y_ids,
            ids_mode,
            indptr,
            indices,
            diagonal,
            None if limit is None else limit.detach(),
            *as_guide(guide, limit, x, y),
        ),
    )
