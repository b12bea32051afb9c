"""Hubness corrections: the streaming reducer against the float64 formula of each method, on real embeddings."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from real_vectors import real_pairs
from simtile.hubness import METHODS, HubnessReducer, reference
from simtile.hubness._methods import GATED, PAIRWISE
from simtile.kernels.reference import unit

N, M, B = 1500, 200, 600
K = 10
OPTIONS: dict[str, dict[str, Any]] = {
    "dual_is": {"beta": 15.0, "beta_gallery": 30.0},
    "dual_dis": {"beta": 15.0, "beta_gallery": 30.0},
    "nnn": {"k": 16},
    "sinkhorn": {"tau": 0.03, "iterations": 4},
}


class Data:
    """Gallery, queries and banks, and their float64 cosines."""

    def __init__(self) -> None:
        rng = np.random.default_rng(6)
        self.gallery, self.queries, self.bank = real_pairs(rng, N, M, B)
        self.items, _, _ = real_pairs(rng, B, 1, 1)
        g, q, b, i = (unit(x) for x in (self.gallery, self.queries, self.bank, self.items))
        self.s, self.bank_s, self.items_s = q @ g.T, b @ g.T, i @ g.T
        self.formulas: dict[str, NDArray[np.float64]] = {}
        self.unit = {"gallery": g, "queries": q, "bank": b}


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def banks(data: Data, method: str) -> dict[str, Any]:
    if method == "dual_softmax":
        return {}
    found = {"query_bank": data.bank}
    return {**found, "gallery_bank": data.items} if method.startswith("dual") else found


def fitted(data: Data, method: Any, **options: Any) -> HubnessReducer:
    options = {**OPTIONS.get(method, {}), **options}
    return HubnessReducer(method, **options).fit(data.gallery, **banks(data, method))


def formula(data: Data, method: str, reducer: HubnessReducer) -> NDArray[np.float64]:
    p = reducer.get_params()
    s, b, i = data.s, data.bank_s, data.items_s
    exact: dict[str, Any] = {
        "inverted_softmax": lambda: reference.inverted_softmax(s, b, p["beta"]),
        "dynamic_inverted_softmax": lambda: reference.dynamic_inverted_softmax(s, b, p["beta"], p["activation_k"]),
        "dual_is": lambda: reference.dual_is(s, b, i, p["beta"], p["beta_gallery"]),
        "dual_dis": lambda: reference.dual_dis(s, b, i, p["beta"], p["beta_gallery"]),
        "csls": lambda: reference.csls(s, b, p["k"]),
        "nnn": lambda: reference.nnn(s, b, p["k"], p["alpha"]),
        "distribution_normalization": lambda: reference.distribution_normalization(s, b, p["alpha"]),
        "local_scaling": lambda: reference.local_scaling(s, b, p["k"]),
        "nicdm": lambda: reference.nicdm(s, b, p["k"]),
        "mutual_proximity": lambda: reference.mutual_proximity(s, b),
        "mutual_proximity_empirical": lambda: reference.mutual_proximity_empirical(s, b),
        "dissim_local": lambda: reference.dissim_local(
            data.unit["queries"], data.unit["gallery"], data.unit["bank"], p["k"]
        ),
        "globally_corrected": lambda: reference.globally_corrected(s, b),
        "dual_softmax": lambda: reference.dual_softmax(s, p["beta"]),
        "sinkhorn": lambda: reference.sinkhorn(s, b, p["tau"], p["iterations"]),
    }
    key = repr(reducer.set_params(precision="float32"))
    if key not in data.formulas:
        data.formulas[key] = np.asarray(exact[method]())
    return data.formulas[key]


def best(scores: NDArray[np.float64], k: int = K) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(x, y)) / len(y) for x, y in zip(a, b, strict=True)]))


def test_the_data_has_hubs_for_a_correction_to_matter(data: Data) -> None:
    corrected = best(reference.inverted_softmax(data.s, data.bank_s))
    assert overlap(best(data.s), corrected) < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_its_float64_formula(data: Data, method: Any) -> None:
    reducer = fitted(data, method)
    exact = best(formula(data, method, reducer))
    scores, ids = reducer.search(data.queries, K)
    assert scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (ids[:, 0] == exact[:, 0]).mean() >= 0.999
    assert overlap(ids, exact) >= 0.999


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("method", METHODS)
def test_a_bank_in_fewer_bits_keeps_99_of_100_results(data: Data, method: Any, precision: str) -> None:
    reducer = fitted(data, method, precision=precision)
    ids = reducer.search(data.queries, K)[1]
    assert overlap(ids, best(formula(data, method, reducer))) >= 0.99


# Terms of the query are left out of these scores: rankings within a query only.
WITHOUT_QUERY_TERM = {"csls", "local_scaling", "nicdm", "dissim_local", "globally_corrected"}


@pytest.mark.parametrize("method", sorted(set(METHODS) - WITHOUT_QUERY_TERM))
def test_scores_are_those_of_the_formula_on_one_scale(data: Data, method: Any) -> None:
    reducer = fitted(data, method)
    exact = formula(data, method, reducer)
    scores, ids = reducer.search(data.queries, K)
    # Shares count what float32 cannot tell apart as equal: one row of the bank or the gallery more or less.
    atol = 2 / B if method == "mutual_proximity_empirical" else 2e-5
    np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_filter_leaves_the_best_of_the_rest(data: Data, method: Any) -> None:
    if method in {"dual_dis", "dynamic_inverted_softmax", "mutual_proximity_empirical"}:
        pytest.skip("the gate and the shares look at what is allowed")
    reducer = fitted(data, method)
    mask = np.arange(N) % 3 == 0
    exact = np.where(mask, formula(data, method, reducer), -np.inf)
    assert overlap(reducer.search(data.queries, K, filter=mask)[1], best(exact)) >= 0.999
    few = np.array([5, 77])
    scores, ids = reducer.search(data.queries, 4, filter=few)
    assert set(ids.ravel()) <= {5, 77, -1}
    assert np.isneginf(scores[ids < 0]).all()


@pytest.mark.parametrize("method", METHODS)
@given(cuts=st.lists(st.integers(1, B - 1), max_size=3, unique=True))
@settings(max_examples=2)
def test_any_split_of_the_bank_is_one_fit(data: Data, method: Any, cuts: list[int]) -> None:
    if method == "dual_softmax":
        return
    one = fitted(data, method)
    edges = [0, *sorted(cuts), B]
    many = HubnessReducer(method, **OPTIONS.get(method, {}))
    least = many.k if method in {"csls", "nnn", "local_scaling", "nicdm", "dissim_local"} else 1
    edges = [e for e in edges if e == 0 or e >= least]
    for first, last in itertools.pairwise(edges):
        part = {name: rows[first:last] for name, rows in banks(data, method).items()}
        many = many.partial_fit(**part) if first else many.fit(data.gallery, **part)
    (scores, ids), (again, ids_again) = one.search(data.queries, K), many.search(data.queries, K)
    np.testing.assert_allclose(scores, again, atol=1e-5)
    assert overlap(ids, ids_again) >= 0.999


@pytest.mark.parametrize("method", METHODS)
def test_items_added_and_removed_leave_what_a_fit_would(data: Data, method: Any) -> None:
    reducer = HubnessReducer(method, **OPTIONS.get(method, {})).fit(data.gallery[:900], **banks(data, method))
    first = reducer.search(data.queries, K)[1]
    assert list(reducer.add_gallery(data.gallery[900:])) == list(range(900, N))
    whole = fitted(data, method).search(data.queries, K)
    np.testing.assert_allclose(reducer.search(data.queries, K)[0], whole[0], atol=1e-6)
    np.testing.assert_array_equal(reducer.search(data.queries, K)[1], whole[1])
    reducer.remove_gallery(np.arange(900, N))
    np.testing.assert_array_equal(reducer.search(data.queries, K)[1], first)


@pytest.mark.parametrize("method", ["inverted_softmax", "dual_dis", "csls", "dissim_local"])
def test_the_number_of_threads_changes_no_bit(data: Data, method: Any) -> None:
    found = [fitted(data, method, num_threads=t).search(data.queries, K) for t in (1, 3)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", sorted(set(METHODS) - GATED - PAIRWISE))
def test_augmented_vectors_rank_by_plain_inner_product(data: Data, method: Any) -> None:
    reducer = fitted(data, method)
    plain = reducer.augment_queries(data.queries).astype(np.float64) @ reducer.augment(data.gallery).T.astype(
        np.float64
    )
    assert reducer.augment().shape == (N, data.gallery.shape[1] + 1)
    assert overlap(best(plain), reducer.search(data.queries, K)[1]) >= 0.999


def test_a_small_beta_ranks_by_distance_from_the_mean_and_a_large_one_from_the_maximum(data: Data) -> None:
    for beta in (1e-6, 1e-3):
        small = fitted(data, "inverted_softmax", beta=beta).search(data.queries, K)[1]
        assert overlap(small, best(data.s - data.bank_s.mean(axis=0))) >= 0.999
    large = fitted(data, "inverted_softmax", beta=1e5).search(data.queries, K)[1]
    assert overlap(large, best(data.s - data.bank_s.max(axis=0))) >= 0.999


def test_csls_at_k_of_the_whole_bank_subtracts_the_mean(data: Data) -> None:
    ids = fitted(data, "csls", k=B).search(data.queries, K)[1]
    assert overlap(ids, best(2 * data.s - data.bank_s.mean(axis=0))) >= 0.999


def test_nnn_over_the_whole_bank_is_distribution_normalization(data: Data) -> None:
    nnn = fitted(data, "nnn", k=B, alpha=0.5).search(data.queries, K)
    dn = fitted(data, "distribution_normalization", alpha=0.5).search(data.queries, K)
    np.testing.assert_allclose(nnn[0], dn[0], atol=1e-6)


def test_one_round_of_sinkhorn_is_inverted_softmax(data: Data) -> None:
    one = fitted(data, "sinkhorn", tau=0.05, iterations=1).search(data.queries, K)[1]
    assert overlap(one, fitted(data, "inverted_softmax", beta=20.0).search(data.queries, K)[1]) >= 0.999


def test_equal_banks_make_dual_is_plain_inverted_softmax(data: Data) -> None:
    dual = HubnessReducer("dual_is", beta=20.0).fit(data.gallery, query_bank=data.bank, gallery_bank=data.bank)
    single = fitted(data, "inverted_softmax")
    np.testing.assert_allclose(dual.search(data.queries, K)[0], single.search(data.queries, K)[0], atol=1e-6)


@pytest.mark.parametrize("method", ["inverted_softmax", "csls", "nnn", "dissim_local", "sinkhorn"])
def test_a_constant_of_the_query_changes_no_ranking(data: Data, method: Any) -> None:
    """A further coordinate, 1 in every item, adds any number to all scores of a query."""
    reducer = HubnessReducer(method, metric="ip", **OPTIONS.get(method, {}))
    g, q, b = (data.unit[name] for name in ("gallery", "queries", "bank"))
    plain = reducer.fit(g, query_bank=b).search(q, K)[1]
    raised = np.hstack([q, np.linspace(-2, 2, M)[:, None]])
    wider = np.hstack([g, np.ones((N, 1))])
    reducer.fit(wider, query_bank=np.hstack([b, np.zeros((B, 1))]))
    if method == "dissim_local":
        # The bank's centroids do not move, the items' norms do, all by the same.
        assert overlap(reducer.search(raised, K)[1], plain) >= 0.99
    else:
        assert overlap(reducer.search(raised, K)[1], plain) >= 0.999


def test_nothing_overflows_at_a_hundredfold_scale_or_a_beta_of_a_thousand(data: Data) -> None:
    g, q, b = (10 * data.unit[name].astype(np.float32) for name in ("gallery", "queries", "bank"))
    for options in ({"beta": 20.0}, {"beta": 1000.0}):
        for method in ("inverted_softmax", "dynamic_inverted_softmax", "dual_softmax", "sinkhorn"):
            reducer = HubnessReducer(method, metric="ip", tau=1e-3, **options)  # type: ignore[arg-type]
            reducer.fit(g, **({} if method == "dual_softmax" else {"query_bank": b}))
            assert np.isfinite(reducer.search(q, K)[0]).all()
    exact = reference.inverted_softmax(100 * data.s, 100 * data.bank_s, 1000.0)
    ids = HubnessReducer(metric="ip", beta=1000.0).fit(g, query_bank=b).search(q, K)[1]
    assert overlap(ids, best(exact)) >= 0.999


def test_every_method_has_its_formula_and_a_name() -> None:
    from simtile.hubness._methods import Method

    assert set(METHODS) == set(get_args(Method))
