"""Does a retriever interpolate or extrapolate? Zhan et al. 2022, "Evaluating Extrapolation Performance of Dense
Retrieval", arXiv:2204.11447: training and test queries are resampled by how similar they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simtile.corpus._checks import at_least_one
from simtile.corpus.clustering import kmeans
from simtile.search import ExactIndex
from simtile.search._arrays import as_count, as_matrix, thread_count

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Ids = NDArray[np.int64]


class TrainingSets(NamedTuple):
    """Training queries for the same test queries: two sets, equally large, without a query in common.

    Attributes
    ----------
    interpolation : int64 (S,)      rising ids of training queries near a test query
    extrapolation : int64 (S,)      rising ids of training queries near none
    """

    interpolation: Ids
    extrapolation: Ids


class Fold(NamedTuple):
    """One bucket is left out of the training.

    Attributes
    ----------
    train : int64      rising ids of the training queries of all other buckets
    interpolation : int64      test queries of those buckets
    extrapolation : int64      test queries of the bucket that is left out
    """

    train: Ids
    interpolation: Ids
    extrapolation: Ids


def resample_train(
    train: NDArray[Any] | Tensor,
    test: NDArray[Any] | Tensor,
    *,
    top_k: int,
    excluded: int | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> TrainingSets:
    """Training sets that are like the test queries, and unlike them (ReSTrain).

    Parameters
    ----------
    train : array or Tensor (N, D)      embeddings of the training queries
    test : array or Tensor (M, D)      of the test queries
    top_k : int      training queries by cosine for each test query: their union is the interpolation set
    excluded : int or None      the extrapolation set is drawn from what is not among this many nearest of any test
        query, at least `top_k`; None: `top_k`
    seed : int      of the draw, which makes both sets equally large
    num_threads : int or None      None: all processors this process may use

    Raises
    ------
    TypeError, ValueError      naming the argument; `excluded` leaves too few training queries

    Notes
    -----
    For test sets that are small beside the training set; with a large one nearly every training query is near to some
    test query, and :func:`resample_test` is meant. The paper's code publishes the resampled ids and not the draw.

    Examples
    --------
    >>> train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> sets = resample_train(train, np.array([[1.0, 0.05]]), top_k=2)
    >>> sets.interpolation.tolist(), sets.extrapolation.tolist()
    ([0, 1], [2, 3])
    """
    rows, asked = as_matrix("train", train), as_matrix("test", test)
    if rows.shape[1] != asked.shape[1]:
        raise ValueError(f"test: {rows.shape[1]} columns as train has, got {asked.shape[1]}")
    top_k = at_least_one("top_k", top_k)
    wide = top_k if excluded is None else as_count("excluded", excluded)
    if wide < top_k:
        raise ValueError(f"excluded: at least top_k, {top_k}, got {wide}")
    _, near = ExactIndex(rows, metric="cosine").search(asked, min(wide, len(rows)), num_threads=num_threads)
    similar = np.unique(near[:, :top_k])
    others = np.setdiff1d(np.arange(len(rows)), near)
    if len(others) < len(similar):
        name = "top_k" if excluded is None else "excluded"
        raise ValueError(f"{name}: {wide} leaves {len(others)} of {len(rows)} queries for a set of {len(similar)}")
    drawn = np.random.default_rng(as_count("seed", seed)).choice(others, len(similar), replace=False)
    return TrainingSets(similar, np.sort(drawn))


def resample_test(
    train: NDArray[Any] | Tensor,
    test: NDArray[Any] | Tensor,
    *,
    buckets: int = 5,
    seed: int = 0,
    num_threads: int | None = None,
) -> list[Fold]:
    """Folds that leave one cluster of queries out of the training at a time (ReSTTest).

    Parameters
    ----------
    train, test      embeddings, as in :func:`resample_train`
    buckets : int      clusters of training and test queries together, at least 2; 5 as in the paper
    seed : int      of the clustering
    num_threads : int or None      None: all processors this process may use

    Returns
    -------
    list of Fold      one a bucket. Every test query is in the extrapolation set of one fold. Results are averaged over
        the folds

    Raises
    ------
    TypeError, ValueError      naming the argument; a zero vector

    Examples
    --------
    >>> train, test = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([[0.1, 0.9], [1.0, 0.1]])
    >>> [(fold.train.tolist(), fold.extrapolation.tolist()) for fold in resample_test(train, test, buckets=2)]
    [([2], [1]), ([0, 1], [0])]
    """
    rows, asked = as_matrix("train", train), as_matrix("test", test)
    if rows.shape[1] != asked.shape[1]:
        raise ValueError(f"test: {rows.shape[1]} columns as train has, got {asked.shape[1]}")
    if as_count("buckets", buckets) < 2:
        raise ValueError(f"buckets: at least 2, got {buckets}")
    if buckets > len(rows) + len(asked):
        raise ValueError(f"buckets: at most the {len(rows) + len(asked)} queries, got {buckets}")
    for name, queries in (("train", rows), ("test", asked)):
        empty = np.flatnonzero(~queries.any(axis=1))
        if len(empty):
            raise ValueError(f"{name}: no zero vector, got one in row {empty[0]}")
    both = np.concatenate([rows, asked])
    labels = kmeans(both, buckets, metric="cosine", seed=seed, num_threads=thread_count(num_threads)).labels
    of_train, of_test = labels[: len(rows)], labels[len(rows) :]
    return [
        Fold(np.flatnonzero(of_train != b), np.flatnonzero(of_test != b), np.flatnonzero(of_test == b))
        for b in range(buckets)
    ]


def label_overlap(train: Sequence[Collection[Hashable]], test: Sequence[Collection[Hashable]]) -> float:
    """Share of test queries that have at least one relevant item in common with some training query.

    Parameters
    ----------
    train, test : sequence of collections      the relevant items of each query

    Returns
    -------
    float      0 to 1. (The script beside the paper counts a query from two common items on.)

    Raises
    ------
    ValueError      no test query

    Examples
    --------
    >>> label_overlap([{"a", "b"}, {"c"}], [{"b"}, {"d"}])
    0.5
    """
    if len(test) == 0:
        raise ValueError("test: at least one query, got none")
    known = {item for items in train for item in items}
    return sum(any(item in known for item in items) for items in test) / len(test)
