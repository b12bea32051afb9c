"""What an exact index searches: prepared vectors and their ids, replaced as a whole by every change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from simtile import _core
from simtile.search._arrays import as_mask, thread_count
from simtile.search._directions import principal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Metric: TypeAlias = Literal["ip", "cosine", "l2"]

# Below either, packing codes for a handful of float32 tiles gains nothing.
_LEAST_ITEMS, _LEAST_COLUMNS = 2048, 32
_MOST_COLUMNS = 65536  # sums of products of codes fill 32 bits here
# An exact score costs as much as some 30 columns of a float32 pass, three quarters of which the codes save.
_PROBES, _PROBE_K, _MOST_RESCORED = 36, 10, 1 / 32


class State(NamedTuple):
    """What one search sees, whatever changes meanwhile. The store knows places, callers know ids."""

    store: _core.ExactStore
    ids: NDArray[np.int64] | None
    """(N,) rising; None: the places."""
    next_id: int

    def all_ids(self) -> NDArray[np.int64]:
        return np.arange(self.store.shape[0]) if self.ids is None else self.ids.copy()

    def named(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of places, in which -1 stays."""
        if self.ids is None:
            return places
        return np.where(places < 0, -1, self.ids[places] if len(self.ids) else -1)

    def mask(self, filter: Any) -> NDArray[np.uint8] | None:
        mask = as_mask(filter, self.next_id)
        return mask if mask is None or self.ids is None else np.ascontiguousarray(mask[self.ids])

    def places(
        self, indptr: NDArray[np.int64] | None, ids: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """CSR lists of ids as lists of places; what was removed is in no place."""
        if self.ids is None or indptr is None or ids is None:
            return indptr, ids
        place = np.searchsorted(self.ids, ids)
        there = np.isin(ids, self.ids)
        return np.concatenate([[0], np.cumsum(there)])[indptr], place[there]


def prepared(
    rows: NDArray[np.float32], metric: Metric, first_pass: Literal["pca", "i8", "f32"],
    scale: NDArray[np.float32] | None, bias: NDArray[np.float32] | None, *, copy: bool,
) -> _core.ExactStore:  # fmt: skip
    found = principal(rows, metric, scale, bias) if first_pass == "pca" else None
    matrix, sizes = found or (None, None)
    return _core.ExactStore(
        rows, metric=metric, codes=first_pass != "f32", directions=matrix, leading=sizes, item_scale=scale,
        item_bias=bias, copy=copy, num_threads=thread_count(None),
    )  # fmt: skip


def first_pass_of(store: _core.ExactStore) -> Literal["pca", "i8", "f32"]:
    if not store.codes:
        return "f32"
    return "i8" if store.leading is None else "pca"


def worth_codes(rows: NDArray[np.float32]) -> bool:
    """Whether codes can pay: byte products are four times as fast as float32 on AVX-512 VNNI alone."""
    n, d = rows.shape
    return n >= _LEAST_ITEMS and _LEAST_COLUMNS <= d <= _MOST_COLUMNS and _core.isas()[0] == "avx512_bf16"


def excludes_enough(store: _core.ExactStore, rows: NDArray[np.float32]) -> bool:
    """Whether the bound leaves few enough items to be scored exactly, for items as queries."""
    probes = np.ascontiguousarray(rows[:: max(1, len(rows) // _PROBES)][:_PROBES])
    _, _, rescored = store.search(probes, _PROBE_K)
    return rescored <= _MOST_RESCORED * len(probes) * len(rows)
