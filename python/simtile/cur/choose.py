"""Hyper-parameters of "auto" by leaving build queries out: no setting fits every data set, so the journal decides.

The build queries are dealt into folds. Each fold is searched with what the others teach, by every candidate, on the
scores that are already paid for; plain reranking of the retriever's list is one of the candidates, and stays unless
another one beats it by more than two standard errors of the paired difference (two, because it is the best of several).
Among the others `USUAL` stays on the same terms.

A row of sparse scores is a sample: what was chosen, and a draw from all other items. There an item of the draw stands
for as many as were not drawn: it costs that many calls of the budget and counts that many finds. That tells whether to
rerank; candidates alike can't be told apart by it, and only the usual one is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from simtile.cur.item_matrix import ItemMatrix
from simtile.cur.learned import BuildScores, Learned, learn
from simtile.cur.posterior import Choice, Posterior, features_of
from simtile.cur.rounds import Scored, round_sizes

__all__ = ["TRIAL_ROUNDS", "LeftOut", "Trial", "choose", "leave_out", "run_trials"]

Floats = NDArray[np.float64]
FOLDS = 4
TRIAL_ROUNDS = 4
"""Of a trial, where a search may take more: it compares settings, and costs a solve a round for each of them."""
MOST_QUERIES = 96
"""Build queries that take part: a standard error of a few points of recall, in seconds."""

CANDIDATES = tuple(
    Choice(first_share=share, noise=noise, embedding=embedding)
    for share, (noise, embedding) in product((0.3, 0.6), ((1.0, 0.0), (1.0, 0.5), (1.0, 2.0), (4.0, 1.0)))
)
USUAL = Choice(first_share=0.3, noise=1.0, embedding=2.0)


@dataclass(frozen=True)
class LeftOut:
    """Build queries of one fold, and what the other folds teach.

    Attributes
    ----------
    features, learned      of the other folds
    queries : (M, e) or None      features of the fold's queries
    ids, values, weights : (M, P)      each query's known scores and how many items each stands for; ids -1 is padding
    ranks : (M, P)      the retriever's preference, smaller is better
    listed_first : bool      whether the first round takes the retriever's list rather than the prior's
    """

    features: ItemMatrix
    learned: Learned
    queries: NDArray[np.floating] | None
    ids: NDArray[np.int64]
    values: Floats
    weights: Floats
    ranks: Floats
    listed_first: bool


def leave_out(
    scores: BuildScores,
    rank: int,
    *,
    queries: NDArray[np.floating] | None,
    items: NDArray[np.floating] | None,
    widths: Sequence[int] | None = None,
    listed: Sequence[NDArray[np.int64]],
    listed_first: bool,
) -> list[LeftOut]:
    """Deal the build queries into folds and learn from the rest of each.

    Parameters
    ----------
    scores, rank, queries, items, widths      as for `learn`
    listed : sequence of Q id arrays      the retriever's lists, or what was chosen; items of a row beyond were drawn
    listed_first : bool      a function retrieves, whose scores are not known: its lists come first
    """
    folds = []
    order = np.random.default_rng(0).permutation(len(scores))
    n_folds = min(FOLDS, len(scores))
    for fold in range(n_folds):
        held, rest = (
            order[fold::n_folds],
            np.sort(np.concatenate([order[f::n_folds] for f in range(n_folds) if f != fold])),
        )
        held = np.sort(held[: -(-MOST_QUERIES // n_folds)])
        own = None if queries is None else queries[rest]
        learned = learn(scores.select(rest), rank, queries=own, items=items, widths=widths, iterations=4)
        width = max(len(scores.ids[q]) for q in held)
        ids = np.full((len(held), width), -1, np.int64)
        values, weights, ranks = (np.full(ids.shape, fill) for fill in (np.nan, 0.0, np.inf))
        for row, q in enumerate(held):
            its_ids, m = scores.ids[q], len(scores.ids[q])
            ids[row, :m], values[row, :m] = its_ids, scores.values[q]
            in_list = np.isin(its_ids, listed[q])
            drawn = m - int(in_list.sum())
            weights[row, :m] = np.where(in_list, 1.0, (scores.n - (m - drawn)) / max(drawn, 1))
            query = None if queries is None or listed_first else queries[q]
            ranks[row, :m] = _ranks(its_ids, listed[q], query, items)
        own = None if queries is None else queries[held]
        folds.append(LeftOut(features_of(learned, items), learned, own, ids, values, weights, ranks, listed_first))
    return folds


def _ranks(
    ids: NDArray[np.int64],
    listed: NDArray[np.int64],
    query: NDArray[np.floating] | None,
    items: NDArray[np.floating] | None,
) -> NDArray[np.floating]:
    """The retriever's order of items: by similarity, or by place in its list, where that is all there is."""
    if query is not None and items is not None:
        return np.asarray(-(items[ids] @ query))
    place = {item: float(i) for i, item in enumerate(listed.tolist())}
    return np.array([place.get(item, np.inf) for item in ids.tolist()])


@dataclass(frozen=True)
class Trial:
    """One candidate's searches of all left-out queries with one budget.

    Attributes
    ----------
    choice : Choice
    budget : int
    found : list of bool (M, P)      an entry a fold: which known items it scored, the truly best ones first
    weights : list of (M, P)      and how many items each stands for
    """

    choice: Choice
    budget: int
    found: list[NDArray[np.bool_]]
    weights: list[Floats]

    def recall(self, k: int) -> Floats:
        """Recall@k of every left-out query."""
        parts = []
        for found, weights in zip(self.found, self.weights, strict=True):
            in_top = np.clip(
                k - (np.cumsum(weights, axis=1) - weights), 0.0, weights
            )  # the last may stand for too many
            parts.append((in_top * found).sum(axis=1) / in_top.sum(axis=1))
        return np.concatenate(parts)


def run_trials(
    folds: Sequence[LeftOut], budget: int, *, rounds: int, centred: bool, can_rerank: bool, dense: bool
) -> list[Trial]:
    """Search the left-out queries with the candidates, the usual one first; ``can_rerank`` adds reranking."""
    targets = [fold.values - fold.learned.mean[fold.ids] if centred else fold.values for fold in folds]
    # NaN, the padding, sorts last.
    orders = [np.argsort(-target, axis=1, kind="stable") for target in targets]
    weights = [np.take_along_axis(fold.weights, order, axis=1) for fold, order in zip(folds, orders, strict=True)]
    choices = [USUAL, *(choice for choice in CANDIDATES if dense and choice != USUAL)]
    if can_rerank:
        choices.append(Choice(rerank=True))
    trials = []
    for choice in choices:
        found = []
        for fold, target, order in zip(folds, targets, orders, strict=True):
            mask = np.zeros(target.shape, np.bool_)
            taken = _search(fold, target, choice, budget, rounds, centred)
            np.put_along_axis(mask, np.maximum(taken, 0), True, axis=1)
            found.append(np.take_along_axis(mask, order, axis=1))
        trials.append(Trial(choice, budget, found, weights))
    return trials


def choose(trials: Sequence[Trial], k: int) -> Choice:
    """The best candidate for this k, or reranking.

    A trial's merit is the mean of its recall@k and of its recall@10k, which says the same with less noise.
    """
    merits = [0.5 * (trial.recall(k) + trial.recall(min(10 * k, trial.budget))) for trial in trials]
    own = [i for i, trial in enumerate(trials) if not trial.choice.rerank]
    best = max(own, key=lambda i: float(merits[i].mean()))
    if not _beats(merits[best], merits[0]):
        best = 0
    if len(own) < len(trials) and not _beats(merits[best], merits[-1]):
        best = -1
    return trials[best].choice


def _beats(merits: Floats, others: Floats) -> bool:
    gain = merits - others
    error = float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return bool(gain.mean() > 2.0 * error)


def _search(
    fold: LeftOut, target: Floats, choice: Choice, budget: int, rounds: int, centred: bool
) -> NDArray[np.int64]:
    """Places (M, t) of the known items that a search would have scored; a short row repeats its first one."""
    if choice.rerank:
        return _take(-fold.ranks, fold.weights, budget)
    everyone = np.arange(len(fold.ids))
    posterior = Posterior(fold.features, fold.learned, fold.queries, len(everyone), choice, centred)
    latent: NDArray[np.floating] = posterior.first
    free = fold.ids >= 0
    scored = Scored.nothing(len(everyone))
    taken = np.empty((len(everyone), 0), np.int64)
    for size in round_sizes(budget, rounds, choice.first_share):
        if taken.shape[1]:
            latent = posterior(everyone, scored)
        preference = -fold.ranks if fold.listed_first and not taken.shape[1] else _predict(fold, latent)
        new = _take(np.where(free, preference, -np.inf), fold.weights, size)
        there = np.take_along_axis(free, new, axis=1)  # False at repetitions, once the first one is gone
        there[:, 1:] &= new[:, 1:] != new[:, :1]
        np.put_along_axis(free, new, False, axis=1)
        values = np.where(there, np.take_along_axis(target, new, axis=1), np.nan)
        scored = scored.with_more(np.take_along_axis(fold.ids, new, axis=1), values)
        taken = np.concatenate([taken, new], axis=1)
    return taken


def _predict(fold: LeftOut, latent: NDArray[np.floating]) -> NDArray[np.floating]:
    phi = fold.features.vectors
    if fold.ids.shape[1] > len(phi) // 4:  # nearly whole rows: one product is cheaper than gathering
        every = latent.astype(np.float32) @ phi.T
        return np.take_along_axis(every, np.maximum(fold.ids, 0), axis=1)
    return np.asarray(np.matmul(phi[fold.ids], latent.astype(np.float32)[..., None])[..., 0])


def _take(preference: NDArray[np.floating], weights: Floats, size: int) -> NDArray[np.int64]:
    """Places of the most preferred items, until they have cost ``size`` calls; a short row repeats its first one."""
    most = min(size, preference.shape[1])  # no item costs less than a call
    best = np.argpartition(-preference, most - 1, axis=1)[:, :most]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(preference, best, axis=1), axis=1), axis=1)
    cost = np.take_along_axis(weights, best, axis=1)
    affordable = (np.cumsum(cost, axis=1) - cost < size) & np.isfinite(np.take_along_axis(preference, best, axis=1))
    return np.where(affordable, best, best[:, :1])[:, : max(int(affordable.sum(axis=1).max()), 1)]
