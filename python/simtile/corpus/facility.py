"""A few items that stand for all: facility location, chosen lazily and greedily.

    F(S) = Σ_i max_{j in S} s_ij,  s >= 0

CRAIG, Mirzasoleiman et al. 2020, arXiv:1906.01827, trains on such sets, weighted by how many items each stands for;
Liu et al. 2022, arXiv:2210.08363, augment them. ``rust/src/facility/`` has the search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from simtile import _core
from simtile.corpus._checks import at_least_one, labels_of, lists_of_ids, number
from simtile.search._arrays import as_floats, as_matrix, thread_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Found = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]

Similarity: TypeAlias = Literal["cosine", "l2"]


class Coreset(NamedTuple):
    """Items that stand for all.

    Attributes
    ----------
    ids : int64 (size,)      the items, in the order in which they were chosen; with labels class by class
    weights : int64 (size,)      how many items each stands for
    gains : float64 (size,)      what each added to F; their sum is F
    owners : int64 (N,)      the place in ``ids`` of the item that each is most similar to, the first of equals; -1
        where it is similar to none, which only a graph or a matrix can say
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.int64]
    gains: NDArray[np.float64]
    owners: NDArray[np.int64]


def facility_location(
    vectors: NDArray[Any] | Tensor,
    size: int,
    *,
    metric: Similarity = "cosine",
    labels: NDArray[Any] | Tensor | None = None,
    num_threads: int | None = None,
) -> Coreset:
    """``size`` items to which all others are most similar, without the similarity matrix.

    Parameters
    ----------
    vectors : array or Tensor (N, D)      for CRAIG gradients of the last layer, such as probabilities minus targets
    size : int      items to choose, 1 to N; with labels at least one a class
    metric : {"cosine", "l2"}      s_ij = 1 + cos, or c - |x_i - x_j|^2 with c = 4 max_i |x_i - mean|^2, so that s >= 0.
        The constant changes no choice: "l2" lowers the sum of squared distances
    labels : integers (N,) or None      choose in every class by itself, in proportion to its size
    num_threads : int or None      None: all processors this process may use

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    F reaches (1 - 1/e) of the best set of that size (Nemhauser et al. 1978); equal gains: the smaller id. Gains that
    differ by less than the rounding of float32 similarities may change places. Memory 8 N D bytes. First gains are a
    sum over all pairs and cost N D; later ones are multiplied anew each time they are looked at (Minoux 1978: only
    those that may win), up to some N D a candidate. With a stored matrix, :func:`facility_location_matrix` is faster
    where its 4 N^2 bytes are no matter.

    Examples
    --------
    >>> points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> chosen = facility_location(points, 2, metric="l2")
    >>> chosen.ids.tolist(), chosen.weights.tolist()
    ([2, 3], [3, 2])
    """
    rows, size, threads = as_matrix("vectors", vectors), at_least_one("size", size), thread_count(num_threads)
    if metric not in ("cosine", "l2"):
        raise ValueError(f'metric: one of "cosine", "l2", got {metric!r}')
    if size > len(rows):
        raise ValueError(f"size: at most the {len(rows)} vectors, got {size}")
    if labels is None:
        return _coreset([(None, _of_vectors(rows, size, metric, threads))], len(rows))
    numbered, count = labels_of("labels", labels, len(rows))
    if size < count:
        raise ValueError(f"size: at least one for each of the {count} labels, got {size}")
    members = [np.flatnonzero(numbered == label) for label in range(count)]
    sizes = _shares(np.array([len(of) for of in members]), size)
    found: list[tuple[NDArray[np.int64] | None, Found]] = [
        (of, _of_vectors(np.ascontiguousarray(rows[of]), int(share), metric, threads))
        for of, share in zip(members, sizes, strict=True)
    ]
    return _coreset(found, len(rows))


def facility_location_matrix(similarity: NDArray[Any] | Tensor, size: int) -> Coreset:
    """:func:`facility_location` of any similarities, which are given as a whole matrix.

    Parameters
    ----------
    similarity : array or Tensor (C, N)      row j: how similar candidate j is to each item, at least 0. For distances
        take a constant minus them, as CRAIG does
    size : int      candidates to choose, 1 to C

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    matrix, size = as_floats("similarity", similarity), at_least_one("size", size)
    if matrix.ndim != 2:
        raise ValueError(f"similarity: shape (C, N), got {matrix.shape}")
    return _coreset([(None, _core.facility_dense(matrix, size))], matrix.shape[1])


def facility_location_graph(
    scores: NDArray[Any] | Tensor, ids: NDArray[Any] | Tensor, size: int, *, self_similarity: float = 1.0
) -> Coreset:
    """:func:`facility_location` on a graph of nearest neighbours: an item is similar to those in its list alone.

    Parameters
    ----------
    scores, ids : (N, k)      as ``ExactIndex.knn_graph`` returns them for "cosine" and "ip"; negative scores cover
        nothing. Squared distances have to be turned into similarities first
    size : int      items to choose, 1 to N
    self_similarity : float      of every item with itself; 1 for cosines

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    O(N k) memory and, for each look at a candidate, time as many steps as lists it is in. The value is that of the
    matrix in which all pairs but those of the lists are 0.

    Examples
    --------
    >>> from simtile.search import ExactIndex
    >>> scores, ids = ExactIndex(np.eye(4)[[0, 0, 0, 1]], metric="cosine").knn_graph(2)
    >>> facility_location_graph(scores, ids, 2).weights.tolist()
    [3, 1]
    """
    neighbours, values = lists_of_ids("ids", ids), as_floats("scores", scores)
    if values.shape != neighbours.shape:
        raise ValueError(f"scores: shape {neighbours.shape} as ids have, got {values.shape}")
    size, itself = at_least_one("size", size), number("self_similarity", self_similarity, 0.0)
    return _coreset([(None, _core.facility_lists(neighbours, values, itself, size))], len(values))


def _of_vectors(rows: NDArray[np.float32], size: int, metric: Similarity, threads: int) -> Found:
    if metric == "cosine":
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        unit = rows / np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
        return _core.facility_vectors(unit, np.full(len(rows), 0.5, np.float32), 1.0, size, num_threads=threads)
    # About their mean: squares of far-off vectors would hide their distances.
    centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", centred, centred, dtype=np.float64)
    with np.errstate(over="ignore"):
        bias = (2.0 * squares.max(initial=0.0) - squares).astype(np.float32)
    return _core.facility_vectors(centred, bias, 2.0, size, num_threads=threads)


def _coreset(parts: Sequence[tuple[NDArray[np.int64] | None, Found]], n: int) -> Coreset:
    """Of choices from parts of the items: (which items a part has, None for all; what was chosen)."""
    owners = np.full(n, -1, np.int64)
    ids: list[NDArray[np.int64]] = []
    before = 0
    for of, (chosen, _, owner) in parts:
        ids.append(chosen if of is None else of[chosen])
        owners[slice(None) if of is None else of] = np.where(owner < 0, -1, owner + before)
        before += len(chosen)
    weights = np.bincount(owners[owners >= 0], minlength=before)
    return Coreset(np.concatenate(ids), weights, np.concatenate([gains for _, (_, gains, _) in parts]), owners)


def _shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` in proportion to ``sizes``: one each, and the largest remainders; never more than a size."""
    wanted = sizes * (total / sizes.sum())
    shares: NDArray[np.int64] = np.maximum(np.floor(wanted).astype(np.int64), 1)
    while shares.sum() != total:
        if shares.sum() < total:
            shares[np.argmax(np.where(shares < sizes, wanted - shares, -np.inf))] += 1
        else:
            shares[np.argmin(np.where(shares > 1, wanted - shares, np.inf))] -= 1
    return shares
