"""scikit-learn: the graph of nearest neighbours as a transformer, for pipelines and precomputed metrics."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simtile._extras import missing_extra

try:
    from scipy.sparse import csr_matrix
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.search import ExactIndex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["KNeighborsTransformer"]


class KNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The k nearest neighbours of samples as a sparse graph, by :class:`simtile.search.ExactIndex`.

    Takes the place of ``sklearn.neighbors.KNeighborsTransformer`` in front of estimators with
    ``metric="precomputed"`` (TSNE, DBSCAN, Isomap, KNeighborsClassifier).

    Parameters
    ----------
    n_neighbors : int      with mode "distance" one more is returned, because a fitted sample finds itself
    mode : {"distance", "connectivity"}      what the entries are: distances, or ones
    metric : {"euclidean", "cosine"}      the cosine distance is 1 - cosine
    n_jobs : int or None      threads; None or -1: all processors this process may use

    Attributes
    ----------
    n_samples_fit_ : int
    n_features_in_ : int

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [3.0]])
    >>> KNeighborsTransformer(n_neighbors=1).fit_transform(X).toarray()
    array([[0., 1., 0.],
           [1., 0., 0.],
           [0., 2., 0.]])
    """

    n_samples_fit_: int
    _index: ExactIndex

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        mode: Literal["distance", "connectivity"] = "distance",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.mode = mode
        self.metric = metric
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: object = None) -> KNeighborsTransformer:
        """Keep the samples X (N, D). Raises ValueError naming the parameter that is none of its values."""
        if not isinstance(self.n_neighbors, Integral) or self.n_neighbors < 1:
            raise ValueError(f"n_neighbors: an integer of at least 1, got {self.n_neighbors!r}")
        if self.mode not in ("distance", "connectivity"):
            raise ValueError(f'mode: "distance" or "connectivity", got {self.mode!r}')
        if self.metric not in ("euclidean", "cosine"):
            raise ValueError(f'metric: "euclidean" or "cosine", got {self.metric!r}')
        samples = validate_data(self, X, dtype=(np.float64, np.float32))
        self._index = ExactIndex(samples, metric="l2" if self.metric == "euclidean" else "cosine")
        self.n_samples_fit_ = self._n_features_out = len(samples)
        return self

    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """(distances (M, k), ids (M, k)), or the ids alone, nearest first; X None: the fitted samples, not themselves.

        Raises ValueError if there are fewer than k samples.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        most = self.n_samples_fit_ - (X is None)
        if k > most:
            raise ValueError(f"n_neighbors: at most the {most} samples there are to find, got {k}")
        if X is None:
            scores, ids = self._index.knn_graph(k, num_threads=self._threads())
        else:
            rows = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
            scores, ids = self._index.search(rows, k, num_threads=self._threads())
        if not return_distance:
            return ids
        return self._distances(scores), ids

    def kneighbors_graph(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        mode: Literal["distance", "connectivity"] = "connectivity",
    ) -> csr_matrix:
        """The same as a CSR matrix (M, N); rows are sorted by distance."""
        distances, ids = self.kneighbors(X, n_neighbors)
        m, k = ids.shape
        values = np.ones(m * k) if mode == "connectivity" else distances.astype(np.float64).ravel()
        return csr_matrix((values, ids.ravel(), np.arange(m + 1) * k), shape=(m, self.n_samples_fit_))

    def transform(self, X: ArrayLike) -> csr_matrix:
        """The graph (M, N) from samples X to the fitted ones; entries are explicit, a row's sorted by distance."""
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)

    def _threads(self) -> int | None:
        return None if self.n_jobs in (None, -1) else self.n_jobs

    def _distances(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.sqrt(scores) if self.metric == "euclidean" else np.maximum(np.float32(1) - scores, 0)
