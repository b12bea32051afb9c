"""Statistics against a bank: the CPU engine and the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simtile import _core
from simtile.kernels import reference

SHAPES = [
    pytest.param(1, 1, 1, id="one of everything"),
    pytest.param(5, 3, 2, id="below a tile"),
    pytest.param(384, 48, 64, id="one strip exactly"),
    pytest.param(1001, 53, 131, id="ragged in every dimension"),
    pytest.param(10_007, 5, 20, id="a bank that is packed in several parts"),
]
BETAS = (1.0, 30.0, -5.0)
ISAS = _core.isas()


def features(rng: np.random.Generator, rows: int, d: int) -> NDArray[np.float32]:
    x = rng.standard_normal((rows, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_agrees_with_the_reference_on_every_instruction_set(
    rng: np.random.Generator, n: int, m: int, d: int, isa: str
) -> None:
    bank, y = features(rng, n, d), features(rng, m, d)
    ks = (1, min(n, 7))
    exact = reference.pair_stats(bank, y, betas=BETAS, ks=ks)
    lse, mean, var, top = _core.pair_stats(bank, y, BETAS, max(ks), isa=isa)
    # Scores of unit vectors are off by 1e-7, and beta multiplies that.
    np.testing.assert_allclose(lse, exact.lse, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(mean, exact.mean, atol=2e-7)
    np.testing.assert_allclose(var, exact.var, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(top, exact.top, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_the_number_of_threads_changes_no_bit(rng: np.random.Generator, isa: str) -> None:
    bank, y = features(rng, 1500, 40), features(rng, 200, 40)
    one, three = (_core.pair_stats(bank, y, BETAS, 5, num_threads=t, isa=isa) for t in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_variance_survives_a_mean_a_million_times_larger(rng: np.random.Generator) -> None:
    bank = np.stack([np.ones(5000), rng.standard_normal(5000) * 2**-10], axis=1).astype(np.float32)
    y = np.array([[1000.0, 1.0]], np.float32)
    _, mean, var, _ = _core.pair_stats(bank, y, [], 0)
    # Of the scores as float32 holds them: the engine cannot know more.
    scores = (bank @ y.T).astype(np.float64)
    np.testing.assert_allclose(mean, scores.mean(), rtol=1e-9)
    np.testing.assert_allclose(var, scores.var(), rtol=1e-3)


def test_extreme_scales_do_not_overflow(rng: np.random.Generator) -> None:
    bank, y = 20 * features(rng, 500, 16), 20 * features(rng, 9, 16)
    lse = _core.pair_stats(bank, y, [333.0, -333.0], 0)[0]
    np.testing.assert_allclose(lse, reference.pair_stats(bank, y, betas=(333.0, -333.0)).lse, rtol=1e-6)


def test_bfloat16_is_taken_as_it_is(rng: np.random.Generator) -> None:
    bits = [(features(rng, rows, 24).view(np.uint32) >> 16).astype(np.uint16) for rows in (300, 11)]
    wide = [(b.astype(np.uint32) << 16).view(np.float32) for b in bits]
    for found, exact in zip(_core.pair_stats(*bits, [20.0], 3), _core.pair_stats(*wide, [20.0], 3), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_an_empty_bank_is_neutral(rng: np.random.Generator) -> None:
    y = features(rng, 4, 8)
    lse, mean, var, top = _core.pair_stats(np.empty((0, 8), np.float32), y, [2.0], 3)
    assert np.isneginf(lse).all()
    assert not mean.any()
    assert not var.any()
    assert top.shape == (3, 4)
    assert np.isneginf(top).all()
    assert _core.pair_stats(y, np.empty((0, 8), np.float32), [2.0], 3)[3].shape == (3, 0)


def test_a_value_that_is_not_finite_is_an_error() -> None:
    one, bad = np.ones((2, 2), np.float32), np.full((2, 2), np.inf, np.float32)
    for bank, y, betas in ((bad, one, [1.0]), (one, bad, [1.0]), (one, one, [np.nan])):
        with pytest.raises(ValueError, match="finite"):
            _core.pair_stats(bank, y, betas, 1)
