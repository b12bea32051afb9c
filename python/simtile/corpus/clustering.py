"""k-means by distance or by cosine, on the engine's search for the nearest centroid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from simtile import _core
from simtile.corpus._checks import at_least_one, number
from simtile.search import ExactIndex
from simtile.search._arrays import as_count, as_matrix, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Metric: TypeAlias = Literal["l2", "cosine"]


class Clusters(NamedTuple):
    """What :func:`kmeans` returns.

    Attributes
    ----------
    labels : int64 (N,)      the nearest centroid of each vector
    centroids : float32 (k, D)      means; for "cosine" of length 1
    inertia : float      sum of squared distances to the nearest centroid; for "cosine" the sum of 1 - cos
    iterations : int      until it converged, or ``max_iterations``
    """

    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]
    inertia: float
    iterations: int


def kmeans(
    vectors: NDArray[Any] | Tensor,
    k: int,
    *,
    metric: Metric = "l2",
    seed: int = 0,
    restarts: int = 1,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    num_threads: int | None = None,
) -> Clusters:
    """``k`` clusters by Lloyd's algorithm from k-means++ seeds.

    Parameters
    ----------
    vectors : array or Tensor (N, D)
    k : int      clusters, 1 to N
    metric : {"l2", "cosine"}      "cosine" is spherical k-means: vectors and centroids of length 1
    seed : int      of the seeds; the number of threads changes no bit
    restarts : int      runs from further seeds, of which the one of the lowest inertia is returned
    max_iterations : int      of a run, at least 1
    tolerance : float      stop when the centroids together move by less than this times the variance (mean over the
        coordinates) in squared distance, or no label changes
    num_threads : int or None      None: all processors this process may use

    Raises
    ------
    TypeError, ValueError      naming the argument; a zero vector for "cosine"

    Notes
    -----
    Iterations compare float32 scores; labels are the nearest centroids by float64 distances, of equals the first. A
    centroid that loses all its vectors moves to the vector farthest from its own centroid, as in scikit-learn; only
    duplicates leave empty clusters. Seeds: the best of 2 + ln k draws each time, Arthur & Vassilvitskii 2007. Memory
    8 N D bytes beside the vectors. Dhillon & Modha 2001 (spherical).

    Examples
    --------
    >>> points = np.array([[0.0], [0.2], [9.0], [9.2]])
    >>> found = kmeans(points, 2)
    >>> bool(found.labels[0] == found.labels[1] != found.labels[2] == found.labels[3]), round(found.inertia, 6)
    (True, 0.04)
    """
    if metric not in ("l2", "cosine"):
        raise ValueError(f'metric: one of "l2", "cosine", got {metric!r}')
    rows, k = as_matrix("vectors", vectors), at_least_one("k", k)
    if k > len(rows):
        raise ValueError(f"k: at most the {len(rows)} vectors, got {k}")
    rng = np.random.default_rng(as_count("seed", seed))
    limit, tolerance = at_least_one("max_iterations", max_iterations), number("tolerance", tolerance, 0.0)
    threads = thread_count(num_threads)
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    if metric == "cosine":
        norms = np.sqrt(_squares(rows))
        if not norms.all():
            raise ValueError(f"vectors: no zero vector for cosine, got one in row {np.flatnonzero(norms == 0)[0]}")
        rows = rows / norms.astype(np.float32)[:, None]
    else:
        # About their mean: the squares of far-off vectors would hide distances in float32.
        rows = rows - centre
    mean = rows.mean(axis=0, dtype=np.float64)
    still = tolerance * max(float(_squares(rows).mean() - mean @ mean), 0.0) / max(rows.shape[1], 1)
    best: Clusters | None = None
    for _ in range(at_least_one("restarts", restarts)):
        found = _lloyd(rows, _seeds(rows, k, rng), metric, limit, still, threads)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best if metric == "cosine" else best._replace(centroids=best.centroids + centre)


def _lloyd(
    rows: NDArray[np.float32], centroids: NDArray[np.float32], metric: Metric, limit: int, still: float, threads: int
) -> Clusters:
    squares = _squares(rows)
    labels, far = _nearest(rows, squares, centroids, threads)
    iterations = 0
    while iterations < limit:
        iterations += 1
        moved = _means(rows, labels, far, len(centroids), metric)
        shift = float(((moved - centroids).astype(np.float64) ** 2).sum())
        centroids, before = moved, labels
        labels, far = _nearest(rows, squares, centroids, threads)
        if shift <= still or np.array_equal(labels, before):
            break
    index = ExactIndex(centroids, metric=metric, first_pass="f32")
    scores, ids = index.search_f64(rows, 1, num_threads=threads)
    inertia = scores.sum() if metric == "l2" else np.maximum(1.0 - scores, 0.0).sum()
    return Clusters(ids[:, 0], centroids, float(inertia), iterations)


def _nearest(
    rows: NDArray[np.float32], squares: NDArray[np.float64], centroids: NDArray[np.float32], threads: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centroid of each row, by x c - |c|^2 / 2 in float32, and its squared distance."""
    bias = (-0.5 * _squares(centroids)).astype(np.float32)
    scores, ids = _core.pair_topk(rows, centroids, 1, y_bias=bias, num_threads=threads)
    return ids[:, 0], np.maximum(squares - 2.0 * scores[:, 0], 0.0)


def _means(
    rows: NDArray[np.float32], labels: NDArray[np.int64], far: NDArray[np.float64], k: int, metric: Metric
) -> NDArray[np.float32]:
    counts = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        labels, counts = labels.copy(), counts.copy()
        for row in np.argsort(-far, kind="stable"):
            if len(empty) == 0 or far[row] == 0:
                break
            if counts[labels[row]] > 1:
                counts[labels[row]] -= 1
                labels[row], empty = empty[0], empty[1:]
                counts[labels[row]] = 1
    order = np.argsort(labels, kind="stable")
    filled = np.flatnonzero(counts)
    starts = np.cumsum(counts[filled]) - counts[filled]
    means = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64) / counts[filled, None]
    if metric == "cosine":
        # Vectors that cancel each other out have no direction: the first of them stands for all.
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        means = np.where(norms > 1e-12, means / np.maximum(norms, 1e-12), rows[order[starts]])
    # More clusters than distinct vectors: on top of the first, where ties leave them empty.
    centroids = np.empty((k, rows.shape[1]), np.float32)
    centroids[:] = means[0]
    centroids[filled] = means
    return centroids


def _seeds(rows: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    n, draws = len(rows), 2 + int(np.log(k))
    squares = _squares(rows)
    chosen = [int(rng.integers(n))]
    far = _squared(rows, squares, chosen)[:, 0]
    while len(chosen) < k:
        reach = np.cumsum(far)
        if reach[-1] == 0:  # fewer distinct vectors than clusters
            chosen.append(int(rng.integers(n)))
            continue
        drawn = np.searchsorted(reach, rng.random(draws) * reach[-1], side="right").clip(max=n - 1)
        nearer = np.minimum(far[:, None], _squared(rows, squares, drawn.tolist()))
        best = int(nearer.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        far = nearer[:, best]
    return rows[chosen]


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))


def _squared(rows: NDArray[np.float32], squares: NDArray[np.float64], some: list[int]) -> NDArray[np.float64]:
    """Squared distances (N, len(some)) of all rows from a few of them."""
    far: NDArray[np.float64] = np.maximum(squares[:, None] + squares[some] - 2.0 * (rows @ rows[some].T), 0.0)
    far[some, np.arange(len(some))] = 0.0
    return far
