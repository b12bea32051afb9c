"""Sinkhorn's iteration over log potentials, whatever makes the log-sum-exps: NumPy blocks of a bank, torch, tiles.

    plan_ij = exp(s_ij + u_i + v_j)
    v_j = log c_j - log Σ_i exp(s_ij + u_i),  u_i = log r_i - log Σ_j exp(s_ij + v_j)

alternately, so that columns sum to c and then rows to r. Nothing is stored but u and v, and no exponential overflows.
Sinkhorn & Knopp 1967; Cuturi 2013, arXiv:1306.0895.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_U = TypeVar("_U")
_V = TypeVar("_V")


def column_potential(to_columns: Callable[[_U], _V], to_rows: Callable[[_V], _U], start: _U, rounds: int) -> _V:
    """v after ``rounds >= 1`` rounds from u = ``start``: ``to_columns(u)`` is v, ``to_rows(v)`` is u.

    The last rows are left to the caller: a softmax over s + v is a row that sums to one, which is all that most need.
    """
    for _ in range(rounds - 1):
        start = to_rows(to_columns(start))
    return to_columns(start)
