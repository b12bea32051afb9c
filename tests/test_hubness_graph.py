"""Neighbour graphs of scikit-learn: distances by the formulas, in pipelines; torch functionals beside the reducer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline

from simtile.hubness import HubnessReducer
from simtile.hubness.functional import AFFINE, biased_topk, hub_stats
from simtile.hubness.graph import HubnessGraphTransformer


def test_graphs_hold_the_formulas_distances_in_rising_order(rng: np.random.Generator) -> None:
    points, asking = rng.standard_normal((60, 5)), rng.standard_normal((20, 5))
    neighbours = KNeighborsTransformer(n_neighbors=12, mode="distance").fit(points)
    own, asked = neighbours.transform(points), neighbours.transform(asking)

    def sorted_rows(graph: object, skip_self: bool) -> np.ndarray:
        d = graph.toarray()  # type: ignore[attr-defined]
        d[d == 0] = np.inf
        if skip_self:
            np.fill_diagonal(d, np.inf)
        return np.sort(d, axis=1)

    k = 4
    d = asked.toarray()
    there = d > 0
    mean_g, mean_q = (sorted_rows(g, s)[:, :k].mean(axis=1) for g, s in ((own, True), (asked, False)))
    last_g, last_q = (sorted_rows(g, s)[:, k - 1] for g, s in ((own, True), (asked, False)))
    rows_g, rows_q = (sorted_rows(g, s) for g, s in ((own, True), (asked, False)))
    of = [[np.array([r[np.isfinite(r)].mean(), r[np.isfinite(r)].std()]) for r in rows] for rows in (rows_g, rows_q)]
    (mu_g, sd_g), (mu_q, sd_q) = (np.array(x).T for x in of)
    farther = norm.sf(d, mu_q[:, None], sd_q[:, None]) * norm.sf(d, mu_g, sd_g)
    exact = {
        "nicdm": d / np.sqrt(np.outer(mean_q, mean_g)),
        "local_scaling": 1 - np.exp(-(d**2) / np.outer(last_q, last_g)),
        "csls": 2 * d - mean_q[:, None] - mean_g,
        "mutual_proximity": 1 - farther,
    }
    exact["csls"] -= exact["csls"][there].min()
    for method, wanted in exact.items():
        graph = HubnessGraphTransformer(method, k=k).fit(own).transform(asked)  # type: ignore[arg-type]
        np.testing.assert_allclose(graph.toarray()[there], wanted[there], atol=1e-12, err_msg=method)
        for start, stop in zip(graph.indptr, graph.indptr[1:], strict=False):
            assert (np.diff(graph.data[start:stop]) >= 0).all()


def test_it_stands_in_a_pipeline_and_can_be_cloned(rng: np.random.Generator) -> None:
    points = rng.standard_normal((40, 3))
    pipeline = make_pipeline(
        KNeighborsTransformer(n_neighbors=9, mode="distance"), HubnessGraphTransformer("csls", k=3)
    )
    assert clone(pipeline).fit_transform(points).shape == (40, 40)
    assert pipeline[-1].get_params() == {"method": "csls", "k": 3}
    graph = KNeighborsTransformer(n_neighbors=4, mode="distance").fit_transform(points)
    for how, message in (({"k": 9}, "k: 1..5"), ({"method": "none"}, "method: local_scaling")):
        with pytest.raises(ValueError, match=message):
            HubnessGraphTransformer(**how).fit(graph)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"X: the graph \(N, N\)"):
        HubnessGraphTransformer(k=2).fit(graph[:5])


@pytest.mark.parametrize("method", sorted(AFFINE))
def test_functionals_are_the_reducer_on_tensors(rng: np.random.Generator, method: str) -> None:
    gallery, queries, bank = (
        torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((n, 24), dtype=np.float32) + 0.5))
        for n in (300, 40, 90)
    )
    scale, bias = hub_stats(bank, gallery, method=method, k=7)  # type: ignore[arg-type]
    found = biased_topk(queries, gallery, 5, scale, bias)
    reducer = HubnessReducer(method, metric="ip", k=7).fit(gallery, query_bank=bank)  # type: ignore[arg-type]
    scores, ids = reducer.search(queries, 5)
    assert (found.ids == ids).float().mean() >= 0.999
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-5)


def test_functionals_name_bad_input() -> None:
    x = torch.ones(4, 3)
    for call, kind, message in (
        (lambda: hub_stats(x, x, method="sinkhorn"), ValueError, "method: one of"),
        (lambda: hub_stats(x, x[:, :2]), ValueError, "bank: the columns of the gallery, 2"),
        (lambda: hub_stats(x, x.double()), ValueError, "bank: the dtype of the gallery"),
        (lambda: hub_stats(x, x, method="nnn", k=9), ValueError, "bank: at least 9 rows"),
        (lambda: hub_stats(x.int(), x), TypeError, "bank: a floating-point tensor"),
    ):
        with pytest.raises(kind, match=message):
            call()
