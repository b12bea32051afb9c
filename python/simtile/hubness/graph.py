"""Hubness reduction of scikit-learn's neighbour graphs: graph in, graph with corrected distances out.

    make_pipeline(KNeighborsTransformer(n_neighbors=50, mode="distance"), HubnessGraphTransformer("nicdm", k=10), ...)

Graphs are CSR matrices of distances, as ``KNeighborsTransformer`` makes them: row i holds the neighbours of point i
among the N points that were fitted. Only the entries of a graph are looked at, so that corrections are re-rankings of
candidates; :class:`simtile.hubness.HubnessReducer` has no such limit where the vectors are at hand.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra

try:
    from scipy.sparse import csr_matrix
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.hubness.reference import log_normal_cdf

Float = NDArray[np.float64]
GraphMethod = Literal["local_scaling", "nicdm", "csls", "mutual_proximity"]


class HubnessGraphTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Corrected distances of a neighbour graph.

    Parameters
    ----------
    method : {"local_scaling", "nicdm", "csls", "mutual_proximity"}
        1 - exp(-d² / (σ_i σ_j)), d / √(μ_i μ_j), 2d - μ_i - μ_j moved to start at 0, or 1 - P_i P_j with the normal
        approximation of what each row shows; σ is the k-th, μ the mean distance of the k nearest
    k : int      neighbours that scale a point; at most as many as the rows of the graph hold
    """

    def __init__(self, method: GraphMethod = "nicdm", *, k: int = 5) -> None:
        self.method = method
        self.k = k

    def fit(self, X: Any, y: object = None) -> HubnessGraphTransformer:
        """Learn the scales of the N indexed points from their own graph (N, N)."""
        graph = self._checked(X)
        if graph.shape[0] != graph.shape[1]:
            raise ValueError(f"X: the graph (N, N) of the indexed points, got {graph.shape}")
        self.n_features_in_ = graph.shape[1]
        # KNeighborsTransformer lists each indexed point as its own neighbour at distance 0.
        rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
        others = rows != graph.indices
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[others], minlength=graph.shape[0]))])
        graph = self._checked(csr_matrix((graph.data[others], graph.indices[others], indptr), shape=graph.shape))
        self.scale_, self.mean_, self.deviation_ = self._scales(graph)
        return self

    def transform(self, X: Any) -> csr_matrix:
        """The graph (M, N) of any points with corrected distances; each row sorted by them."""
        check_is_fitted(self)
        graph = self._checked(X)
        if graph.shape[1] != self.n_features_in_:
            raise ValueError(f"X: {self.n_features_in_} columns, got {graph.shape[1]}")
        scale, mean, deviation = self._scales(graph)
        rows, j, d = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices, graph.data
        if self.method == "local_scaling":
            new = -np.expm1(-(d**2) / (scale[rows] * self.scale_[j]))
        elif self.method == "nicdm":
            new = d / np.sqrt(scale[rows] * self.scale_[j])
        elif self.method == "csls":
            new = 2 * d - scale[rows] - self.scale_[j]
            # Neighbour graphs hold no negative distance; one shift for all changes no order.
            new -= new.min(initial=0.0)
        else:
            farther = log_normal_cdf((mean[rows] - d) / deviation[rows])
            new = -np.expm1(farther + log_normal_cdf((self.mean_[j] - d) / self.deviation_[j]))
        order = np.lexsort((j, new, rows))
        return csr_matrix((new[order], j[order], graph.indptr), shape=graph.shape)

    def _checked(self, X: Any) -> csr_matrix:
        if self.method not in ("local_scaling", "nicdm", "csls", "mutual_proximity"):
            raise ValueError(f"method: local_scaling, nicdm, csls or mutual_proximity, got {self.method!r}")
        graph = check_array(X, accept_sparse="csr", dtype=np.float64)
        graph = csr_matrix(graph) if not isinstance(graph, csr_matrix) else graph
        if (graph.data < 0).any():
            raise ValueError("X: distances, got negative values")
        fewest = np.diff(graph.indptr).min(initial=graph.shape[1])
        if not 1 <= self.k <= fewest:
            raise ValueError(f"k: 1..{fewest}, as many as every row of the graph holds, got {self.k}")
        return graph

    def _scales(self, graph: csr_matrix) -> tuple[Float, Float, Float]:
        """(M,) σ or μ of the k nearest, and mean and deviation of all entries, of each row."""
        scale, mean, deviation = (np.empty(graph.shape[0]) for _ in range(3))
        for i in range(graph.shape[0]):
            d = np.sort(graph.data[graph.indptr[i] : graph.indptr[i + 1]])
            near = d[: self.k]
            scale[i] = near[-1] if self.method == "local_scaling" else near.mean()
            mean[i], deviation[i] = d.mean(), d.std()
        return np.maximum(scale, 1e-12), mean, np.maximum(deviation, 1e-12)
