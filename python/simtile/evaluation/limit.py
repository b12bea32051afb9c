"""How many documents d dimensions can serve: free embeddings, and a curve on which 2k dimensions serve any number.

    solved(n, d, k):  unit vectors q_S, x_1 .. x_n of dimension d exist such that for every set S of k documents the
                      k best by <q_S, x_j> are those of S            capacity(d, k) = the largest n that is solved

Queries and documents are parameters, trained on all C(n, k) sets at once by InfoNCE with several positives [1]. So the
capacity bounds every encoder of dimension d from above, and what gradient descent reaches bounds it from below.

Exact cases for k = 2: the two best documents of a query are neighbours in the spherical Delaunay graph of the
documents. On the circle it is a cycle, which is complete up to n = 3; on the sphere it is planar, and complete graphs
are planar up to n = 4: capacity(2) = 3, capacity(3) = 4. At d = 4 the moment curve ends this. With documents at
x(t) = (cos t, sin t, .., cos kt, sin kt) / sqrt(k), the polynomial -Π_{i in S} (1 - cos(t - t_i)) is <q_S, x(t)> plus a
constant; it is 0 on S and below 0 elsewhere. So any n is solved at d = 2k, by a gap that shrinks like n^-2k: true of
real numbers, to some hundred documents of float64, and not of float32.

[1] Weller et al. 2025, LIMIT, arXiv:2508.21038, §4; constants of their public code.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.functional import pair_topk, sup_con

__all__ = ["FreeEmbeddings", "all_sets", "capacity", "fit", "moment_curve", "share_solved"]

CHECK_EVERY = 20
"""Steps between two looks at whether everything is solved."""

LEAST_DECREASE = 1e-5


class FreeEmbeddings(NamedTuple):
    """Embeddings and what they achieve."""

    queries: Tensor
    """(C(n, k), d), in the order of :func:`all_sets`."""
    documents: Tensor
    """(n, d)"""
    solved: float
    """Share of the sets that are exactly their query's k best."""
    steps: int


def all_sets(n: int, k: int) -> NDArray[np.int64]:
    """(C(n, k), k) all sets of k of n documents, each ascending, in lexicographic order."""
    if not 1 <= k < n:
        raise ValueError(f"k: 1 to n - 1 = {n - 1}, got {k}")
    return np.array(list(itertools.combinations(range(n), k)), np.int64)


def share_solved(queries: Tensor, documents: Tensor, sets: NDArray[np.int64]) -> float:
    """Share of queries (Q, d) whose k best of ``documents (n, d)`` are ``sets (Q, k)``, without a tie after them."""
    k = sets.shape[1]
    scores, ids = pair_topk(queries.detach(), documents.detach(), k + 1)
    right = (ids[:, :k].sort(dim=1).values == torch.from_numpy(sets).to(ids.device)).all(1)
    return float((right & (scores[:, k - 1] > scores[:, k])).double().mean())


def fit(
    n: int, d: int, *, k: int = 2, temperature: float = 0.1, learning_rate: float = 0.01, steps: int = 20_000,
    patience: int = 1_000, seed: int = 0,
) -> FreeEmbeddings:  # fmt: skip
    """Train free unit embeddings on all sets of k of n documents, until all are solved or the loss stands still.

    Parameters
    ----------
    n, d, k : int      documents, dimensions, documents a query wants
    temperature, learning_rate : float      0.1 and 0.01 (Adam) as in the authors' code
    steps : int      at most; the authors allow 100,000
    patience : int      steps without a decrease of the loss by 1e-5 after which it gives up
    seed : int      of the normal start

    Raises
    ------
    ValueError      k, or d < 1

    Notes
    -----
    Each step is Adam's on the vectors as they are, then they are brought back to the sphere, as in the authors' code.

    Examples
    --------
    >>> fit(3, 2).solved
    1.0
    """
    sets = all_sets(n, k)
    if d < 1:
        raise ValueError(f"d: at least 1, got {d}")
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(rows, d, generator=generator)).requires_grad_()
        for rows in (len(sets), n)
    )
    positives = torch.arange(len(sets) + 1) * k, torch.from_numpy(sets.ravel())
    optimizer = torch.optim.Adam([queries, documents], lr=learning_rate)
    best, waited, solved, step = float("inf"), 0, 0.0, 0
    for step in range(1, steps + 1):
        loss = sup_con(queries, keys=documents, positives=positives, temperature=temperature, normalize=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for part in (queries, documents):
                part /= part.norm(dim=1, keepdim=True)
        waited = 0 if loss.item() < best - LEAST_DECREASE else waited + 1
        best = min(best, loss.item()) if waited == 0 else best
        if step % CHECK_EVERY == 0 or waited >= patience:
            solved = share_solved(queries, documents, sets)
            if solved == 1.0 or waited >= patience:
                break
    return FreeEmbeddings(queries.detach(), documents.detach(), solved, step)


def capacity(
    d: int, *, k: int = 2, restarts: int = 3, most: int = 512, temperature: float = 0.1, learning_rate: float = 0.01,
    steps: int = 20_000, patience: int = 1_000,
) -> int:  # fmt: skip
    """The largest n that :func:`fit` solves at dimension d, by doubling and then halving: the authors' critical n.

    Parameters
    ----------
    d, k : int
    restarts : int      seeds 0, 1, ... before an n counts as not solved
    most : int      stop doubling there
    temperature, learning_rate, steps, patience      as in :func:`fit`

    Raises
    ------
    ValueError      naming the argument

    Notes
    -----
    A lower bound of the true capacity: gradient descent may miss a solution. Whatever solves n documents solves fewer.
    """
    if restarts < 1:
        raise ValueError(f"restarts: at least 1, got {restarts}")
    attempt = functools.partial(
        fit, k=k, temperature=temperature, learning_rate=learning_rate, steps=steps, patience=patience
    )
    return _largest(lambda n: any(attempt(n, d, seed=s).solved == 1.0 for s in range(restarts)), k + 1, most)


def _largest(holds: Callable[[int], bool], start: int, most: int) -> int:
    """The largest n in start - 1 .. most for which ``holds``, true below some n and false above it."""
    low, high = start - 1, start
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def moment_curve(n: int, *, k: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit queries (C(n, k), 2k) and documents (n, 2k) that solve every set of k, in closed form.

    Exact in real numbers for every n; in float64 while the gap, about (2π/n)^2k, is far above its rounding.

    Examples
    --------
    >>> queries, documents = moment_curve(10)
    >>> share_solved(torch.from_numpy(queries), torch.from_numpy(documents), all_sets(10, 2))
    1.0
    """
    sets = all_sets(n, k)
    t = 2 * np.pi * np.arange(n) / n
    orders = np.arange(1, k + 1)
    waves = np.exp(1j * t[:, None] * orders)
    # Coefficients of z^-k .. z^k, z = e^it, of the product over a set of 1 - cos(t - t_i).
    products = np.zeros((len(sets), 2 * k + 1), complex)
    products[:, k] = 1.0
    for column in sets.T:
        turn = np.exp(1j * t[column])[:, None]
        shifted_up, shifted_down = np.roll(products, 1, axis=1), np.roll(products, -1, axis=1)
        products = products - 0.5 * (shifted_up / turn + shifted_down * turn)
    upper = -products[:, k + 1 :]  # a real polynomial: Σ 2 Re(c_m) cos mt - 2 Im(c_m) sin mt
    queries = np.stack([upper.real, -upper.imag], axis=2).reshape(len(sets), 2 * k)
    documents = np.stack([waves.real, waves.imag], axis=2).reshape(n, 2 * k)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True), documents / np.sqrt(k)
