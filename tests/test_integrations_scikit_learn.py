"""scikit-learn: the conventions of its estimators, and the graphs of its own transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.cluster import DBSCAN  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer as Theirs  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from simtile.integrations.scikit_learn import KNeighborsTransformer  # noqa: E402


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([KNeighborsTransformer()])  # type: ignore[untyped-decorator]
def test_the_conventions_of_estimators_hold(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_the_graph_is_that_of_scikit_learn(metric: Any, mode: Any) -> None:
    X = np.random.default_rng(0).standard_normal((80, 7))
    ours = KNeighborsTransformer(n_neighbors=4, mode=mode, metric=metric).fit(X[:60])
    theirs = Theirs(n_neighbors=4, mode=mode, metric=metric).fit(X[:60])
    for samples in (X[60:], X[:60]):
        a, b = ours.transform(samples), theirs.transform(samples)
        np.testing.assert_array_equal(a.indptr, b.indptr)
        np.testing.assert_array_equal(a.toarray() > 0, b.toarray() > 1e-6)
        np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-6)
    np.testing.assert_array_equal(ours.kneighbors(n_neighbors=3)[1], theirs.kneighbors(n_neighbors=3)[1])


def test_a_pipeline_classifies_and_clusters_by_the_graph() -> None:
    X, y = load_digits(return_X_y=True)
    classify = make_pipeline(
        KNeighborsTransformer(n_neighbors=5, mode="distance"), KNeighborsClassifier(n_neighbors=5, metric="precomputed")
    )
    assert classify.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.93
    graph = KNeighborsTransformer(n_neighbors=8).fit_transform(X[:300])
    np.testing.assert_array_equal(
        DBSCAN(eps=20, metric="precomputed").fit(graph).labels_,
        DBSCAN(eps=20, metric="precomputed").fit(Theirs(n_neighbors=8).fit_transform(X[:300])).labels_,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_neighbors": 0}, "n_neighbors"), ({"mode": "graph"}, "mode"), ({"metric": "manhattan"}, "metric")],
)
def test_wrong_parameters_are_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KNeighborsTransformer(**options).fit(np.eye(3))


def test_more_neighbours_than_samples_raise() -> None:
    with pytest.raises(ValueError, match="n_neighbors: at most the 2 samples"):
        KNeighborsTransformer(n_neighbors=3).fit(np.eye(3)).kneighbors()
