"""Released code: its rankings and scores, written down from the formulas, and what it crashes on or gets wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from real_vectors import real_pairs
from simtile.hubness import METHODS, HubnessReducer, _compat, reference
from simtile.kernels.reference import unit

N, M, B, K = 900, 150, 400, 10
Float = NDArray[np.float64]


@pytest.fixture(scope="module")
def vectors() -> tuple[NDArray[np.float32], ...]:
    rng = np.random.default_rng(12)
    gallery, queries, bank = real_pairs(rng, N, M, B)
    return gallery, queries, bank, real_pairs(rng, B, 1, 1)[0]


def order(scores: Float) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def same(ids: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    return float((ids == exact).mean())


def released_qb_norm(s: Float, bank: Float, beta: float) -> Float:
    """Rows whose best item is some bank row's best: exp(beta s) / Σ exp(beta bank); the other rows as they are."""
    hubs = set(bank.argmax(axis=1))
    gated = np.array([row.argmax() in hubs for row in s])
    return np.where(gated[:, None], np.exp(beta * s) / np.exp(beta * bank).sum(axis=0), s)


def released_inverted_softmax(s: Float, bank: Float, beta: float) -> Float:
    return np.asarray(np.exp(beta * s) / np.exp(beta * bank).sum(axis=0))


def test_compat_gives_the_released_codes_scores(vectors: Any) -> None:
    gallery, queries, bank, items = vectors
    g, q, b, i = (unit(x) for x in (gallery, queries, bank, items))
    s, bank_s, items_s = q @ g.T, b @ g.T, i @ g.T
    plain = {"query_bank": bank}
    both = {"query_bank": bank, "gallery_bank": items}
    slopes = {"beta": 1 / 1.99, "beta_gallery": 3.0}
    cases: list[tuple[Any, str, dict[str, Any], dict[str, float], Float]] = [
        ("inverted_softmax", "qbnorm", plain, {"beta": 20.0}, released_inverted_softmax(s, bank_s, 20.0)),
        ("dynamic_inverted_softmax", "qbnorm", plain, {"beta": 20.0}, released_qb_norm(s, bank_s, 20.0)),
        (
            "dual_is", "dbnorm", both, slopes,
            released_inverted_softmax(s, bank_s, 1 / 1.99) * released_inverted_softmax(s, items_s, 3.0),
        ),
        (
            "dual_dis", "dbnorm", both, slopes,
            released_qb_norm(s, bank_s, 1 / 1.99) * released_qb_norm(s, items_s, 3.0),
        ),
    ]  # fmt: skip
    for method, compat, banks, options, exact in cases:
        scores, ids = HubnessReducer(method, compat=compat, **options).fit(gallery, **banks).search(queries, K)
        assert same(ids, order(exact)) >= 0.999, method
        np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), rtol=3e-5, err_msg=method)
        if method != "dual_dis":
            ours = HubnessReducer(method, **options).fit(gallery, **banks).search(queries, K)[1]
            assert same(ours, order(exact)) >= 0.999, method


def test_nnn_equals_nnn_retrieval(vectors: Any) -> None:
    nnn = pytest.importorskip("nnn", reason="pip install --no-deps nnn-retrieval", exc_type=ImportError)
    gallery, queries, bank, _ = (unit(x).astype(np.float32) for x in vectors)
    retriever = nnn.NNNRetriever(gallery.shape[1], use_gpu=False)
    ranker = nnn.NNNRanker(retriever, gallery, bank, alternate_ks=64, alternate_weight=0.75, batch_size=50)
    scores, ids = ranker.search(queries, K)
    ours = HubnessReducer("nnn", k=64, alpha=0.75).fit(gallery, query_bank=bank).search(queries, K)
    assert same(ours[1], ids) >= 0.999
    np.testing.assert_allclose(ours[0], scores, atol=1e-5)


def test_scores_of_a_hundredfold_scale_stay_finite(vectors: Any) -> None:
    """QB-Norm's released formula has nothing finite left there."""
    g, q, b = (10 * unit(x) for x in vectors[:3])
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(released_qb_norm(q @ g.T, b @ g.T, 20.0)).all()
    scores, _ = HubnessReducer("dynamic_inverted_softmax", metric="ip").fit(g, query_bank=b).search(q, K)
    assert np.isfinite(scores).all()


def test_gated_and_ungated_rows_share_a_scale(vectors: Any) -> None:
    """In the released code the two kinds of rows differ by orders of magnitude."""
    gallery, queries, bank, _ = vectors
    reducer = HubnessReducer("dynamic_inverted_softmax").fit(gallery, query_bank=bank[:60])
    _, gates = reducer._fitted().gated.search(np.ascontiguousarray(unit(queries), np.float32), K, None, 1)[1:]
    best = reducer.search(queries, 1)[0][:, 0]
    assert 10 < gates.sum() < M - 10
    spread = best.std()
    assert abs(best[gates[:, 0]].mean() - best[~gates[:, 0]].mean()) < 3 * spread


def test_no_argument_is_written_to(vectors: Any) -> None:
    copies = [x.copy() for x in vectors]
    for method in METHODS:
        banks: dict[str, Any] = {} if method == "dual_softmax" else {"query_bank": vectors[2]}
        if method in ("dual_is", "dual_dis"):
            banks["gallery_bank"] = vectors[3]
        HubnessReducer(method).fit(vectors[0], **banks).search(vectors[1], K)
    for now, before in zip(vectors, copies, strict=True):
        np.testing.assert_array_equal(now, before)


def test_a_bank_smaller_than_k_is_an_error_that_says_so(vectors: Any) -> None:
    for method in ("nnn", "csls", "local_scaling", "nicdm", "dissim_local"):
        with pytest.raises(ValueError, match="query_bank: at least 128 rows, got 20"):
            HubnessReducer(method, k=128).fit(vectors[0], query_bank=vectors[2][:20])


def test_new_queries_need_no_new_fit(vectors: Any) -> None:
    gallery, queries, bank, _ = vectors
    reducer = HubnessReducer("csls").fit(gallery, query_bank=bank)
    whole = reducer.search(queries, K)[1]
    np.testing.assert_array_equal(np.vstack([reducer.search(q, K)[1] for q in queries[:20]]), whole[:20])


def test_local_scaling_of_the_reference_lies_between_0_and_1(vectors: Any) -> None:
    g, q, b = (unit(x) for x in vectors[:3])
    scaled = reference.local_scaling(q @ g.T, b @ g.T)
    assert 0 <= scaled.min() <= scaled.max() <= 1


def test_duplicates_in_the_bank_give_no_division_by_zero(vectors: Any) -> None:
    gallery, queries, _, _ = vectors
    for method in ("local_scaling", "nicdm", "mutual_proximity"):
        bank = gallery[np.repeat(np.arange(20), 20)]
        scores, ids = HubnessReducer(method).fit(gallery, query_bank=bank).search(queries, K)
        assert np.isfinite(scores).all()
        assert (ids >= 0).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("proves", ["few candidates", "many", "nothing"])
def test_released_dual_dis_is_right_where_scores_are_negative_or_equal(
    seed: int, proves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few dimensions: half of the scores are negative. Where nothing is proved, rows are computed for every item."""
    tangent = _compat._tangent
    if proves == "few candidates":
        monkeypatch.setattr(_compat, "_LEAST", 1)
    elif proves == "nothing":

        def without_proof(*arguments: Any) -> Any:
            found, proved = tangent(*arguments)
            return found, np.zeros_like(proved)

        monkeypatch.setattr(_compat, "_tangent", without_proof)
    rng = np.random.default_rng(seed)
    gallery, queries, bank, items = (unit(rng.standard_normal((n, 3))) for n in (90, 60, 12, 9))
    gallery[40:50] = gallery[7]
    allowed = rng.random(90) < 0.5 if seed % 2 else None
    k = (5, 20, 90, 120)[seed % 4]
    reducer = HubnessReducer("dual_dis", compat="dbnorm", beta=2.0, beta_gallery=9.0)
    reducer.fit(gallery, query_bank=bank, gallery_bank=items)
    scores, ids = reducer.search(queries, k, filter=allowed)
    s, mask = queries @ gallery.T, np.ones(90, dtype=bool) if allowed is None else allowed
    best = np.where(mask, s, -np.inf).argmax(axis=1)
    exact = np.ones_like(s)
    for other, beta in ((bank @ gallery.T, 2.0), (items @ gallery.T, 9.0)):
        opened = np.isin(best, other.argmax(axis=1))[:, None]
        exact *= np.where(opened, np.exp(beta * s) / np.exp(beta * other).sum(axis=0), s)
    exact[:, ~mask] = -np.inf
    wanted = -np.sort(-exact, axis=1)[:, :k]
    held = wanted.shape[1]
    valid = np.isfinite(wanted)
    assert (ids[:, :held][~valid] == -1).all()
    assert (ids[:, held:] == -1).all()
    np.testing.assert_allclose(scores[:, :held][valid], wanted[valid], rtol=1e-4, atol=1e-6)
    got = np.take_along_axis(exact, np.maximum(ids[:, :held], 0), axis=1)
    np.testing.assert_allclose(got[valid], wanted[valid], rtol=1e-4, atol=1e-6)
    for row in ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum()
