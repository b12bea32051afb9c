"""Which way a fitted model searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    executor, how = model.how.executor, (compat, num_threads)
    if executor is None or model.settings.method in BANKLESS or not len(rows):
        return search(model, rows, k, allowed, *how)
    jobs = [(model, rows[i : i + QUERY_BLOCK], k, allowed, *how) for i in range(0, len(rows), QUERY_BLOCK)]
    scores, ids = zip(*executor(search, jobs), strict=True)
    return np.concatenate(scores), np.concatenate(ids)


def search(
    model: Model, rows: Rows, k: int, allowed: NDArray[np.bool_] | None, compat: str | None, num_threads: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Scores and items (M, k) of queries (M, D) as they came; ``allowed`` (N,) or None for all."""
    settings = model.settings
    if settings.method in PAIRWISE:
        queries = np.ascontiguousarray(prepare(rows, model.how.metric))
        return _pairwise.search(queries, k, settings, model.corpus, allowed)
    if settings.method in GATED:
        scores, ids, gates = model.gated.search(prepare(rows, model.how.metric), k, allowed, num_threads)
        if compat == "dbnorm":
            return _compat.dual_dis(prepare(rows, model.how.metric), k, model, gates, allowed)
    else:
        scores, ids = model.index.search(rows, k, filter=allowed, num_threads=num_threads)
        gates = np.ones((len(rows), 1), dtype=bool)
    return (_compat.released(scores, gates, model) if compat else scores), ids
