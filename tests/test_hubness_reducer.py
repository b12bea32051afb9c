"""The reducer's edges: bad input, candidate lists, tuning, files, scikit-learn's conventions, released code."""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from real_vectors import real_pairs
from simtile.executors import Executor
from simtile.hubness import (
    METHODS,
    HubnessReducer,
    NotFittedError,
    ShortListWarning,
)
from simtile.search import ExactIndex

N, M, B, K = 900, 150, 400, 10
Float = NDArray[np.float64]


@pytest.fixture(scope="module")
def vectors() -> tuple[NDArray[np.float32], ...]:
    rng = np.random.default_rng(12)
    gallery, queries, bank = real_pairs(rng, N, M, B)
    return gallery, queries, bank, real_pairs(rng, B, 1, 1)[0]


def same(ids: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    return float((ids == exact).mean())


def test_bad_input_is_named(vectors: Any) -> None:
    gallery, queries, bank, items = vectors
    bad = bank.copy()
    bad[3, 5] = np.nan
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({"method": "none"}, {}, ValueError, "method: one of"),
        ({"beta": -1.0}, {}, ValueError, "beta: positive"),
        ({"beta": "x"}, {}, TypeError, "beta: a number"),
        ({"k": 0}, {}, ValueError, "k: at least 1"),
        ({"k": 1.5}, {}, TypeError, "k: an integer"),
        ({"metric": "l2"}, {}, ValueError, "metric: one of"),
        ({"precision": "int4"}, {}, ValueError, "precision: one of"),
        ({"compat": "qbnorm", "method": "csls"}, {}, ValueError, "compat: 'qbnorm' goes with"),
        ({}, {"query_bank": None}, ValueError, "query_bank: method 'inverted_softmax' needs one"),
        ({"method": "dual_is"}, {}, ValueError, "gallery_bank: method 'dual_is' needs one"),
        ({}, {"gallery_bank": items}, ValueError, "gallery_bank: method 'inverted_softmax' takes none"),
        ({"method": "dual_softmax"}, {}, ValueError, "query_bank: method 'dual_softmax' takes none"),
        ({}, {"query_bank": bank[:0]}, ValueError, "query_bank: at least 1 row"),
        ({}, {"query_bank": bad}, ValueError, "query_bank: finite values in float32, got NaN or infinity in row 3"),
        ({}, {"query_bank": bank[:, :-1]}, ValueError, "query_bank: 384 columns, got 383"),
        ({}, {"query_bank": bank.astype(int)}, TypeError, "query_bank: float16"),
        ({}, {"query_bank": [1.0]}, TypeError, "query_bank: a NumPy array"),
        ({}, {"betas": [0.0]}, ValueError, "betas: positive"),
        ({"method": "nnn"}, {"betas": [1.0]}, ValueError, "betas: for"),
        ({"method": "nicdm", "metric": "ip"}, {}, ValueError, "gallery: vectors of unit length for 'nicdm'"),
    ]
    for options, how, kind, message in cases:
        with pytest.raises(kind, match=message):
            HubnessReducer(**options).fit(gallery, **{"query_bank": bank, **how})
    with pytest.raises(ValueError, match=r"gallery: shape \(N, D\)"):
        HubnessReducer().fit(gallery[0], query_bank=bank)
    huge = bank * np.float32(1e25)
    with pytest.raises(ValueError, match="query_bank, gallery_bank: values too large or too small"):
        HubnessReducer(metric="ip", precision="int8").fit(gallery, query_bank=huge)
    precisions: tuple[Any, ...] = ("float32", "bfloat16", "int8")
    for precision in precisions:
        with pytest.raises(ValueError, match="too large or too small"):
            HubnessReducer("csls", metric="ip", precision=precision).fit(gallery * np.float32(1e25), query_bank=huge)
    scaled = HubnessReducer(precision="int8").fit(gallery, query_bank=huge)
    assert scaled.search(queries, 3)[1].shape == (len(queries), 3)

    reducer = HubnessReducer().fit(gallery, query_bank=bank)
    for call, kind, message in (
        (lambda: reducer.search(queries[:, :5], 3), ValueError, "queries: 384 columns, got 5"),
        (lambda: reducer.search(queries, -1), ValueError, "k: at least 0"),
        (lambda: reducer.search(queries, 2.0), TypeError, "k: an integer"),  # type: ignore[arg-type]
        (lambda: reducer.remove_gallery(np.array([4, 4])), ValueError, "ids: different positions, got 4 twice"),
        (lambda: reducer.remove_gallery(np.array([N])), ValueError, "ids: positions in 0..899"),
        (lambda: reducer.add_gallery(gallery[:, :5]), ValueError, "gallery: 384 columns, got 5"),
        (reducer.partial_fit, ValueError, "query_bank: rows to add"),
        (lambda: reducer.augment(gallery[:5]), ValueError, "gallery: the 900 items"),
        (lambda: reducer.transform(np.zeros((1, 2)), np.array([[1, 1]])), ValueError, "ids: different ids in a row"),
        (lambda: reducer.transform(np.zeros((1, 2)), np.array([[1, N]])), ValueError, "ids: -1 or positions"),
        (lambda: reducer.transform(np.full((1, 2), np.nan), np.array([[1, 2]])), ValueError, "scores: finite"),
        (lambda: reducer.transform(np.zeros((1, 2)), np.array([[1]])), ValueError, "scores, ids: one shape"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_what_needs_fit_says_so() -> None:
    reducer = HubnessReducer()
    for use in (
        lambda: reducer.search(np.zeros((1, 2)), 1),
        reducer.augment,
        lambda: reducer.partial_fit(query_bank=np.zeros((1, 2))),
        lambda: reducer.item_bias_,
        lambda: reducer.save("x"),
    ):
        with pytest.raises(NotFittedError, match="call fit first"):
            use()
    assert issubclass(NotFittedError, ValueError)


@pytest.mark.parametrize(
    "method",
    [
        "dynamic_inverted_softmax",
        "mutual_proximity",
        "mutual_proximity_empirical",
        "globally_corrected",
        "dual_softmax",
    ],
)
def test_what_is_not_affine_cannot_be_exported(vectors: Any, method: Any) -> None:
    banks: dict[str, Any] = {} if method == "dual_softmax" else {"query_bank": vectors[2]}
    reducer = HubnessReducer(method).fit(vectors[0], **banks)
    for use in (reducer.augment, lambda: reducer.item_bias_):
        with pytest.raises(ValueError, match="is not affine"):
            use()


def test_an_empty_gallery_and_k_of_zero(vectors: Any) -> None:
    gallery, queries, bank, items = vectors
    for method in METHODS:
        banks: dict[str, Any] = {} if method == "dual_softmax" else {"query_bank": bank}
        if method in ("dual_is", "dual_dis"):
            banks["gallery_bank"] = items
        assert HubnessReducer(method).fit(gallery, **banks).search(queries, 0)[1].shape == (M, 0)
        scores, ids = HubnessReducer(method).fit(gallery[:0], **banks).search(queries, 2)
        assert (ids == -1).all(), method
        assert np.isneginf(scores).all(), method


@pytest.mark.parametrize(
    "method",
    [
        "inverted_softmax",
        "dynamic_inverted_softmax",
        "dual_dis",
        "csls",
        "nicdm",
        "mutual_proximity",
        "globally_corrected",
    ],
)
def test_lists_of_everything_are_corrected_as_search_does(vectors: Any, method: Any) -> None:
    gallery, queries, bank, items = vectors
    banks = {"query_bank": bank} | ({"gallery_bank": items} if method == "dual_dis" else {})
    reducer = HubnessReducer(method).fit(gallery, **banks)
    raw, ids = ExactIndex(gallery, metric="cosine").search(queries, N)
    how = {"queries": queries} if method == "mutual_proximity" else {}
    scores, found = reducer.transform(raw, ids, k=K, **how)
    exact_scores, exact = reducer.search(queries, K)
    # Lists hold ranks up to 128 only; search goes deeper where it must.
    shallow = exact_scores[:, -1] > -127 if method == "globally_corrected" else np.ones(M, dtype=bool)
    assert shallow.mean() > 0.5
    assert same(found[shallow], exact[shallow]) >= 0.999
    if method != "globally_corrected":
        np.testing.assert_allclose(scores, exact_scores, rtol=1e-4, atol=1e-5)


def test_short_lists_warn_and_long_ones_do_not(vectors: Any) -> None:
    gallery, queries, bank, _ = vectors
    reducer = HubnessReducer("nicdm").fit(gallery, query_bank=bank)
    exact = reducer.search(queries, K)[1]
    index = ExactIndex(gallery, metric="cosine")
    kept = {}
    for length in (12, 600):
        raw, ids = index.search(queries, length)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = reducer.transform(raw, ids, k=K)[1]
        kept[length] = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, exact, strict=True)])
        assert [w.category for w in caught] == ([ShortListWarning] if length == 12 else [])
    assert kept[12] < 0.9 < 0.98 < kept[600]


def test_padding_of_lists_stays_behind(vectors: Any) -> None:
    gallery, _, bank, _ = vectors
    reducer = HubnessReducer().fit(gallery, query_bank=bank)
    scores, ids = reducer.transform(np.array([[0.5, 0.0, 0.4]]), np.array([[7, -1, 3]]))
    assert set(ids[0, :2]) == {3, 7}
    assert ids[0, 2] == -1
    assert np.isneginf(scores[0, 2])


def test_tuning_takes_one_pass_and_finds_the_best_of_the_grid(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries, bank, _ = vectors
    index = ExactIndex(gallery, metric="cosine")
    truth = index.search(queries, 2)[1][:, 1]  # the second best by raw score: something a correction can find
    from simtile.hubness import _summary

    passes = []
    counted = _summary._core.pair_stats
    monkeypatch.setattr(_summary._core, "pair_stats", lambda *a, **k: passes.append(1) or counted(*a, **k))
    betas = (1.0, 10.0, 60.0)
    reducer = HubnessReducer(beta=10.0).fit(gallery, query_bank=bank, betas=betas)
    fit = len(passes)
    table = reducer.tune(queries, truth, betas=betas)
    assert len(passes) == fit
    assert [row["recall_at_1"] for row in table] == sorted((row["recall_at_1"] for row in table), reverse=True)
    recalls = {
        b: (HubnessReducer(beta=b).fit(gallery, query_bank=bank).search(queries, 1)[1][:, 0] == truth).mean()
        for b in betas
    }
    assert {row["beta"]: row["recall_at_1"] for row in table} == pytest.approx(recalls, abs=0.5 / M)
    assert reducer.beta == table[0]["beta"]
    best = HubnessReducer(beta=reducer.beta).fit(gallery, query_bank=bank).search(queries, K)
    np.testing.assert_array_equal(reducer.search(queries, K)[1], best[1])

    passes.clear()
    nnn = HubnessReducer("nnn", k=3).fit(gallery, query_bank=bank)
    table = nnn.tune(queries, truth, ks=(1, 50), alphas=(0.5, 1.0), objective="mrr")
    assert len(passes) == 2  # the fit, and one for all k
    assert len(table) == 4
    assert (nnn.k, nnn.alpha) == (table[0]["k"], table[0]["alpha"])
    for method, how, message in (
        ("nnn", {"betas": [1.0]}, "betas: method 'nnn' has no beta"),
        ("nnn", {"ks": [B + 1]}, "ks: at most the 400 rows"),
        ("sinkhorn", {}, "no statistics that serve"),
    ):
        with pytest.raises(ValueError, match=message):
            HubnessReducer(method).fit(gallery, query_bank=bank).tune(queries, truth, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method", ["inverted_softmax", "dual_dis", "nnn", "dissim_local", "sinkhorn", "globally_corrected"]
)
def test_a_file_brings_back_the_same_reducer(vectors: Any, method: Any, tmp_path: Path) -> None:
    gallery, queries, bank, items = vectors
    banks = {"query_bank": bank} | ({"gallery_bank": items} if method == "dual_dis" else {})
    reducer = HubnessReducer(method, k=7, beta=13.0, bank_folder=tmp_path / "bank").fit(gallery, **banks)
    reducer.save(tmp_path / "reducer.safetensors")
    again = HubnessReducer.load(tmp_path / "reducer.safetensors")
    for a, b in zip(reducer.search(queries, K), again.search(queries, K), strict=True):
        np.testing.assert_array_equal(a, b)
    for one in (reducer, again):
        one.partial_fit(query_bank=items)
        one.add_gallery(items[:50])
    for a, b in zip(reducer.search(queries, K), again.search(queries, K), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.get_params()["beta"] == 13.0


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no")
    for name in ("other.safetensors", "text"):
        with pytest.raises(ValueError, match="path: a file that save"):
            HubnessReducer.load(tmp_path / name)


def test_the_bank_can_live_in_files(vectors: Any, tmp_path: Path) -> None:
    gallery, queries, bank, _ = vectors
    kept = HubnessReducer(bank_folder=tmp_path).fit(gallery[:500], query_bank=bank[:300])
    kept.partial_fit(query_bank=bank[300:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["query-0000.npy", "query-0001.npy"]
    kept.add_gallery(gallery[500:])
    exact = HubnessReducer().fit(gallery, query_bank=bank).search(queries, K)
    np.testing.assert_allclose(kept.search(queries, K)[0], exact[0], atol=1e-6)


def test_scikit_learns_conventions(vectors: Any) -> None:
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError as _

    gallery, _queries, bank, _items = vectors
    reducer = HubnessReducer("nnn", k=5).fit(gallery, query_bank=bank)
    copy = clone(reducer)
    assert copy is not reducer
    assert copy.get_params() == reducer.get_params()
    with pytest.raises(NotFittedError):
        _ = copy.item_bias_
    assert copy.set_params(k=6).k == 6
    with pytest.raises(ValueError, match="depth: one of"):
        copy.set_params(depth=1)
    assert repr(copy) == "HubnessReducer('nnn', k=6)"
    assert HubnessReducer.from_paper("nnn", alpha=0.5).get_params()["k"] == 128


def test_executors_give_the_same_bits(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from simtile.hubness import _search, _summary

    monkeypatch.setattr(_summary, "BANK_BLOCK", 150)
    monkeypatch.setattr(_search, "QUERY_BLOCK", 40)
    gallery, queries, bank, _ = vectors

    class Elsewhere(Executor):
        """Out of order, and through pickle as in another process."""

        def stream(self, function: Any, blocks: Any, *, setup: Any = None) -> Any:
            worker = pickle.loads(pickle.dumps(setup))()
            for number, block in reversed(list(enumerate(blocks))):
                yield number, pickle.loads(pickle.dumps(function))(worker, *pickle.loads(pickle.dumps(block)))

    pairwise = ("globally_corrected", "mutual_proximity", "mutual_proximity_empirical")
    for method in ("csls", "dynamic_inverted_softmax", *pairwise):
        one = HubnessReducer(method).fit(gallery, query_bank=bank).search(queries, K)
        other = HubnessReducer(method, executor=Elsewhere()).fit(gallery, query_bank=bank).search(queries, K)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_torch_tensors_come_back_as_tensors(vectors: Any) -> None:
    gallery, queries, bank, _ = (torch.from_numpy(x) for x in vectors)
    scores, ids = HubnessReducer().fit(gallery, query_bank=bank).search(queries, K)
    assert isinstance(scores, torch.Tensor)
    assert ids.dtype == torch.int64
    exact = HubnessReducer().fit(vectors[0], query_bank=vectors[2]).search(vectors[1], K)
    np.testing.assert_array_equal(ids.numpy(), exact[1])


def test_bank_blocks_of_any_size_give_one_result(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from simtile.hubness import _summary

    gallery, queries, bank, items = vectors
    found = []
    for bank_block, gallery_block in itertools.product((9216, 77), (8192, 130)):
        monkeypatch.setattr(_summary, "BANK_BLOCK", bank_block)
        monkeypatch.setattr(_summary, "GALLERY_BLOCK", gallery_block)
        for method, options in (("dual_dis", {}), ("csls", {}), ("dissim_local", {}), ("sinkhorn", {"iterations": 2})):
            banks = {"query_bank": bank} | ({"gallery_bank": items} if method == "dual_dis" else {})
            reducer = HubnessReducer(method, **options).fit(gallery, **banks)  # type: ignore[arg-type]
            found.append(reducer.search(queries, K)[0])
    for at in range(4, len(found)):
        np.testing.assert_allclose(found[at], found[at % 4], atol=1e-5)
