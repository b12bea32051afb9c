"""Search by the dynamic methods: a gate per query, opened by its raw best item, decides which correction its row gets.

One index serves all cases: each item carries its corrections as further coordinates, each query 1 or 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.hubness._methods import Correction
from simtile.hubness._summary import Rows
from simtile.kernels.reference import TopK
from simtile.search import ExactIndex

Scores: TypeAlias = NDArray[np.float64]
Gates: TypeAlias = NDArray[np.bool_]


def activated(lists: TopK, n: int) -> NDArray[np.bool_]:
    """(N,) the items that are among the best of some bank row."""
    mask = np.zeros(n, dtype=bool)
    mask[lists.ids[lists.ids >= 0]] = True
    return mask


@dataclass(frozen=True)
class GatedIndex:
    """Items with their corrections (N, D + T), the masks (N,) that open the T gates, constants of closed gates."""

    index: ExactIndex
    masks: tuple[NDArray[np.bool_], ...]
    constants: tuple[float, ...]

    @classmethod
    def build(cls, gallery: Rows, correction: Correction, activation: tuple[TopK, ...]) -> GatedIndex:
        columns = np.stack(correction.biases, axis=1).astype(np.float32)
        masks = tuple(activated(lists, len(gallery)) for lists in activation)
        return cls(ExactIndex(np.hstack([gallery, columns]), copy=False), masks, correction.constants)

    def gates(self, best: NDArray[np.int64]) -> Gates:
        """(M, T) which gates the raw best items (M,) open; none where there is no item."""
        if not len(self.index):
            return np.zeros((len(best), len(self.masks)), dtype=bool)
        return np.stack([mask[best] & (best >= 0) for mask in self.masks], axis=1)

    def raw(
        self, queries: Rows, k: int, allowed: NDArray[np.bool_] | None, num_threads: int
    ) -> tuple[Scores, NDArray[np.int64], Gates]:
        """Raw scores and items (M, k or 1) and the gates (M, T) that the best of the items allowed opens."""
        closed = np.zeros((len(queries), len(self.masks)), np.float32)
        found = self.index.search(np.hstack([queries, closed]), max(k, 1), filter=allowed, num_threads=num_threads)
        return found[0].astype(np.float64), found[1], self.gates(found[1][:, 0])

    def search(
        self, queries: Rows, k: int, allowed: NDArray[np.bool_] | None, num_threads: int
    ) -> tuple[Scores, NDArray[np.int64], Gates]:
        """Scores and items (M, k) and the gates (M, T)."""
        scores, ids, gates = self.raw(queries, k, allowed, num_threads)
        rows = np.flatnonzero(gates.any(axis=1))
        if len(rows):
            augmented = np.hstack([queries[rows], gates[rows].astype(np.float32)])
            found = self.index.search(augmented, max(k, 1), filter=allowed, num_threads=num_threads)
            scores[rows], ids[rows] = found
        return self.level(scores, gates)[:, :k], ids[:, :k], gates

    def level(self, scores: Scores, gates: Gates) -> Scores:
        """Scores with the constants of the gates that are closed: one scale for all rows."""
        return np.asarray(scores + np.where(gates, 0.0, self.constants).sum(axis=1)[:, None])
