"""Log-sum-exps of prefixes: value and gradients against float64, judged by plain torch, and against a loss a prefix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accuracy import assert_as_accurate, rounded, unit_rows, with_zero_rows
from plain_torch import coarse, gradients, masked, rounding, scores
from simtile.functional import nested_lse, pair_lse
from simtile.kernels import reference as ref, reference_torch as twin

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [
    pytest.param(1, 1, 1, [1], id="one-pair"),
    pytest.param(5, 7, 9, [1, 4, 9], id="below-a-tile, odd ends"),
    pytest.param(97, 131, 70, [64, 32, 70], id="ragged, in no order"),
    pytest.param(385, 389, 48, [16, 16, 40], id="past a block, equal ends, the longest shorter than a row"),
]


def check(x, y, dims, dtype, *, scale, direction="both", normalize=True, **mask):
    """Values and gradients of Σ a_k·row_k + Σ b_k·column_k, with weights of both signs."""
    M, N, K = len(x), len(y), len(dims)
    a, b = np.linspace(-1, 2, K * M).reshape(K, M), np.linspace(2, -1, K * N).reshape(K, N)
    x, y = (rounded(part, dtype)[1] for part in (x, y))

    def run(function, dtype):
        wide = torch.promote_types(dtype, torch.float32)
        inputs = [torch.from_numpy(part).to(dtype).requires_grad_() for part in (x, y)]
        inputs.append(torch.tensor(scale, dtype=wide, requires_grad=True))
        values = function(*inputs)
        loss = sum((value.masked_fill(value == -math.inf, 0.0) * torch.from_numpy(w).to(wide)).sum()
                   for value, w in zip(values, (a, b), strict=True) if value is not None)  # fmt: skip
        return [value for value in values if value is not None], gradients(loss, inputs)

    def plain(x, y, scale):
        unit = torch.nn.functional.normalize if normalize else torch.as_tensor
        s = [masked(scores(unit(x[:, :d]), unit(y[:, :d]), scale), **mask) for d in dims]
        rows, columns = (torch.stack([twin.logsumexp(part, dim) for part in s]) for dim in (1, 0))
        return rows if direction != "column" else None, columns if direction != "row" else None

    how = {"normalize": normalize, "direction": direction, **mask}
    exact = run(lambda x, y, s: twin.nested_lse(x, y, dims, scale=s, **how), torch.float64)
    naive = run(plain, dtype)
    mine = run(lambda x, y, s: nested_lse(x, y, dims, scale=s, **how), dtype)
    for got, bar, truth in zip(mine[0], naive[0], exact[0], strict=True):
        truth = truth.detach()
        size = max(float(truth[truth > -math.inf].abs().max()), scale)
        assert_as_accurate(got, bar, truth.numpy(), magnitude=size)
    terms = coarse(dtype) * (np.abs(a).sum() + np.abs(b).sum())
    for got, bar, truth, part in zip(mine[1], naive[1], exact[1], "xys", strict=True):
        assert got.dtype == (dtype if part in "xy" else torch.float32)
        largest = float(truth.abs().max())
        magnitude = terms if part == "s" else max(largest, 2 * scale * rounding(scale) / max(min(dims) ** 0.5, 1))
        assert_as_accurate(got, bar, truth.numpy(), magnitude=float(magnitude))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D", "dims"), SHAPES)
def test_as_accurate_as_plain_torch_in_every_regime(rng, M, N, D, dims, dtype):
    check(rng.normal(size=(M, D)), rng.normal(size=(N, D)), dims, dtype, scale=14.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [0.003, 0.05, 10.0])
@pytest.mark.parametrize("direction", ["row", "column", "both"])
def test_as_accurate_as_plain_torch_at_every_temperature(rng, direction, temperature, dtype):
    check(
        rng.normal(size=(40, 33)), rng.normal(size=(53, 33)), [8, 33], dtype, scale=1 / temperature, direction=direction
    )


def test_masks_and_scores_that_are_not_divided(rng):
    mask = {"x_ids": torch.arange(45) % 5, "y_ids": torch.arange(61) % 7, "skip_diagonal": True,
            "exclude": (torch.arange(46), torch.arange(45) * 17 % 61)}  # fmt: skip
    for normalize in (True, False):
        check(
            unit_rows(rng, 45, 20),
            unit_rows(rng, 61, 20),
            [7, 20],
            torch.float32,
            scale=5.0,
            normalize=normalize,
            **mask,
        )


def test_rows_of_zeros(rng):
    check(with_zero_rows(rng, 20, 12), unit_rows(rng, 30, 12), [4, 12], torch.float32, scale=5.0)


def test_float64_equals_the_reference(rng):
    x, y = rng.normal(size=(37, 9)), rng.normal(size=(41, 9))
    got = nested_lse(torch.from_numpy(x), torch.from_numpy(y), [4, 2, 9], scale=2.0, direction="both")
    for a, b in zip(got, ref.nested_lse(x, y, [4, 2, 9], scale=2.0, direction="both"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_gradcheck_in_float64():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 6, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, s: nested_lse(x, y, [2, 6], scale=s, direction="both"), (x, y, scale))


def test_one_prefix_of_everything_is_pair_lse(rng):
    x, y = (torch.from_numpy(rng.normal(size=(30, 8))).float() for _ in range(2))
    got = nested_lse(x, y, [8], normalize=False, direction="both")
    for a, b in zip(got, pair_lse(x, y, direction="both", plan="recompute"), strict=True):
        torch.testing.assert_close(a[0], b)


@pytest.mark.parametrize(("M", "N"), [(0, 4), (4, 0)])
def test_no_rows_or_no_columns(M, N):
    x, y = torch.ones(M, 3, requires_grad=True), torch.ones(N, 3, requires_grad=True)
    row, column = nested_lse(x, y, [2, 3], direction="both")
    assert row.shape == (2, M) and column.shape == (2, N)
    assert (row == -math.inf).all() and (column == -math.inf).all()


@pytest.mark.parametrize(
    ("dims", "error", "message"),
    [
        ([], TypeError, "dims: a sequence of at least one integer"),
        ([2.0], TypeError, "dims: a sequence of at least one integer"),
        ([0, 2], ValueError, "dims: numbers from 1 to the 3 columns of the inputs"),
        ([4], ValueError, "dims: numbers from 1 to the 3 columns of the inputs"),
    ],
)
def test_wrong_dims_are_named(dims, error, message):
    with pytest.raises(error, match=message):
        nested_lse(torch.ones(2, 3), torch.ones(2, 3), dims)
