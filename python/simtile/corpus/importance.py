"""How much each item of a retrieval corpus helps: Lyu et al. 2023, "Improving Retrieval-Augmented Large Language Models
via Data Importance Learning", arXiv:2307.03027.

    U(p)    = E[ mean over K slots of the utilities of the first K retrieved items that are there ]
    p       = the probability of each item to be there, independently: its importance once U is maximised

``rust/src/importance.rs`` has the recurrences of the exact gradient, O(M K) for a query with M retrieved items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simtile import _core
from simtile.corpus._checks import at_least_one, doubles, labels_of, lists_of_ids, number, once_in_a_list
from simtile.search._arrays import as_count, thread_count

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Float = NDArray[np.float64]


class Importance(NamedTuple):
    """What :func:`learn_importance` returns.

    Attributes
    ----------
    weights : float64 (N,)      importance of each item, in 0 to 1; what no query retrieved is still at ``start``
    utility : float64 (steps + 1,)      mean expected utility before each step, and at the end
    """

    weights: Float
    utility: Float


class Pruning(NamedTuple):
    """What :func:`prune_threshold` returns.

    Attributes
    ----------
    threshold : float      keep the items with ``weights >= threshold``
    utility : float      mean utility of what is kept
    """

    threshold: float
    utility: float


def importance_gradient(
    ids: NDArray[Any] | Tensor,
    utilities: NDArray[Any] | Tensor,
    weights: NDArray[Any] | Tensor,
    *,
    k: int,
    num_threads: int | None = None,
) -> tuple[float, Float]:
    """Expected utility of retrieval from a random part of the corpus, and its exact gradient.

    Parameters
    ----------
    ids : integers (Q, M)      what each query retrieves from the whole corpus, best first, padded with -1, none twice
    utilities : (Q, M)      what each item adds where it is used, such as 1 for a right answer and 0 for a wrong one
    weights : (N,)      probabilities of the items to be there, in 0 to 1; 0 and 1 alone: the utility of that part
    k : int      items used by a query; a slot that stays empty counts as 0
    num_threads : int or None      None: all processors this process may use

    Returns
    -------
    value : float      mean over the queries
    gradient : float64 (N,)      of ``value`` by ``weights``

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The multilinear extension of the top-K utility of Lyu et al. 2023, arXiv:2307.03027. Exact up to rounding for any
    utilities. O(Q M K) time, memory O(Q M) and M K numbers a thread.

    Examples
    --------
    >>> value, gradient = importance_gradient(np.array([[0, 1]]), np.array([[0.0, 1.0]]), np.array([0.5, 1.0]), k=1)
    >>> value, gradient.tolist()
    (0.5, [-1.0, 0.5])
    """
    ids, utilities = _lists(ids, utilities)
    return _gradient(
        ids, utilities, doubles("weights", weights, ndim=1), at_least_one("k", k), thread_count(num_threads)
    )


def learn_importance(
    ids: NDArray[Any] | Tensor,
    utilities: NDArray[Any] | Tensor,
    *,
    k: int,
    num_items: int | None = None,
    groups: NDArray[Any] | Tensor | None = None,
    steps: int = 100,
    learning_rate: float = 10.0,
    start: float = 0.5,
    num_threads: int | None = None,
) -> Importance:
    """Importance of every item of a retrieval corpus, by projected gradient ascent on the expected utility.

    Parameters
    ----------
    ids, utilities, k, num_threads      as in :func:`importance_gradient`, of validation queries; lists longer than `k`,
        since an item's worth depends on what would follow if it were not there
    num_items : int or None      N; None: one more than the largest id
    groups : integers (N,) or None      items of one group, such as a web site, share one weight
    steps, learning_rate      100 and 10 as in the authors' code. A gradient is a mean over the queries, so that it is
        the smaller the fewer of them retrieve an item: without groups a larger rate may be needed
    start : float      weight of every item before the first step, in 0 to 1

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    A step goes along the gradient and is clipped to 0 to 1; with groups, the mean gradient of a group moves its weight,
    which is the projection on equal weights. (The authors' code takes the group mean after clipping.) The utility is
    linear in each weight but not concave in all: `Importance.utility` tells whether the ascent has ended.

    Examples
    --------
    >>> ids = np.array([[0, 1, 2], [1, 0, 2]])
    >>> right = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    >>> learn_importance(ids, right, k=1).weights.tolist()
    [0.0, 1.0, 1.0]
    """
    ids, utilities = _lists(ids, utilities)
    k, steps, threads = at_least_one("k", k), as_count("steps", steps), thread_count(num_threads)
    rate, start = number("learning_rate", learning_rate, 0.0), number("start", start, 0.0, 1.0)
    least = int(ids.max(initial=-1)) + 1
    n = least if num_items is None else as_count("num_items", num_items)
    if n < least:
        raise ValueError(f"num_items: at least {least}, one more than the largest of ids, got {n}")
    group, count = (np.arange(n), n) if groups is None else labels_of("groups", groups, n)
    sizes = np.bincount(group, minlength=count)
    shared = np.full(count, start)
    history = np.empty(steps + 1)
    for step in range(steps):
        history[step], gradient = _gradient(ids, utilities, shared[group], k, threads)
        shared = np.clip(shared + rate * np.bincount(group, gradient, minlength=count) / sizes, 0.0, 1.0)
    history[steps], _ = _gradient(ids, utilities, shared[group], k, threads)
    return Importance(shared[group], history)


def prune_threshold(
    ids: NDArray[Any] | Tensor,
    utilities: NDArray[Any] | Tensor,
    weights: NDArray[Any] | Tensor,
    *,
    k: int,
    num_threads: int | None = None,
) -> Pruning:
    """The weight from which on items should be kept, by the utility of validation queries on what is kept.

    Parameters
    ----------
    ids, utilities, k, num_threads      as in :func:`importance_gradient`
    weights : (N,)      such as :func:`learn_importance` returns

    Returns
    -------
    Pruning      of every 20-quantile of the retrieved items' weights, as in the authors' code, the best; the lowest,
        which keeps the most, of equally good ones

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    ids, utilities = _lists(ids, utilities)
    weights = doubles("weights", weights, ndim=1)
    k, threads = at_least_one("k", k), thread_count(num_threads)
    retrieved = np.unique(ids[ids >= 0])
    if len(retrieved) == 0:
        raise ValueError("ids: at least one retrieved item, got none")
    if retrieved[-1] >= len(weights):
        raise ValueError(f"ids: items in 0..{len(weights) - 1} or -1, got {retrieved[-1]}")
    best: Pruning | None = None
    for threshold in np.unique(np.quantile(weights[retrieved], np.linspace(0, 1, 21), method="lower")):
        value, _ = _gradient(ids, utilities, (weights >= threshold).astype(np.float64), k, threads)
        if best is None or value > best.utility:
            best = Pruning(float(threshold), value)
    assert best is not None
    return best


def _lists(ids: Any, utilities: Any) -> tuple[NDArray[np.int64], Float]:
    ids, utilities = lists_of_ids("ids", ids), doubles("utilities", utilities, ndim=2)
    if ids.shape != utilities.shape:
        raise ValueError(f"utilities: shape {ids.shape} as ids have, got {utilities.shape}")
    if len(ids) == 0:
        raise ValueError("ids: at least one query, got none")
    once_in_a_list("ids", ids)
    return ids, utilities


def _gradient(ids: NDArray[np.int64], utilities: Float, weights: Float, k: int, threads: int) -> tuple[float, Float]:
    values, gradient = _core.importance(ids, utilities, weights, k, num_threads=threads)
    return float(values.mean()), gradient / len(ids)
