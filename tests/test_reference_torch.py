"""The torch twin against the NumPy specification, and its gradients against finite differences."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from accuracy import csr, tensors
from simtile.kernels import reference as ref, reference_torch as twin

close = np.testing.assert_allclose
EXACT = {"rtol": 1e-12, "atol": 1e-12}
INF = math.inf

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


TWINS = ("pair_lse", "pair_nll", "pair_softplus", "nested_lse", "scores")


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_has_the_specifications_arguments(name):
    def arguments(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert arguments(getattr(twin, name)) == arguments(getattr(ref, name))


@given(
    seed=seeds, M=sizes, N=sizes, link=st.sampled_from(["lse", "softplus"]),
    reduction=st.sampled_from(["mean", "sum", "none"]), ids_mode=st.sampled_from(["exclude", "only"]),
    own=st.booleans(),
)  # fmt: skip
def test_the_twin_equals_the_specification(seed, M, N, link, reduction, ids_mode, own):
    rng = np.random.default_rng(seed)
    own = own and N >= M
    arrays = {"x": rng.normal(size=(M, 4)), "y": rng.normal(size=(N, 4))}
    options = {
        "x_bias": rng.normal(size=M), "y_bias": rng.normal(size=N),
        "x_ids": rng.integers(0, 3, M), "y_ids": rng.integers(0, 3, N),
    }  # fmt: skip
    exclude = csr(rng.random((M, N)) < 0.2)
    rest = {"scale": 3.0, "ids_mode": ids_mode}
    loss = {"target": None if own else rng.normal(size=M), "weight": rng.integers(0, 3, M).astype(float)}

    def torched(values):
        return {name: None if value is None else tensors(value)[0] for name, value in values.items()}

    mine = {**arrays, **options, **rest, "exclude": exclude}
    theirs = {**torched(arrays), **torched(options), **rest, "exclude": tuple(tensors(*exclude))}
    for a, b in zip(ref.pair_lse(direction="both", **mine), twin.pair_lse(direction="both", **theirs), strict=True):
        close(b, a, **EXACT)
    close(twin.pair_softplus(reduction=reduction, **theirs), ref.pair_softplus(reduction=reduction, **mine), **EXACT)
    got = twin.pair_nll(link=link, reduction=reduction, **torched(loss), **theirs)
    close(got, ref.pair_nll(link=link, reduction=reduction, **loss, **mine), **EXACT)
    nested = {"dims": (1, 4, 2), "scale": 3.0, "direction": "both"}
    for a, b in zip(ref.nested_lse(**arrays, **nested), twin.nested_lse(**torched(arrays), **nested), strict=True):
        close(b, a, **EXACT)


def leaves(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.normal(size=shape)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("direction", ["row", "column", "both"])
def test_gradcheck_pair_lse(rng, direction):
    ids = torch.tensor([0, 1, 2, 1, 0])

    def lse(x, y, scale, x_bias, y_bias):
        out = twin.pair_lse(
            x, y, scale=scale, x_bias=x_bias, y_bias=y_bias, x_ids=ids[:3], y_ids=ids, direction=direction
        )
        return tuple(t for t in out if t is not None)

    assert torch.autograd.gradcheck(lse, leaves(rng, (3, 2), (5, 2), (), (3,), (5,)))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_gradcheck_pair_nll(rng, link, own):
    weight = torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64)

    def nll(x, y, target, scale, y_bias):
        return twin.pair_nll(x, y, None if own else target, weight=weight, link=link, scale=scale, y_bias=y_bias)

    assert torch.autograd.gradcheck(nll, leaves(rng, (3, 2), (5, 2), (3,), (), (5,)))


def test_gradcheck_pair_softplus_and_nested_lse(rng):
    def softplus(x, y, scale, y_bias):
        return twin.pair_softplus(x, y, scale=scale, y_bias=y_bias, skip_diagonal=True)

    def nested(x, y, scale):
        return twin.nested_lse(x, y, (1, 3), scale=scale, direction="both")

    assert torch.autograd.gradcheck(softplus, leaves(rng, (3, 2), (4, 2), (), (4,)))
    assert torch.autograd.gradcheck(nested, leaves(rng, (3, 3), (4, 3), ()))


def test_gradcheck_merge_lse(rng):
    assert torch.autograd.gradcheck(twin.merge_lse, leaves(rng, (4,), (4,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_empty_rows_and_columns_get_zero_gradient_not_nan(rng, dtype):
    x, y = (t.detach().to(dtype).requires_grad_() for t in leaves(rng, (3, 4), (4, 4)))
    exclude = (torch.tensor([0, 4, 5, 6]), torch.tensor([0, 1, 2, 3, 2, 2]))  # row 0 and column 2 are empty
    row, column = twin.pair_lse(x, y, exclude=exclude, direction="both")
    assert row[0] == -INF and column[2] == -INF
    dx, dy = torch.autograd.grad([row, column], [x, y], [torch.ones_like(row), torch.ones_like(column)])
    assert dx.dtype == dtype
    assert torch.isfinite(dx).all() and torch.isfinite(dy).all()
    assert (dx[0] == 0).all() and (dy[2] == 0).all() and (dx[1:] != 0).any()


def test_a_bias_of_minus_infinity_empties_rows_without_nan_gradients(rng):
    x, y = leaves(rng, (2, 3), (4, 3))
    row, column = twin.pair_lse(x, y, y_bias=torch.full((4,), -INF, dtype=torch.float64), direction="both")
    assert (row == -INF).all() and (column == -INF).all()
    for gradient in torch.autograd.grad(row.sum() + column.sum(), [x, y]):
        assert (gradient == 0).all()


def test_weights_are_constants_without_a_gradient(rng):
    x, y, weight = leaves(rng, (3, 2), (4, 2), (3,))
    loss = twin.pair_nll(x, y, None, weight=weight, reduction="sum")
    assert torch.autograd.grad(loss, weight, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_inputs_are_computed_in_float32(rng, dtype):
    x, y = (t.detach().to(dtype) for t in leaves(rng, (3, 8), (4, 8)))
    wide = x.float(), y.float()
    for op in (twin.pair_softplus, lambda *pair: twin.pair_nll(*pair, None)):
        got = op(x, y)
        assert got.dtype == torch.float32
        assert torch.equal(got, op(*wide))


@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_empty_rows_pull_on_no_target_and_absent_rows_may_hold_nan(rng, link):
    x, y, target = leaves(rng, (3, 2), (4, 2), (3,))
    with torch.no_grad():
        x[1], target[1] = math.nan, math.nan
    exclude = (torch.tensor([0, 4, 4, 4]), torch.arange(4))
    weight = torch.tensor([1.0, 0.0, 1.0])
    loss = twin.pair_nll(x, y, target, weight=weight, link=link, exclude=exclude)
    dx, dy, dt = torch.autograd.grad(loss, [x, y, target])
    for gradient in (dx, dy, dt):
        assert torch.isfinite(gradient).all()
    assert (dx[:2] == 0).all() and (dt[:2] == 0).all() and (dx[2] != 0).all()


def test_merge_lse_of_two_empty_blocks_has_zero_gradient():
    a = torch.tensor([-INF, -INF, 1.0], requires_grad=True)
    b = torch.tensor([-INF, 2.0, -INF], requires_grad=True)
    merged = twin.merge_lse(a, b)
    merged.sum().backward()
    np.testing.assert_array_equal(merged.detach(), [-INF, 2.0, 1.0])
    np.testing.assert_array_equal(a.grad, [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(b.grad, [0.0, 1.0, 0.0])
