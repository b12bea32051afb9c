"""Everything an index derives from its scores, made when first asked for and dropped when the scores change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simtile.cur.choose import TRIAL_ROUNDS, LeftOut, Trial, choose, leave_out, run_trials
from simtile.cur.factorize import alternating_least_squares, singular_factors
from simtile.cur.item_matrix import FactorDtype, ItemMatrix, dequantized, quantized
from simtile.cur.learned import BuildScores, Learned, learn
from simtile.cur.posterior import Choice, features_of
from simtile.cur.retrieval import Retrieval

__all__ = ["Knowledge"]


@dataclass
class _Derived:
    """What can be made again from the scores."""

    features: ItemMatrix | None = None
    columns: dict[bool, ItemMatrix] = field(default_factory=dict)
    axn: dict[bool, tuple[ItemMatrix, float]] = field(default_factory=dict)
    folds: list[LeftOut] | None = None
    trials: tuple[tuple[int, int | None, bool], list[Trial]] | None = None


class Knowledge:
    """What the build queries' scores taught.

    Attributes
    ----------
    query_features : float32 (Q, e) or None      of the build queries
    listed : list of int64 arrays      the retriever's lists: of sparse rows, all that was not drawn; empty where the
        features are the retriever and rows are whole
    scores : BuildScores
    learned : Learned
    """

    def __init__(self, rank: int, dtype: FactorDtype, query_features: NDArray[np.float32] | None) -> None:
        self.rank, self.dtype, self.query_features = rank, dtype, query_features
        self.listed: list[NDArray[np.int64]] = []
        self.scores: BuildScores
        self.learned: Learned
        self._choices: dict[tuple[int, int, int | None, bool], Choice] = {}
        self._derived = _Derived()

    def refit(self, scores: BuildScores, retrieval: Retrieval) -> None:
        """Learn from all scores of the build queries."""
        self.scores = scores
        self.learned = learn(
            scores, self.rank, queries=self.query_features, items=retrieval.features, widths=retrieval.widths
        )
        self._choices.clear()
        self._derived = _Derived()

    def restore(
        self, scores: BuildScores, learned: Learned, choices: dict[tuple[int, int, int | None, bool], Choice]
    ) -> None:
        """Take over what a file holds, without fitting again."""
        self.scores, self.learned, self._choices = scores, learned, choices
        self._derived = _Derived()

    @property
    def choices(self) -> dict[tuple[int, int, int | None, bool], Choice]:
        """(k, budget, rounds, centred) -> what was chosen for it so far."""
        return self._choices

    def features(self, retrieval: Retrieval) -> ItemMatrix:
        """[v | f | m | 1] of all items, v and f rounded to the index's dtype."""
        if self._derived.features is None:
            rounded = replace(self.learned, factors=self._rounded(self.learned.factors).astype(np.float64))
            self._derived.features = features_of(rounded, retrieval.features)
        return self._derived.features

    def columns(self, centred: bool) -> ItemMatrix:
        """The build queries' scores of all items, an item a row (n, Q). Raises ValueError for sparse scores."""
        if not self.scores.is_dense:
            raise ValueError('method: "anncur" and "adacur" need whole rows of scores: build with dense=True')
        if centred not in self._derived.columns:
            matrix = self.scores.dense()
            self._derived.columns[centred] = ItemMatrix((matrix - self._offset(centred)).T.astype(np.float32))
        return self._derived.columns[centred]

    def axn_factors(self, centred: bool, retrieval: Retrieval) -> tuple[ItemMatrix, float]:
        """AXN's item factors (n, d), of the plain scores without any means, and the ridge that their fit used."""
        if centred not in self._derived.axn:
            rank = min(self.rank, len(self.scores))
            if self.scores.is_dense:
                matrix = self.scores.dense() - self._offset(centred)
                _, factors = singular_factors(matrix, rank)
                ridge = float(np.maximum((matrix**2).mean() - (factors**2).sum() / matrix.shape[1], 0.0))
            else:
                sparse = self.scores.sparse(self._offset(centred))
                start = _projected(retrieval.features, self.scores.n, rank)
                model = alternating_least_squares(sparse, start)
                factors, ridge = model.factors, model.noise
            self._derived.axn[centred] = (ItemMatrix(self._rounded(factors)), ridge)
        return self._derived.axn[centred]

    def choice(self, k: int, budget: int, rounds: int | None, centred: bool, retrieval: Retrieval) -> Choice:
        """Hyper-parameters of "auto" for these arguments."""
        key = (k, budget, rounds, centred)
        if key not in self._choices:
            if len(self.scores) < 4:  # nothing to learn a choice from
                self._choices[key] = Choice(rerank=retrieval.can_list)
            else:
                self._choices[key] = choose(self._trials_of(budget, rounds, centred, retrieval), k)
        return self._choices[key]

    def _trials_of(self, budget: int, rounds: int | None, centred: bool, retrieval: Retrieval) -> list[Trial]:
        """Searches of left-out build queries; those of the last arguments are kept, since they serve every k."""
        arguments = (budget, rounds, centred)
        if self._derived.trials is None or self._derived.trials[0] != arguments:
            trials = run_trials(
                self._left_out(retrieval), budget, rounds=rounds or TRIAL_ROUNDS, centred=centred,
                can_rerank=retrieval.can_list, dense=self.scores.is_dense,
            )  # fmt: skip
            self._derived.trials = (arguments, trials)
        return self._derived.trials[1]

    def _left_out(self, retrieval: Retrieval) -> list[LeftOut]:
        if self._derived.folds is None:
            self._derived.folds = leave_out(
                self.scores,
                self.rank,
                queries=self.query_features,
                items=retrieval.features,
                widths=retrieval.widths,
                listed=self.listed or [np.empty(0, np.int64)] * len(self.scores),
                listed_first=retrieval.function is not None,
            )
        return self._derived.folds

    def _offset(self, centred: bool) -> NDArray[np.float64]:
        return np.asarray(self.learned.mean if centred else np.zeros(self.scores.n))

    def _rounded(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        return dequantized(quantized(vectors, self.dtype))


def _projected(features: NDArray[np.floating] | None, n: int, rank: int) -> NDArray[np.float64]:
    """Where AXN's factors start: a random projection of the features, or noise."""
    draw = partial(np.random.default_rng(0).normal, size=(n if features is None else features.shape[1], rank))
    return np.asarray(draw() if features is None else features @ draw(), np.float64)
