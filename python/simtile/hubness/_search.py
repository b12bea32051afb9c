"""Which way a fitted model searches."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.executors import InProcess
from simtile.hubness import _compat, _pairwise
from simtile.hubness._methods import BANKLESS, GATED, PAIRWISE
from simtile.hubness._model import Model
from simtile.hubness._summary import Rows, prepare

QUERY_BLOCK = 4096
"""Queries of a job where an executor shares them out."""


def shared_out(
    model: Model, rows: Rows, k: int, allowed: NDArray[np.bool_] | None, *, compat: str | None, num_threads: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """:func:`search` by the executor of the fit, except where a query's scores depend on the other queries."""
    executor = model.how.executor
    asked = functools.partial(Asked, model, k, allowed, compat, num_threads)
    if isinstance(executor, InProcess) or model.settings.method in BANKLESS or not len(rows):
        return asked().search(rows)
    parts = ((rows[i : i + QUERY_BLOCK],) for i in range(0, len(rows), QUERY_BLOCK))
    found = executor.in_order(Asked.search, parts, setup=asked)
    scores, ids = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(ids)


@dataclass(frozen=True)
class Asked:
    """What is asked for each query: what each worker holds."""

    model: Model
    k: int
    allowed: NDArray[np.bool_] | None
    compat: str | None
    num_threads: int

    def search(self, rows: Rows) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return search(self.model, rows, self.k, self.allowed, self.compat, self.num_threads)


def search(
    model: Model, rows: Rows, k: int, allowed: NDArray[np.bool_] | None, compat: str | None, num_threads: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Scores and items (M, k) of queries (M, D) as they came; ``allowed`` (N,) or None for all."""
    settings = model.settings
    if settings.method in PAIRWISE:
        queries = np.ascontiguousarray(prepare(rows, model.how.metric))
        return _pairwise.search(queries, k, settings, model.corpus, allowed)
    if settings.method in GATED:
        queries = prepare(rows, model.how.metric)
        if compat == "dbnorm":
            return _compat.dual_dis(queries, k, model, allowed, num_threads)
        scores, ids, gates = model.gated.search(queries, k, allowed, num_threads)
    else:
        scores, ids = model.index.search(rows, k, filter=allowed, num_threads=num_threads)
        gates = np.ones((len(rows), 1), dtype=bool)
    return (_compat.released(scores, gates, model) if compat else scores), ids
