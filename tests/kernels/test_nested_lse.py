"""Log-sum-exp of several prefixes in one sweep, and its gradient, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import DTYPES, SCALES, sum_floor
from torch import Tensor

from accuracy import assert_as_accurate, opposed_row, rounded, with_zero_rows
from simtile.kernels import reference_torch
from simtile.kernels.accumulate import Wanted
from simtile.kernels.nested_grad import nested_lse_bwd
from simtile.kernels.nested_lse import nested_lse_fwd


def dense(
    x: Tensor, y: Tensor, dims: tuple[int, ...], scale: Tensor, normalize: bool, skip: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(K, M), (K, N) from one loss a prefix, products in the type of x."""
    rows, columns = [], []
    for d in dims:
        a, b = x[:, :d], y[:, :d]
        if normalize:
            a, b = torch.nn.functional.normalize(a), torch.nn.functional.normalize(b)
        s = scale * (a @ b.T).to(dtype)
        if skip:
            s = s.masked_fill(torch.eye(*s.shape, dtype=torch.bool), -torch.inf)
        rows.append(reference_torch.logsumexp(s, 1))
        columns.append(reference_torch.logsumexp(s, 0))
    return torch.stack(rows), torch.stack(columns)


def check(
    x: Tensor, y: Tensor, dims: tuple[int, ...], scale: float, *, normalize: bool = True, skip: bool = False,
    direction: str = "both", gradient: bool = True, **execution: int,
) -> None:  # fmt: skip
    options = {"scale": scale, "normalize": normalize, "skip_diagonal": skip}
    partials = {name: value for name, value in execution.items() if name == "partials_bytes"}
    row, column = nested_lse_fwd(x, y, dims, direction="both", **options, **partials)
    leaves = {}
    results = {}
    for name, dtype in (("exact", torch.float64), ("single", torch.float32), ("plain", x.dtype)):
        leaves[name] = [part.to(dtype, copy=True).requires_grad_() for part in (x, y)]
        leaves[name].append(torch.tensor(scale, dtype=dtype if dtype == torch.float64 else torch.float32))
        leaves[name][2].requires_grad_()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        results[name] = dense(*leaves[name][:2], dims, leaves[name][2], normalize, skip, wide)
    for side, actual in enumerate((row, column)):
        truth = results["exact"][side].detach().numpy()
        assert_as_accurate(actual, results["single"][side], truth, magnitude=max(scale, 1.0))
    if not gradient:
        return

    K = len(dims)
    weights = [torch.linspace(0.5, 1.5, K * len(part)).view(K, -1) / len(part) for part in (x, y)]
    used = [direction != "column", direction != "row"]
    grads = nested_lse_bwd(
        x, y, dims, row=row, column=column, wanted=Wanted(True, True, True),
        grad_row=weights[0] if used[0] else None, grad_column=weights[1] if used[1] else None,
        **options, **{name: value for name, value in execution.items() if name == "workspace_bytes"},
    )  # fmt: skip

    def total(name: str) -> Tensor:
        parts = [
            (lse.masked_fill(torch.isneginf(lse), 0.0) * weight.to(lse.dtype)).sum()
            for lse, weight, use in zip(results[name], weights, used, strict=True) if use
        ]  # fmt: skip
        return sum(parts)

    truth, naive = (torch.autograd.grad(total(name), leaves[name]) for name in ("exact", "plain"))
    # Before the norms' projection, which leaves nothing of it at one coordinate.
    whole = scale * max(
        float((weight.sum(0) / part[:, 0].abs()).max()) for weight, part in zip(weights, (x, y), strict=True)
    )
    for name, actual, bar, exactly in zip(("x", "y", "scale"), grads, naive, truth, strict=False):
        magnitude = {"scale": float(K * sum(used))}.get(name, whole if x.shape[1] == 1 else None)
        floor = sum_floor(len(x), len(y))
        if name == "scale":  # half an ulp of a log-sum-exp, which may be the same in every row, in all its coefficients
            floor = max(floor, scale / 2)
        assert_as_accurate(actual, bar, exactly.numpy(), magnitude=magnitude, floor=floor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("M", "N", "D", "dims"),
    [
        pytest.param(1, 1, 1, (1,), id="one-pair"),
        pytest.param(5, 7, 6, (2, 4, 6), id="below-a-tile"),
        pytest.param(32, 64, 64, (32, 64), id="exact-tiles"),
        pytest.param(37, 70, 45, (3, 11, 40), id="ragged-and-shorter-than-the-rows"),
        pytest.param(40, 37, 48, (48, 16, 32), id="in-any-order"),
    ],
)
def test_every_shape(
    M: int, N: int, D: int, dims: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator
) -> None:
    x, y = (rounded(rng.standard_normal((rows, D)), dtype)[0] for rows in (M, N))
    check(x, y, dims, 14.0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("skip", [False, True])
def test_every_scale(scale: float, skip: bool, rng: np.random.Generator) -> None:
    # Prefixes of 16 and more: at 8, one row of a short first prefix decides the largest error, and in 1 of 60 draws
    # plain torch is more than twice as wrong as itself with its coordinates in another order.
    x, y = (rounded(rng.standard_normal((rows, 48)), torch.float32)[0] for rows in (37, 40))
    check(x, y, (16, 32, 48), scale, skip=skip)


@pytest.mark.parametrize("direction", ["row", "column"])
def test_one_direction_without_normalisation(direction: str, rng: np.random.Generator) -> None:
    x, y = (rounded(rng.standard_normal((rows, 20)), torch.float32)[0] for rows in (37, 40))
    check(x, y, (5, 20), 1.0, normalize=False, direction=direction)


@pytest.mark.parametrize("scale", SCALES)
def test_a_prefix_opposed_to_everything_does_not_underflow(scale: float, rng: np.random.Generator) -> None:
    x, y = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 40, 37, 24))
    check(x, y, (8, 24), scale)


def test_blocks_merge(rng: np.random.Generator) -> None:
    x, y = (rounded(rng.standard_normal((rows, 12)), torch.float32)[0] for rows in (50, 70))
    check(x, y, (4, 12), 14.0, skip=True, partials_bytes=3000, workspace_bytes=4000)


def test_zero_rows_stay_finite(rng: np.random.Generator) -> None:
    x, y = (rounded(with_zero_rows(rng, 12, 8), torch.float32)[0] for _ in range(2))
    row, column = nested_lse_fwd(x, y, (4, 8), direction="both", scale=14.0)
    ones = torch.ones(2, 12)
    grads = nested_lse_bwd(x, y, (4, 8), row=row, column=column, grad_row=ones, grad_column=ones, scale=14.0)
    assert torch.isfinite(row).all() and torch.isfinite(column).all()
    assert torch.isfinite(grads.x).all() and torch.isfinite(grads.y).all()
