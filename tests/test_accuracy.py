"""The judge of every other test (``accuracy.py``) must not be lenient by accident."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accuracy import assert_as_accurate, opposed_row, rounded, saturated_pairs, with_duplicates, with_zero_rows

EXACT = np.array([1.0, -2.0, 0.5])
ULP = float(np.finfo(np.float32).eps)  # at 1.0


def f32(*offsets: float) -> np.ndarray:
    return (EXACT + np.array(offsets)).astype(np.float32)


def test_twice_the_error_of_plain_torch_passes_and_more_fails():
    naive = f32(0, 0, 1e-3)
    assert_as_accurate(f32(2e-3, 0, 0), naive, EXACT)
    with pytest.raises(AssertionError, match=r"2 x 1\.0\d+e-03 of plain torch"):
        assert_as_accurate(f32(2.1e-3, 0, 0), naive, EXACT)


def test_a_lucky_plain_torch_leaves_a_floor_of_a_few_ulp_of_the_largest_value():
    exactly = f32(0, 0, 0)
    assert_as_accurate(f32(0, 0, 8 * ULP), exactly, EXACT)
    with pytest.raises(AssertionError, match="4 ulp"):
        assert_as_accurate(f32(0, 0, 9 * ULP), exactly, EXACT)
    assert_as_accurate(f32(0, 0, 300 * ULP), exactly, EXACT, magnitude=100.0)


def test_the_floor_is_that_of_the_dtype_of_the_result():
    near = torch.tensor([1.0, -2.0, 0.5078125], dtype=torch.bfloat16)
    assert_as_accurate(near, torch.from_numpy(EXACT).bfloat16(), EXACT)
    with pytest.raises(AssertionError):
        assert_as_accurate(near.float(), torch.from_numpy(EXACT).float(), EXACT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_result_that_is_not_finite_fails_even_where_plain_torch_is_no_better(bad):
    naive = f32(0, 0, bad)
    with pytest.raises(AssertionError):
        assert_as_accurate(naive, naive, EXACT)
    assert_as_accurate(f32(0, 0, 0), naive, EXACT)


def test_infinities_must_be_the_same_and_may_be_all_there_is():
    truth = np.array([-np.inf, 1.0])
    good = truth.astype(np.float32)
    assert_as_accurate(good, good, truth)
    assert_as_accurate(good[:1], good[:1], truth[:1])
    assert_as_accurate(good[:0], good[:0], truth[:0])
    for bad in (np.inf, 0.0, np.nan):
        with pytest.raises(AssertionError):
            assert_as_accurate(np.array([bad, 1.0], dtype=np.float32), good, truth)


def test_shapes_must_agree_and_the_truth_is_float64():
    with pytest.raises(AssertionError, match="shapes"):
        assert_as_accurate(f32(0, 0, 0)[:, None], f32(0, 0, 0), EXACT)
    with pytest.raises(AssertionError, match="float64"):
        assert_as_accurate(f32(0, 0, 0), f32(0, 0, 0), f32(0, 0, 0))


def test_rounded_gives_the_truth_of_the_rounded_values():
    tensor, exact = rounded([0.1, 1 / 3], torch.bfloat16)
    assert tensor.dtype == torch.bfloat16 and exact.dtype == np.float64
    np.testing.assert_array_equal(tensor.double().numpy(), exact)


def test_inputs_are_what_their_names_say(rng):
    assert len(np.unique(with_duplicates(rng, 12, 3), axis=0)) <= 4
    np.testing.assert_array_equal(np.linalg.norm(with_zero_rows(rng, 7, 3), axis=1) < 0.5, np.arange(7) % 3 == 0)
    query, key = saturated_pairs(rng, 6, 8)
    assert ((query * key).sum(axis=1) > 1 - 1e-5).all()
    x, y = opposed_row(rng, 4, 5, 6)
    np.testing.assert_allclose((x @ y.T)[0], -1, atol=1e-12)
    assert (x @ y.T)[1:].min() > 0.99
