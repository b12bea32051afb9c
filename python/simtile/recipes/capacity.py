"""How many documents d dimensions serve, found by training and known by proof."""

from __future__ import annotations

import torch

from simtile.evaluation.limit import all_sets, capacity, moment_curve, share_solved
from simtile.recipes.claim import Outcome

PROVED = {2: 3, 3: 4}
"""Largest number of documents all pairs of which some query retrieves, on the circle and on the sphere."""


def limit(*, steps: int, restarts: int, learning_rate: float, largest: int, curve: int) -> Outcome:
    """Capacities for pairs at d = 2 .. ``largest``; the moment curve with ``curve`` documents."""
    found = {d: capacity(d, steps=steps, restarts=restarts, learning_rate=learning_rate) for d in range(2, largest + 1)}
    queries, documents = (torch.from_numpy(part) for part in moment_curve(curve))
    sets = all_sets(curve, 2)
    table = {f"capacity at d = {d}, by training": float(n) for d, n in found.items()}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        share = share_solved(queries.to(dtype), documents.to(dtype), sets)
        table[f"pairs of {curve} documents solved by the moment curve at d = 4, {name}"] = share
    return Outcome(float(sum(abs(found[d] - exact) for d, exact in PROVED.items())), 0.0, table)
