"""Row and column log-sum-exp: value and gradients against float64, judged by the error of plain torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from accuracy import (
    REGIMES,
    TEMPERATURES,
    assert_as_accurate,
    opposed_row,
    rounded,
    unit_rows,
    with_duplicates,
    with_zero_rows,
)
from plain_torch import coarse, gradients, masked, rounding, scores
from simtile.functional import merge_lse, pair_lse
from simtile.kernels import reference as ref, reference_torch as twin

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INF = math.inf


def plans(dtype: torch.dtype, scale: float = 1.0) -> list[str]:
    return ["dense", "recompute", "stash"] if dtype == torch.bfloat16 and scale <= 20 else ["dense", "recompute"]


def check(x, y, dtype, *, scale, plan, direction="both", biases=(None, None), **mask):
    """Values and gradients of Σ a·row + Σ b·column, with weights a and b of both signs."""
    M, N = len(x), len(y)
    extra = [part for part in biases if part is not None]
    a, b = np.linspace(-1, 2, M), np.linspace(2, -1, N)

    def run(function, dtype):
        inputs = [torch.from_numpy(np.asarray(part)).to(dtype).requires_grad_() for part in (x, y)]
        wide = torch.promote_types(dtype, torch.float32)
        inputs += [torch.from_numpy(part).to(wide).requires_grad_() for part in extra]
        factor = torch.tensor(scale, dtype=wide, requires_grad=True)
        values = function(*inputs[:2], scale=factor, **dict(zip(("x_bias", "y_bias"), inputs[2:], strict=False)))
        loss = sum((value.masked_fill(value == -INF, 0.0) * torch.from_numpy(w).to(wide)).sum()
                   for value, w in zip(values, (a, b), strict=True) if value is not None)  # fmt: skip
        return [value for value in values if value is not None], gradients(loss, [*inputs, factor])

    def plain(x, y, **options):
        s = masked(scores(x, y, **options), **mask)
        return twin.logsumexp(s, 1) if direction != "column" else None, twin.logsumexp(
            s, 0
        ) if direction != "row" else None

    x, y = (rounded(part, dtype)[1] for part in (x, y))
    exact = run(lambda *i, **o: twin.pair_lse(*i, direction=direction, **o, **mask), torch.float64)
    naive = run(plain, dtype)
    mine = run(lambda *i, **o: pair_lse(*i, direction=direction, plan=plan, **o, **mask), dtype)
    for got, bar, truth in zip(mine[0], naive[0], exact[0], strict=True):
        assert got.dtype == torch.float32
        assert_as_accurate(got, bar, truth.detach().numpy())
    # An ulp of a gradient is one of its largest possible terms: they are of both signs and may cancel.
    top = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) * max(
        np.abs(x).max(initial=0), np.abs(y).max(initial=0)
    )
    # dscale sums all pairs, each rounded to the engine's coefficients: half an ulp of the inputs' dtype.
    handed_over = rounding(scale + sum(float(np.abs(part).max()) for part in extra)) if extra else 1.0
    total = coarse(dtype) * handed_over * (np.abs(a).sum() + np.abs(b).sum())
    for got, bar, truth, part in zip(
        mine[1], naive[1], exact[1], ("x", "y", *["bias"] * len(extra), "scale"), strict=True
    ):
        assert got.dtype == (dtype if part in "xy" else torch.float32)
        magnitude = (
            total if part in ("bias", "scale") else scale * top * (handed_over if dtype == torch.float32 else 1.0)
        )
        assert_as_accurate(got, bar, truth.numpy(), magnitude=float(magnitude))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D"), REGIMES)
def test_as_accurate_as_plain_torch_in_every_regime(rng, M, N, D, dtype):
    for plan in plans(dtype):
        check(unit_rows(rng, M, D), unit_rows(rng, N, D), dtype, scale=14.0, plan=plan)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_as_accurate_as_plain_torch_at_every_temperature(rng, temperature, dtype):
    for plan in plans(dtype, 1 / temperature):
        check(unit_rows(rng, 40, 33), unit_rows(rng, 53, 33), dtype, scale=1 / temperature, plan=plan)


@pytest.mark.parametrize("rows", [with_duplicates, with_zero_rows])
def test_duplicates_and_zero_rows(rng, rows):
    for plan in plans(torch.float32):
        check(rows(rng, 50, 24), rows(rng, 70, 24), torch.float32, scale=20.0, plan=plan)


def test_a_row_opposed_to_all_columns_does_not_underflow(rng):
    x, y = opposed_row(rng, 9, 40, 16)
    for plan in plans(torch.float32):
        check(x, y, torch.float32, scale=100.0, plan=plan)


def integers(rows: int, D: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Features whose inner products are exact in any dtype, so that no rounding decides what is above a half."""
    return (torch.arange(rows * D) * 7 % 11 % 3 - 1).reshape(rows, D).to(dtype)


MASKS = {
    "ids": {"x_ids": torch.arange(45) % 5, "y_ids": torch.arange(61) % 7},
    "only ids": {"x_ids": torch.arange(45) % 5, "y_ids": torch.arange(61) % 7, "ids_mode": "only"},
    "diagonal": {"skip_diagonal": True},
    "list": {"exclude": (torch.arange(46) * 2, torch.arange(90) * 17 % 61)},
    "guide": {"threshold": torch.full((45,), 0.5), "guide": (integers(45, 7), integers(61, 7))},
    "all": {"x_ids": torch.arange(45) % 5, "y_ids": torch.arange(61) % 7, "skip_diagonal": True,
            "exclude": (torch.arange(46) * 2, torch.arange(90) * 17 % 61),
            "threshold": torch.full((45,), 1.5), "guide": (integers(45, 3), integers(61, 3))},
}  # fmt: skip


@pytest.mark.parametrize("direction", ["row", "column", "both"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_pairs_left_out_and_biases(rng, mask, direction):
    biases = (rng.normal(size=45), rng.normal(size=61))
    for dtype in (torch.float32, torch.bfloat16):
        for plan in plans(dtype):
            check(unit_rows(rng, 45, 20), unit_rows(rng, 61, 20), dtype, scale=5.0, plan=plan, direction=direction,
                  biases=biases, **mask)  # fmt: skip


@pytest.mark.parametrize("plan", ["dense", "recompute"])
@pytest.mark.parametrize(("M", "N", "D"), [(1, 1, 1), (45, 61, 20), (385, 389, 9)])
def test_without_a_guide_a_threshold_is_compared_with_the_score(rng, M, N, D, plan):
    x, y, bias = unit_rows(rng, M, D), unit_rows(rng, N, D), rng.normal(size=M)
    ordered = np.sort(ref.scores(x, y, 5.0, bias), 1)
    # Halfway between two neighbours, where no rounding decides.
    at = np.argmax(np.diff(ordered[:, N // 3 : N // 3 * 2 + 2], prepend=-9.0), 1) + N // 3
    limit = (ordered[np.arange(M), at] + ordered[np.arange(M), np.maximum(at - 1, 0)]) / 2
    for dtype in (torch.float32, torch.float64):
        tensors = [torch.from_numpy(part).to(dtype) for part in (x, y, bias, limit)]
        want = ref.pair_lse(x, y, scale=5.0, x_bias=bias, direction="both", threshold=limit)
        got = pair_lse(*tensors[:2], scale=5.0, x_bias=tensors[2], direction="both", threshold=tensors[3], plan=plan)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_the_guide_may_have_another_dtype_than_the_inputs(rng, dtype, features):
    x, y = (rounded(unit_rows(rng, rows, 9), dtype) for rows in (50, 70))
    guide = integers(50, 5, features), integers(70, 5, features)
    limit = torch.full((50,), 0.5)
    want = ref.pair_lse(x[1], y[1], direction="both", threshold=limit, guide=[part.double() for part in guide])
    for plan in ("dense", "recompute"):
        for got, truth in zip(pair_lse(x[0], y[0], direction="both", threshold=limit, guide=guide, plan=plan), want,
                              strict=True):  # fmt: skip
            np.testing.assert_allclose(got, truth, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("plan", ["dense", "recompute"])
def test_an_empty_row_is_minus_infinity_with_zero_gradient(plan):
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    ids = torch.tensor([0, 1, 2])
    row, column = pair_lse(x, y, x_ids=ids, y_ids=torch.zeros(5, dtype=torch.int64), direction="both", plan=plan)
    assert row[0] == -INF and torch.isfinite(row[1:]).all() and torch.isfinite(column).all()
    row.masked_fill(row == -INF, 0.0).sum().backward()
    assert (x.grad[0] == 0).all() and torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


@pytest.mark.parametrize("plan", ["dense", "recompute"])
@pytest.mark.parametrize(("M", "N"), [(0, 4), (4, 0), (0, 0)])
def test_no_rows_or_no_columns(M, N, plan):
    x, y = torch.ones(M, 3, requires_grad=True), torch.ones(N, 3, requires_grad=True)
    row, column = pair_lse(x, y, direction="both", plan=plan)
    assert row.shape == (M,) and column.shape == (N,)
    assert (row == -INF).all() and (column == -INF).all()
    (row.masked_fill(row == -INF, 0.0).sum() + column.masked_fill(column == -INF, 0.0).sum()).backward()
    assert (x.grad == 0).all() and (y.grad == 0).all()


@given(seed=st.integers(0, 2**31), M=st.integers(1, 40), cut=st.floats(0, 1), temperature=st.sampled_from(TEMPERATURES))
def test_blocks_of_columns_merge_to_the_whole(seed, M, cut, temperature):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(unit_rows(rng, rows, 8)).float() for rows in (M, 50))
    at = round(cut * 50)
    parts = [pair_lse(x, part, scale=1 / temperature, plan="recompute")[0] for part in (y[:at], y[at:])]
    whole = pair_lse(x, y, scale=1 / temperature, plan="recompute")[0]
    torch.testing.assert_close(merge_lse(*parts), whole, rtol=2e-6, atol=2e-6)


@given(seed=st.integers(0, 2**31), plan=st.sampled_from(["dense", "recompute"]))
def test_the_order_of_columns_does_not_matter(seed, plan):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(unit_rows(rng, rows, 8)).float() for rows in (20, 30))
    order = torch.from_numpy(rng.permutation(30))
    row, column = pair_lse(x, y, scale=10.0, direction="both", plan=plan)
    row2, column2 = pair_lse(x, y[order], scale=10.0, direction="both", plan=plan)
    torch.testing.assert_close(row2, row, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(column2, column[order], rtol=1e-6, atol=1e-6)


def test_merging_two_empty_blocks_has_zero_gradient():
    a = torch.full((2,), -INF, requires_grad=True)
    merged = merge_lse(a, torch.tensor([-INF, 0.0]))
    assert merged.tolist() == [-INF, 0.0]
    merged[1].backward()
    assert a.grad.tolist() == [0.0, 0.0]


def test_float64_equals_the_reference_and_its_chunks(rng, monkeypatch):
    x, y = rng.normal(size=(37, 5)), rng.normal(size=(41, 5))
    want = ref.pair_lse(x, y, scale=2.0, direction="both", skip_diagonal=True)
    monkeypatch.setattr("simtile._plan.WORKSPACE_BYTES", 8 * 41 * 3 * 5)  # chunks of 5 rows
    for plan in ("dense", "recompute"):
        got = pair_lse(*map(torch.from_numpy, (x, y)), scale=2.0, direction="both", skip_diagonal=True, plan=plan)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


BAD = [
    ({"x": [[1.0]]}, TypeError, "x: a torch.Tensor, got list"),
    ({"x": torch.ones(2)}, ValueError, "x: a matrix"),
    ({"x": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "x: float32"),
    ({"y": torch.ones(2, 4)}, ValueError, "y: as many columns as x, 3, got shape"),
    ({"y": torch.ones(2, 3).double()}, TypeError, "y: the dtype of x"),
    ({"scale": "1"}, TypeError, "scale: a number"),
    ({"scale": INF}, ValueError, "scale: a finite number, got inf"),
    ({"scale": torch.ones(2)}, ValueError, "scale: a number or a floating tensor of one element"),
    ({"x_bias": torch.ones(3)}, ValueError, r"x_bias: floating point, shape \(2,\), got"),
    ({"x_ids": torch.arange(2)}, ValueError, "y_ids: needed together with x_ids, got None"),
    ({"x_ids": torch.ones(2), "y_ids": torch.arange(2)}, TypeError, "x_ids: integers"),
    ({"ids_mode": "only"}, ValueError, "ids_mode: 'only' needs x_ids"),
    ({"ids_mode": "flip"}, ValueError, "ids_mode: one of 'exclude', 'only', got 'flip'"),
    ({"exclude": torch.arange(3)}, TypeError, "exclude: a pair"),
    ({"exclude": (torch.arange(2), torch.arange(1))}, ValueError, r"exclude\[0\] \(indptr\): shape \(3,\)"),
    ({"threshold": torch.ones(3)}, ValueError, r"threshold: floating point, shape \(2,\), got"),
    ({"guide": (torch.ones(2, 1), torch.ones(2, 1))}, ValueError, "threshold: needed together with guide, got None"),
    ({"threshold": torch.ones(2), "guide": torch.ones(2, 1)}, TypeError, "guide: a pair of matrices"),
    ({"threshold": torch.ones(2), "guide": (torch.ones(3, 1), torch.ones(2, 1))}, ValueError, r"guide\[0\]: 2 rows"),
    ({"threshold": torch.ones(2), "guide": (torch.ones(2, 1), torch.ones(2, 2))}, ValueError, r"guide\[1\]: as many"),
    ({"direction": "rows"}, ValueError, "direction: one of"),
    ({"plan": "fast"}, ValueError, "plan: one of"),
    ({"plan": "chunked"}, ValueError, "plan: 'chunked' needs a reduced, one-sided loss"),
    ({"plan": "stash"}, ValueError, "plan: 'stash' is for two-sided log-sum-exps of bfloat16 inputs"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[m for _, _, m in BAD])
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        pair_lse(**{"x": torch.ones(2, 3), "y": torch.ones(2, 3), **arguments})
