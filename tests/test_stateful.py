"""Any order of changes: a graph index and a reducer against models of a few lines. `make fuzz` takes more examples."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simtile.hubness import HubnessReducer, reference
from simtile.kernels.reference import unit
from simtile.search import GraphIndex

D = 6


class GraphIndexAgainstADict(RuleBasedStateMachine):
    """The model is a dict from id to vector. With ``ef`` beyond the items, a search meets every one of them."""

    @initialize(n=st.integers(0, 40), metric=st.sampled_from(["ip", "cosine", "l2"]))
    def start(self, n: int, metric: Any) -> None:
        self.rng = np.random.default_rng(n)
        first = self.rows(n)
        self.index = GraphIndex.build(first, metric=metric, degree=8, breadth=16)
        self.model = dict(enumerate(first))

    def rows(self, n: int) -> Any:
        return self.rng.standard_normal((n, D)).astype(np.float32)

    @rule(n=st.integers(0, 30))
    def add(self, n: int) -> None:
        new, first = self.rows(n), self.index.next_id
        ids = self.index.add(new)
        assert ids.tolist() == list(range(first, first + n))
        self.model.update(zip(ids.tolist(), new, strict=True))

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 1))
    def remove(self, share: float) -> None:
        gone = self.rng.permutation(sorted(self.model))[: int(share * len(self.model))]
        self.index.remove(gone.astype(np.int64))
        for id in gone.tolist():
            del self.model[id]

    @rule(id=st.integers(-2, 60))
    def remove_what_is_not_there(self, id: int) -> None:
        if id not in self.model:
            with pytest.raises(ValueError, match="ids"):
                self.index.remove(np.array([id]))

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def saved_and_loaded(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(f"{folder}/index")
            self.index = GraphIndex.load(f"{folder}/index")

    @invariant()
    def answers_are_of_the_model(self) -> None:
        ids = np.array(sorted(self.model), np.int64)
        assert self.index.ids.tolist() == ids.tolist() and len(self.index) == len(ids)
        queries = np.eye(2, D, dtype=np.float32)
        for allowed in (None, np.arange(self.index.next_id) % 3 == 0):
            live = ids if allowed is None else ids[allowed[ids]]
            scores, found = self.index.search(queries, 4, ef=400, filter=allowed)
            vectors = np.array([self.model[id] for id in live.tolist()], np.float64).reshape(-1, D)
            exact = self.scores(queries.astype(np.float64), vectors)
            for q in range(len(queries)):
                best = live[np.argsort(-exact[q], kind="stable")[:4]].tolist()
                assert found[q].tolist() == best + [-1] * (4 - len(best))
                sign = -1 if self.index.metric == "l2" else 1
                wanted = sign * np.sort(exact[q])[::-1][:4]
                np.testing.assert_allclose(scores[q, : len(best)], wanted, rtol=1e-5, atol=1e-6)

    def scores(self, queries: Any, vectors: Any) -> Any:
        if self.index.metric == "l2":
            return -((queries[:, None] - vectors) ** 2).sum(2)
        return queries @ (vectors if self.index.metric == "ip" else unit(vectors)).T


FORMULAS: dict[str, Any] = {
    "inverted_softmax": lambda s, bank: reference.inverted_softmax(s, bank, 20.0),
    "csls": lambda s, bank: reference.csls(s, bank, 3),
    "nnn": lambda s, bank: reference.nnn(s, bank, 3, 0.75),
    "dynamic_inverted_softmax": lambda s, bank: reference.dynamic_inverted_softmax(s, bank, 20.0, 1),
}


class ReducerAgainstFormulas(RuleBasedStateMachine):
    """The model is a gallery, a bank, and the method's formula in float64."""

    @initialize(method=st.sampled_from(sorted(FORMULAS)), seed=st.integers(0, 1000))
    def start(self, method: Any, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.gallery, self.bank = self.rows(9), self.rows(7)
        self.reducer = HubnessReducer(method, k=3, num_threads=1).fit(self.gallery, query_bank=self.bank)

    def rows(self, n: int) -> Any:
        return self.rng.standard_normal((n, D)).astype(np.float32)

    @rule(n=st.integers(1, 12))
    def partial_fit(self, n: int) -> None:
        more = self.rows(n)
        self.reducer.partial_fit(query_bank=more)
        self.bank = np.vstack([self.bank, more])

    @rule(n=st.integers(0, 12))
    def add_gallery(self, n: int) -> None:
        more, first = self.rows(n), len(self.gallery)
        assert self.reducer.add_gallery(more).tolist() == list(range(first, first + n))
        self.gallery = np.vstack([self.gallery, more])

    @precondition(lambda self: len(self.gallery) > 4)
    @rule(share=st.floats(0, 0.7))
    def remove_gallery(self, share: float) -> None:
        gone = self.rng.permutation(len(self.gallery))[: int(share * (len(self.gallery) - 3))]
        self.reducer.remove_gallery(gone)
        self.gallery = np.delete(self.gallery, gone, axis=0)

    @rule()
    def copied(self) -> None:
        self.reducer = copy.deepcopy(self.reducer)

    @invariant()
    def scores_are_those_of_the_formula(self) -> None:
        queries = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
        g, q, b = (unit(rows.astype(np.float64)) for rows in (self.gallery, queries, self.bank))
        wanted = FORMULAS[self.reducer.method](q @ g.T, b @ g.T)
        scores, ids = self.reducer.search(queries, 3)
        at_ids = np.take_along_axis(wanted, ids, axis=1)
        best = -np.sort(-wanted, axis=1)[:, :3]
        # csls leaves out what depends on the query alone.
        shift = at_ids[:, :1] - scores[:, :1]
        np.testing.assert_allclose(at_ids, best, atol=2e-5)
        np.testing.assert_allclose(scores + shift, best, atol=2e-5)


TestGraphIndexAgainstADict = GraphIndexAgainstADict.TestCase
TestReducerAgainstFormulas = ReducerAgainstFormulas.TestCase
for case in (TestGraphIndexAgainstADict, TestReducerAgainstFormulas):
    case.settings = settings(max_examples=12, stateful_step_count=8, deadline=None)
