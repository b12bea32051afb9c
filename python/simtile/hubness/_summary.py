"""What a bank says of a gallery, in one pass, such that parts of the bank and parts of the gallery can be put together.

Blocks of the bank have a fixed size and are merged in their order, so that the bits depend neither on the number of
threads nor on which process computed which block (:mod:`simtile.executors`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile import _core
from simtile._sinkhorn import column_potential
from simtile.executors import Executor, InProcess
from simtile.kernels.reference import Stats, TopK, merge_stats, merge_topk
from simtile.search import ExactIndex

Rows: TypeAlias = NDArray[np.float32]
Metric: TypeAlias = Literal["cosine", "ip"]
Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

BANK_BLOCK = 9216
"""Rows that the engine packs at a time."""
GALLERY_BLOCK = 8192
"""Bounds the copies made for unit length and rounding."""


@dataclass(frozen=True)
class How:
    """How scores are computed; no field but ``metric`` and ``precision`` changes a result."""

    metric: Metric
    precision: Precision = "float32"
    num_threads: int = 1
    executor: Executor = field(default_factory=InProcess)


@dataclass(frozen=True)
class Need:
    """What a pass collects."""

    betas: tuple[float, ...] = ()
    depth: int = 0
    activation_k: int = 0
    neighbours: int = 0


@dataclass(frozen=True)
class Summary:
    """A bank of ``stats.count`` rows against a gallery of N items."""

    stats: Stats
    activation: TopK | None = None
    """(B, activation_k) each bank row's best items."""
    neighbours: TopK | None = None
    """(N, k) each item's nearest bank rows, negated squared distances."""


def prepare(rows: Rows, metric: Metric) -> Rows:
    """Rows of unit length for the cosine, zero rows staying zero."""
    if metric == "ip":
        return rows
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.asarray(rows / np.maximum(norms, np.float32(1e-12)), np.float32)


_ROUNDED = 512
"""Rows that are rounded at a time."""


def bfloat16_bits(rows: Rows, center: Rows | None = None) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even; (D,) a center is taken off first."""
    out = np.empty(rows.shape, np.uint16)
    for at in range(0, len(rows), _ROUNDED):
        part = rows[at : at + _ROUNDED] if center is None else rows[at : at + _ROUNDED] - center
        bits = np.ascontiguousarray(part).view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += bits
        rounded += 0x7FFF
        rounded >>= 16
        out[at : at + _ROUNDED] = rounded
    return out


def _products(rows: Rows, vector: Rows) -> Rows:
    """Inner products (N,). Not by BLAS, whose threads wait for more in a loop, where the engine's would run."""
    return np.asarray(np.einsum("ij,j->i", rows, vector))


@dataclass(frozen=True)
class Items:
    """A gallery, and what is wanted of a bank for it: what each worker holds."""

    gallery: Rows
    need: Need
    metric: Metric
    precision: Precision
    num_threads: int

    def stats(self, bank: Rows) -> Stats:
        """Statistics of one block of a bank for the whole gallery."""
        try:
            return self._stats(bank)
        except ValueError as error:
            # The values themselves are finite: that has been looked at.
            message = (
                f"gallery, query_bank, gallery_bank: values too large or too small for precision {self.precision!r}"
            )
            raise ValueError(message) from error

    def _stats(self, bank: Rows) -> Stats:
        betas, depth = self.need.betas, self.need.depth
        rows, center = prepare(bank, self.metric), None
        if self.precision != "float32":
            # All scores of an item share <center, g>, which is left out of what is rounded.
            center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        against, parts = self._against(rows, center), []
        for j in range(0, max(len(self.gallery), 1), GALLERY_BLOCK):
            right = prepare(self.gallery[j : j + GALLERY_BLOCK], self.metric)
            lse, mean, var, top = against(right)
            if center is not None:
                shift = _products(right, center).astype(np.float64)
                lse, mean, top = lse + np.multiply.outer(betas, shift), mean + shift, top + shift
            parts.append((lse, mean, var, top.astype(np.float64, copy=False)))
        lse, mean, var, top = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        return Stats(betas, (depth,) if depth else (), len(bank), lse, mean, var, top)

    def _against(self, bank: Rows, center: Rows | None) -> Callable[[Rows], tuple[Any, Any, Any, Any]]:
        """Statistics of prepared items over a prepared bank less its center, as functions of the items."""
        betas, depth, threads = self.need.betas, self.need.depth, self.num_threads
        if center is None:
            left = np.ascontiguousarray(bank)
            return lambda items: _core.pair_stats(left, np.ascontiguousarray(items), betas, depth, num_threads=threads)
        if self.precision == "bfloat16":
            bits = bfloat16_bits(bank, center)
            return lambda items: _core.pair_stats(bits, bfloat16_bits(items), betas, depth, num_threads=threads)
        # All scores of a bank row share <middle, b>: what is left of items and their codes' errors has no common part.
        moved = np.ascontiguousarray(bank - center)
        store = _core.ExactStore(moved, item_bias=_products(moved, self._middle), copy=False, num_threads=threads)
        return lambda items: store.stats(items - self._middle, betas, depth, num_threads=threads)

    @functools.cached_property
    def _middle(self) -> Rows:
        """(D,) about the mean of the items."""
        sums = np.zeros(self.gallery.shape[1], np.float32)
        for j in range(0, len(self.gallery), GALLERY_BLOCK):
            sums += prepare(self.gallery[j : j + GALLERY_BLOCK], self.metric).sum(axis=0)
        return np.asarray(sums / max(len(self.gallery), 1), np.float32)


def blocks(bank: Iterable[Rows]) -> list[Rows]:
    """Views of at most ``BANK_BLOCK`` rows."""
    return [part[i : i + BANK_BLOCK] for part in bank for i in range(0, len(part), BANK_BLOCK)]


def summarise(bank: Sequence[Rows], gallery: Rows, need: Need, how: How) -> Summary:
    """One pass over the bank (given in parts), and one more where lists of neighbours or activations are wanted."""
    parts = blocks(bank)
    items = functools.partial(Items, gallery, need, how.metric, how.precision, how.num_threads)
    stats = functools.reduce(merge_stats, how.executor.in_order(Items.stats, ((part,) for part in parts), setup=items))
    activation = neighbours = None
    if need.activation_k:
        index = ExactIndex(gallery, metric=how.metric, copy=False)
        found = [index.search(part, need.activation_k, num_threads=how.num_threads) for part in parts]
        activation = TopK(*(np.concatenate(part) for part in zip(*found, strict=True)))
    if need.neighbours:
        lists = [nearest(part, gallery, need.neighbours, how) for part in parts]
        starts = np.cumsum([0, *map(len, parts)])
        neighbours = functools.reduce(merge_topk, [_shift(t, int(n)) for t, n in zip(lists, starts, strict=False)])
    return Summary(stats, activation, neighbours)


def nearest(bank: Rows, gallery: Rows, k: int, how: How) -> TopK:
    """(N, k) the bank rows nearest to each item by Euclidean distance."""
    index = ExactIndex(prepare(bank, how.metric), metric="l2", copy=False)
    parts = [
        index.search(prepare(gallery[j : j + GALLERY_BLOCK], how.metric), k, num_threads=how.num_threads)
        for j in range(0, max(len(gallery), 1), GALLERY_BLOCK)
    ]
    distances, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    return TopK(-distances.astype(np.float64), ids)


def _shift(lists: TopK, by: int) -> TopK:
    return TopK(lists.scores, np.where(lists.ids < 0, -1, lists.ids + by))


def _stacked(a: TopK, b: TopK) -> TopK:
    return TopK(np.concatenate([a.scores, b.scores]), np.concatenate([a.ids, b.ids]))


def more_bank(a: Summary, b: Summary) -> Summary:
    """Of the rows of a bank and further rows, for the same gallery."""
    activation, neighbours = a.activation, a.neighbours
    if activation is not None and b.activation is not None:
        activation = _stacked(activation, b.activation)
    if neighbours is not None and b.neighbours is not None:
        neighbours = merge_topk(neighbours, _shift(b.neighbours, a.stats.count))
    return Summary(merge_stats(a.stats, b.stats), activation, neighbours)


def more_items(a: Summary, b: Summary) -> Summary:
    """Of a gallery and further items, for the same bank."""
    first = len(a.stats.mean)
    activation, neighbours = a.activation, a.neighbours
    if activation is not None and b.activation is not None:
        activation = merge_topk(activation, _shift(b.activation, first))
    if neighbours is not None and b.neighbours is not None:
        neighbours = _stacked(neighbours, b.neighbours)
    stats = _per_item(a.stats, lambda name, value: np.concatenate([value, getattr(b.stats, name)], axis=-1))
    return Summary(stats, activation, neighbours)


def fewer_items(a: Summary, keep: NDArray[np.bool_], bank: Sequence[Rows], gallery: Rows, how: How) -> Summary:
    """Of the items where ``keep`` holds (``gallery``). A bank row that loses one of its best items searches again."""
    activation, neighbours = a.activation, a.neighbours
    if activation is not None:
        lost = ~np.where(activation.ids >= 0, keep[activation.ids], True).all(axis=1)
        number = np.cumsum(keep) - 1
        ids = np.where(activation.ids >= 0, number[activation.ids], -1)
        scores = activation.scores.copy()
        if lost.any():
            rows = np.concatenate(bank)[lost]
            index = ExactIndex(gallery, metric=how.metric, copy=False)
            scores[lost], ids[lost] = index.search(rows, ids.shape[1], num_threads=how.num_threads)
        activation = TopK(scores, ids)
    if neighbours is not None:
        neighbours = TopK(neighbours.scores[keep], neighbours.ids[keep])
    return Summary(_per_item(a.stats, lambda _, value: value[..., keep]), activation, neighbours)


def _per_item(stats: Stats, change: Callable[[str, Any], Any]) -> Stats:
    return replace(stats, **{name: change(name, getattr(stats, name)) for name in ("lse", "mean", "var", "top")})


def potentials(bank: Sequence[Rows], gallery: Rows, tau: float, iterations: int, how: How) -> NDArray[np.float64]:
    """(N,) Sinkhorn's log potentials of the items after so many rounds, two passes each; see the reference."""
    parts = [np.ascontiguousarray(prepare(part, how.metric)) for part in blocks(bank)]
    items = np.ascontiguousarray(prepare(gallery, how.metric))

    def to_columns(u: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        columns = [
            _core.pair_lse(
                part, items, 1 / tau, x_bias=bias, want_row=False, want_column=True, num_threads=how.num_threads
            )[1]
            for part, bias in zip(parts, u, strict=True)
        ]
        return -functools.reduce(np.logaddexp, [np.asarray(c, np.float64) for c in columns])

    def to_rows(v: NDArray[np.float64]) -> list[NDArray[np.float32]]:
        bias = v.astype(np.float32)
        rows = [_core.pair_lse(part, items, 1 / tau, y_bias=bias, num_threads=how.num_threads)[0] for part in parts]
        return [-row for row in rows if row is not None]

    return column_potential(to_columns, to_rows, [np.zeros(len(part), np.float32) for part in parts], iterations)
