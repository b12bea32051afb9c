"""Both indexes behind the interface of ann-benchmarks (https://github.com/erikbern/ann-benchmarks).

Its ``module.py`` needs one line, ``from simtile.integrations.ann_benchmarks import SimtileExact, SimtileGraph``, and
its ``config.yml`` these:

    float:
      any:
      - base_args: ['@metric']
        constructor: SimtileGraph
        module: ann_benchmarks.algorithms.simtile
        name: simtile-graph
        run_groups:
          degree-48:
            args: [{degree: 48, breadth: 192}]
            query_args: [[16, 24, 32, 48, 64, 96, 128, 192, 256]]

As the rules there ask, everything runs on one thread; a batch uses all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from simtile.search import ExactIndex, GraphIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SimtileExact", "SimtileGraph"]


class SimtileExact:
    """Exact search: the ground truth, and the rate that an approximation has to beat.

    Parameters
    ----------
    metric : {"angular", "euclidean"}      ann-benchmarks' names
    """

    _METRICS: ClassVar[dict[str, Literal["cosine", "l2"]]] = {"angular": "cosine", "euclidean": "l2"}

    def __init__(self, metric: str) -> None:
        if metric not in self._METRICS:
            raise ValueError(f"metric: one of {', '.join(self._METRICS)}, got {metric!r}")
        self.metric = self._METRICS[metric]
        self._index: ExactIndex | GraphIndex | None = None
        self._found: NDArray[np.int64] | None = None

    def fit(self, X: NDArray[Any]) -> None:
        """Build the index of rows X (N, D)."""
        self._index = ExactIndex(X, metric=self.metric)

    def query(self, q: NDArray[Any], n: int) -> NDArray[np.int64]:
        """Ids of the n nearest of q (D,)."""
        return self._search(q, n, num_threads=1)

    def batch_query(self, X: NDArray[Any], n: int) -> None:
        """The n nearest of each row of X (M, D), for :meth:`get_batch_results`."""
        self._found = self._search(X, n)

    def get_batch_results(self) -> NDArray[np.int64]:
        """Ids (M, n)."""
        assert self._found is not None, "batch_query comes first"
        return self._found

    def get_memory_usage(self) -> float:
        """kB of the process."""
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def done(self) -> None:
        """Free everything."""
        self._index = self._found = None

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._index!r})"

    def _search(self, X: NDArray[Any], n: int, **options: Any) -> NDArray[np.int64]:
        assert self._index is not None, "fit comes first"
        return self._index.search(X, n, **options)[1]


class SimtileGraph(SimtileExact):
    """The graph index.

    Parameters
    ----------
    metric : {"angular", "euclidean"}
    options : dict      of :meth:`simtile.search.GraphIndex.build`
    """

    def __init__(self, metric: str, options: dict[str, Any] | None = None) -> None:
        super().__init__(metric)
        self.options = dict(options or {})

    def fit(self, X: NDArray[Any]) -> None:
        """Build the index of rows X (N, D)."""
        self._index = GraphIndex.build(X, metric=self.metric, **self.options)

    def set_query_arguments(self, ef: int) -> None:
        """Breadth of the walks that follow."""
        assert isinstance(self._index, GraphIndex), "fit comes first"
        self._index.ef = ef
