"""Statistics against a bank: the CPU engine and the float64 reference, in full precision and over 8-bit codes."""

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
    huge = np.full((2, 2), 1e30, np.float32) * np.array([1, -1], np.float32)  # scores of inf - inf
    for bank, y, betas in ((bad, one, [1.0]), (one, bad, [1.0]), (one, one, [np.nan]), (huge, abs(huge), [1.0])):
        with pytest.raises(ValueError, match="finite"):
            _core.pair_stats(bank, y, betas, 1)


def bytes_as_floats(rng: np.random.Generator, rows: int, d: int) -> NDArray[np.float32]:
    """Rows that 8-bit codes hold exactly: multiples of a step of each row's own, the largest 127 of them."""
    x = rng.integers(-126, 127, (rows, d)).astype(np.float32)
    x[:, rng.integers(d)] = 127
    return x * np.exp2(-rng.integers(8, 11, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("codes", [True, False])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("n", "m", "d"), [*SHAPES, pytest.param(700, 250, 9, id="more rows than a unit")])
def test_a_store_gives_the_same_from_its_first_pass(
    rng: np.random.Generator, n: int, m: int, d: int, isa: str, codes: bool
) -> None:
    bank, y = bytes_as_floats(rng, n, d), bytes_as_floats(rng, m, d)
    bias = rng.standard_normal(n).astype(np.float32)
    ks = (1, min(n, 7))
    # The bias is a score's part that one more coordinate gives.
    exact = reference.pair_stats(
        np.hstack([bank, bias[:, None]]), np.hstack([y, np.ones((m, 1), np.float32)]), betas=BETAS, ks=ks
    )
    store = _core.ExactStore(bank, item_bias=bias, codes=codes, isa=isa)
    lse, mean, var, top = store.stats(y, BETAS, max(ks), isa=isa)
    tolerance = 1e-5 * max(1.0, np.abs(exact.top).max())
    np.testing.assert_allclose(lse, exact.lse, rtol=1e-5, atol=30 * tolerance)
    np.testing.assert_allclose(mean, exact.mean, atol=tolerance)
    np.testing.assert_allclose(var, exact.var, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(top, exact.top, atol=tolerance)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_codes_are_as_near_as_their_documentation_says(rng: np.random.Generator, metric: str) -> None:
    bank, y = features(rng, 3000, 384) + np.float32(0.02), 7 * features(rng, 100, 384)
    wide = y / np.linalg.norm(y, axis=1, keepdims=True) if metric == "cosine" else y
    units = bank / np.linalg.norm(bank, axis=1, keepdims=True) if metric == "cosine" else bank
    s = units.astype(np.float64) @ wide.T.astype(np.float64)
    norms = 1.0 if metric == "cosine" else 7 * np.linalg.norm(bank, axis=1).max()
    store = _core.ExactStore(bank, metric=metric)
    _, mean, _, top = store.stats(y, [], 10)
    assert np.abs(top - np.sort(s, axis=0)[::-1][:10]).std() < norms / 2000
    assert np.abs(mean - s.mean(axis=0)).max() < norms / 2000


def test_statistics_of_a_store_are_the_same_bits_for_any_number_of_threads(rng: np.random.Generator) -> None:
    store, y = _core.ExactStore(features(rng, 1500, 40)), features(rng, 1000, 40)
    for a, b in zip(store.stats(y, BETAS, 5), store.stats(y, BETAS, 5, num_threads=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_first_pass_cannot_score_is_an_error(rng: np.random.Generator) -> None:
    x, y = features(rng, 50, 8), features(rng, 4, 8)
    directions = np.eye(8, dtype=np.float32)
    for store in (_core.ExactStore(x, metric="l2"), _core.ExactStore(x, directions=directions, leading=(0, 4))):
        with pytest.raises(ValueError, match="inner products or cosines"):
            store.stats(y, [1.0], 1)
    store = _core.ExactStore(x)
    for rows, betas, message in ((y * np.float32(np.nan), [1.0], "rows"), (y, [np.inf], "betas")):
        with pytest.raises(ValueError, match=message):
            store.stats(rows, betas, 1)
    with pytest.raises(ValueError, match="rows: too large"):
        store.stats(y * np.float32(1e25), [1.0], 1)
    with pytest.raises(ValueError, match="vectors: too large"):
        _core.ExactStore(x * np.float32(1e25)).stats(y, [1.0], 1)
