"""The fused top-k of the CPU engine against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from simtile import _core
from simtile.kernels import reference

# One shape a regime: (M, N, D, k).
SHAPES = [
    pytest.param(1, 1, 1, 1, id="one of everything"),
    pytest.param(3, 5, 2, 9, id="below a tile, k beyond N"),
    pytest.param(24, 64, 128, 4, id="exact tiles, one chain of sums"),
    pytest.param(13, 333, 131, 10, id="ragged in every dimension"),
    pytest.param(2, 9001, 33, 100, id="few rows: the columns are shared out among threads"),
    pytest.param(500, 97, 20, 97, id="more rows than a unit, everything is returned"),
]
ISAS = _core.isas()


def bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check(found: tuple[Any, Any], x: Any, y: Any, k: int, **kwargs: Any) -> None:
    """Scores are those of their ids, in order, and no column that is left beats the last one by more than rounding."""
    scores, ids = found
    exact = reference.pair_topk(x, y, k, **kwargs)
    assert scores.shape == ids.shape == exact.ids.shape
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids == -1, exact.ids == -1)
    size = np.linalg.norm(x.astype(np.float64), axis=1).max() * np.linalg.norm(y.astype(np.float64), axis=1).max()
    tolerance = 2e-6 * size * (1 + np.abs(kwargs.get("y_scale") if kwargs.get("y_scale") is not None else 1.0).max())
    np.testing.assert_allclose(scores, exact.scores, rtol=2e-6, atol=tolerance)
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    for row, valid in zip(ids, ids >= 0, strict=True):
        assert len(set(row[valid])) == valid.sum()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "n", "d", "k"), SHAPES)
def test_agrees_with_the_reference_on_every_instruction_set(
    rng: np.random.Generator, m: int, n: int, d: int, k: int, isa: str
) -> None:
    x, y = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (m, n))
    scale, bias = rng.standard_normal(n, dtype=np.float32), rng.standard_normal(n, dtype=np.float32)
    check(_core.pair_topk(x, y, k, isa=isa), x, y, k)
    check(_core.pair_topk(x, y, k, y_scale=scale, y_bias=bias, isa=isa), x, y, k, y_scale=scale, y_bias=bias)
    xb, yb = bfloat16(x), bfloat16(y)
    check(_core.pair_topk(xb, yb, k, y_bias=bias, isa=isa), widened(xb), widened(yb), k, y_bias=bias)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "n", "d", "k"), SHAPES)
def test_the_number_of_threads_changes_no_bit(
    rng: np.random.Generator, m: int, n: int, d: int, k: int, isa: str
) -> None:
    x, y = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (m, n))
    one, two, five = (_core.pair_topk(x, y, k, num_threads=t, isa=isa) for t in (1, 2, 5))
    for other in (two, five):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=400),
    k=st.integers(0, 80),
    left_out=st.sets(st.integers(0, 399)),
    threads=st.integers(1, 3),
)
def test_equal_scores_come_by_the_smaller_id(values: list[int], k: int, left_out: set[int], threads: int) -> None:
    y = np.array(values, np.float32)[:, None]
    x = np.ones((1, 1), np.float32)
    indices = np.array(sorted(j for j in left_out if j < len(y)), np.int64)
    indptr = np.array([0, len(indices)], np.int64)
    scores, ids = _core.pair_topk(x, y, k, indptr=indptr, indices=indices, num_threads=threads)
    if k == 0:
        assert ids.shape == (1, 0)
        return
    exact = reference.pair_topk(x, y, k, exclude=(indptr, indices))
    np.testing.assert_array_equal(ids, exact.ids)
    np.testing.assert_array_equal(scores, exact.scores)


def test_zeros_of_either_sign_are_equal() -> None:
    y = np.array([[-1.0], [1.0], [-1.0], [1.0]], np.float32)
    x = np.zeros((1, 1), np.float32)
    assert _core.pair_topk(x, y, 4)[1].tolist() == [[0, 1, 2, 3]]


def test_empty_sides(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4), dtype=np.float32)
    empty = np.empty((0, 4), np.float32)
    scores, ids = _core.pair_topk(x, empty, 2)
    assert np.isneginf(scores).all()
    assert (ids == -1).all()
    assert _core.pair_topk(empty, x, 2)[1].shape == (0, 2)
    assert _core.pair_topk(np.empty((2, 0), np.float32), np.empty((3, 0), np.float32), 2)[1].tolist() == [[0, 1]] * 2


def test_the_diagonal_and_biases_of_minus_infinity_are_left_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((40, 8), dtype=np.float32)
    bias = np.zeros(40, np.float32)
    bias[::3] = -np.inf
    _, ids = _core.pair_topk(x, x, 40, y_bias=bias, diagonal="skip")
    for i, row in enumerate(ids):
        assert set(row) - {-1} == {j for j in range(40) if j % 3 and j != i}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_scale": np.zeros(3, np.float32)}, "y_scale"),
        ({"y_bias": np.full(5, np.inf, np.float32)}, "y_bias"),
        ({"y_scale": np.full(5, np.nan, np.float32)}, "y_scale"),
        ({"indptr": np.zeros(3, np.int64)}, "indptr, indices"),
        ({"indptr": np.array([0, 1, 2]), "indices": np.array([0, 5])}, "indices"),
        ({"x": np.full((2, 4), np.nan, np.float32)}, "finite"),
        ({"y": np.ones((5, 3), np.float32)}, "columns"),
        ({"num_threads": 0}, "num_threads"),
        ({"isa": "mmx"}, "isa"),
        ({"diagonal": "flip"}, "flip"),
    ],
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {"x": np.ones((2, 4), np.float32), "y": np.ones((5, 4), np.float32), "k": 2} | change
    with pytest.raises(ValueError, match=message):
        _core.pair_topk(**arguments)
