"""Which index pays: an exact one for few queries or few items, a graph for many queries of many items.

    exact    n d p + q n d s             packing, then a pass over all codes for each query
    graph    n b(n) + q w(n)             inserting every item, then a walk for each query

with n items of d columns and q queries to come. Packing p, a scan s, an insertion b and a walk w are CPU seconds of one
core, measured by ``benches/bench_search_growth.py``; another core's speed cancels as far as all four scale alike. The
more items, the more of them a walk and an insertion touch and the fewer lie in the caches: powers of n, fitted there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from simtile.search._arrays import as_count, as_matrix
from simtile.search._state import Metric, excludes_enough, worth_codes
from simtile.search.exact import ExactIndex
from simtile.search.graph import GraphIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Seconds of one core, 384 columns, some 50,000 items: an item's coordinate to pack; one to scan as a code, and in
# float32; an item to insert; a walk at recall .95. A walk is bound by memory, not by columns, up to a few hundred.
_PACK, _SCAN_CODES, _SCAN_FLOATS = 3.4e-9, 5.8e-12, 1.9e-11
_INSERT, _WALK = 1.4e-4, 1.6e-5
_INSERT_GROWS, _WALK_GROWS = 0.42, 0.48
_AT_ITEMS, _AT_COLUMNS = 50_000, 384

# From so many on, rotating the items pays (``python benches/bench_search_exact.py``).
_PCA_QUERIES = 20_000

LEAST_ITEMS = 4096
"""A graph of fewer has no advantage."""


@dataclass(frozen=True)
class Choice:
    """What :func:`explain` says.

    Attributes
    ----------
    index : "exact" or "graph"
    reason : str
    exact_seconds, graph_seconds : float      CPU seconds for building and all queries, estimated
    """

    index: Literal["exact", "graph"]
    reason: str
    exact_seconds: float
    graph_seconds: float


def explain(n: int, d: int, *, queries: int = 1_000_000, recall: float = 0.95, codes: bool = True) -> Choice:
    """The index for ``n`` items of ``d`` columns that ``queries`` queries will be searched in.

    Parameters
    ----------
    n, d, queries : int
    recall : float, above 0, at most 1      share of the nearest that have to be found; 1 leaves the exact index only
    codes : bool      whether the processor multiplies bytes fast (AVX-512 VNNI), which triples exact search

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    n, d, queries = as_count("n", n), as_count("d", d), as_count("queries", queries)
    if isinstance(recall, bool) or not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise ValueError(f"recall: above 0, at most 1, got {recall!r}")
    wide, many = max(0.5, d / _AT_COLUMNS), n / _AT_ITEMS
    exact = n * d * (_PACK + queries * (_SCAN_CODES if codes else _SCAN_FLOATS))
    graph = wide * (n * _INSERT * many**_INSERT_GROWS + queries * _WALK * many**_WALK_GROWS)
    costs = f"about {exact:.3g} CPU s exact, {graph:.3g} by a graph, for {queries:,} queries"
    if recall == 1:
        return Choice("exact", "a recall of 1 is what an exact search has", exact, graph)
    if n < LEAST_ITEMS:
        return Choice("exact", f"{n:,} items are fewer than {LEAST_ITEMS:,}", exact, graph)
    return Choice("graph" if graph < exact else "exact", costs, exact, graph)


def build(
    vectors: NDArray[Any] | Tensor,
    *,
    metric: Metric = "ip",
    queries: int = 1_000_000,
    recall: float = 0.95,
    seed: int = 0,
    num_threads: int | None = None,
) -> ExactIndex | GraphIndex:
    """The index that answers ``queries`` queries with the least work, building included: see :func:`explain`.

    Parameters
    ----------
    vectors : array or Tensor (N, D)
    metric : {"ip", "cosine", "l2"}
    queries : int      how many will come, about
    recall : float, above 0, at most 1      what a graph is tuned to, for queries that resemble the items: measure your
        own with :meth:`GraphIndex.tune` where they do not
    seed, num_threads      of :meth:`GraphIndex.build`

    Raises
    ------
    TypeError, ValueError      naming the argument; a recall that no walk reaches

    Examples
    --------
    >>> import numpy as np
    >>> build(np.eye(3, dtype=np.float32))
    ExactIndex(3 x 3, metric='ip', first_pass='f32')
    """
    rows = as_matrix("vectors", vectors)
    choice = explain(*rows.shape, queries=queries, recall=recall, codes=worth_codes(rows))
    if choice.index == "exact":
        if queries >= _PCA_QUERIES and worth_codes(rows):
            exact = ExactIndex(vectors, metric=metric, first_pass="pca")
            if excludes_enough(exact._state.store, rows):
                return exact
        return ExactIndex(vectors, metric=metric)
    index = GraphIndex.build(vectors, metric=metric, seed=seed, num_threads=num_threads)
    index.tune(recall, num_threads=num_threads)
    return index
