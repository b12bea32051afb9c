"""Cut-offs: maps that never change an order, ragged lists, and an adapter that learns what one threshold cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.isotonic import IsotonicRegression

from simtile.hubness.cosine_adapter import CosineAdapter
from simtile.hubness.cutoff import SHAPES, IsotonicMap, choose_threshold, cut, monotone_map


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES))
def test_no_map_changes_a_ranking(seed: int, shape: str) -> None:
    rng = np.random.default_rng(seed)
    s = np.sort(rng.uniform(-1, 1, (4, 9)), axis=1)
    a, b, c = rng.uniform(0.1, 20, 4), rng.normal(size=4), rng.uniform(0.2, 4, 4)
    mapped = monotone_map(s, shape, a, b, c)  # type: ignore[arg-type]
    assert (np.diff(mapped, axis=1) >= 0).all()


def test_maps_have_the_values_of_their_formulas() -> None:
    s = np.array([[0.25, 0.04]])
    np.testing.assert_allclose(monotone_map(s, "linear", 2.0, 1.0), [[1.5, 1.08]])
    np.testing.assert_allclose(monotone_map(s, "sqrt", 2.0), [[1.0, 0.4]])
    np.testing.assert_allclose(monotone_map(s, "power", 1.0, 0.0, 2.0), [[0.0625, 0.0016]])
    np.testing.assert_allclose(monotone_map(s, "sigmoid", 4.0, -1.0), 1 / (1 + np.exp(1 - 4 * s)))


def test_lists_are_cut_at_the_threshold_between_least_and_most() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2], [0.9, -np.inf, -np.inf]])
    ids = np.array([[3, 1, 2], [5, 6, 7], [8, -1, -1]])
    found = cut(scores, ids, 0.5)
    assert found.indptr.tolist() == [0, 2, 2, 3]
    assert found.ids.tolist() == [3, 1, 8]
    assert len(found) == 3
    assert found[0][0].tolist() == [3, 1]
    assert cut(scores, ids, 0.5, max_k=1, min_k=1).ids.tolist() == [3, 5, 8]
    assert cut(scores, ids, -np.inf, min_k=3).ids.tolist() == [3, 1, 2, 5, 6, 7, 8]


def test_bad_cuts_are_named() -> None:
    one = np.array([[1, 2]])
    for scores, ids, how, message in (
        ([[0.1, 0.2]], one, {}, "best first"),
        ([[0.2, np.nan]], one, {}, "NaN"),
        ([[0.2]], one, {}, "one shape"),
        ([[0.2, 0.1]], one, {"min_k": 3}, "min_k: 0..2"),
    ):
        with pytest.raises(ValueError, match=message):
            cut(np.array(scores), ids, 0.0, **how)
    with pytest.raises(ValueError, match="shape: one of"):
        monotone_map(one, "cubic", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a, c: positive"):
        monotone_map(one, "linear", -1.0)


def test_an_adapter_does_not_mind_where_the_scores_lie_and_how_close_together(rng: np.random.Generator) -> None:
    """Cosines of one model may all lie within a few hundredths."""
    queries = torch.from_numpy(rng.normal(size=(60, 3)))
    scores, relevant = (torch.from_numpy(rng.random((60, 5))) for _ in range(2))
    found = []
    for shifted in (scores, 0.9 + 0.01 * scores):
        torch.manual_seed(0)
        adapter = CosineAdapter(3, hidden=8).double()
        adapter.fit(queries, shifted, relevant.round(), epochs=3, batch=20)
        found.append(adapter(queries, shifted))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40))
def test_the_isotonic_map_is_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    s, y = rng.integers(0, 12, n) / 10, rng.integers(0, 2, n)
    exact = IsotonicRegression(out_of_bounds="clip").fit(s, y)
    at = np.linspace(-0.5, 2, 30)
    np.testing.assert_allclose(IsotonicMap().fit(s, y)(at), exact.predict(at), atol=1e-12)


def test_the_chosen_threshold_has_the_best_f1(rng: np.random.Generator) -> None:
    s = rng.integers(0, 20, (30, 8)) / 20
    y = rng.random((30, 8)) < s
    found = choose_threshold(s, y)

    def f1(t: float) -> float:
        taken = s >= t
        return float(2 * (taken & y).sum() / (taken.sum() + y.sum()))

    assert f1(found) == pytest.approx(max(f1(t) for t in np.unique(s)))


def test_an_adapter_learns_each_querys_own_scale(rng: np.random.Generator) -> None:
    """Half of the queries have relevant results from 0.3 on, the other half from 0.7 on: no threshold fits both."""
    kind = rng.integers(0, 2, 400)
    queries = torch.from_numpy(np.stack([kind, 1 - kind], axis=1).astype(np.float32))
    scores = torch.from_numpy(np.sort(rng.random((400, 10)).astype(np.float32), axis=1)[:, ::-1].copy())
    relevant = scores > torch.from_numpy(np.where(kind == 1, 0.3, 0.7).astype(np.float32))[:, None]

    def accuracy(values: torch.Tensor) -> float:
        t = choose_threshold(values.numpy(), relevant.numpy())
        return float(((values >= t) == relevant).float().mean())

    torch.manual_seed(0)
    for shape in ("linear", "sqrt", "quadratic", "power"):
        adapter = CosineAdapter(2, shape=shape, hidden=16)  # type: ignore[arg-type]
        losses = adapter.fit(queries, scores, relevant, epochs=25, batch=32, lr=2e-2)
        with torch.no_grad():
            mapped = adapter(queries, scores)
        assert losses[-1] < losses[0]
        assert (mapped.diff(dim=1) <= 0).all()
        assert accuracy(mapped) > 0.9 > 0.85 > accuracy(scores)
    with pytest.raises(ValueError, match="queries, scores, relevant"):
        adapter.fit(queries[:3], scores, relevant)
    with pytest.raises(ValueError, match="shape: one of"):
        CosineAdapter(2, shape="cubic")  # type: ignore[arg-type]
