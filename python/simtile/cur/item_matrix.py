"""Vectors of all items, searched for the best predictions of a round: exact top-k by the Rust engine, ids excluded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.search import ExactIndex

__all__ = ["FactorDtype", "ItemMatrix", "dequantized", "quantized"]

FactorDtype: TypeAlias = Literal["float32", "bfloat16", "int8"]


class ItemMatrix:
    """Item vectors (n, D) behind an exact index by inner product.

    Memory: the vectors in float32 and their packed copy. They must not change.
    """

    def __init__(self, vectors: NDArray[np.floating]) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index = ExactIndex(self.vectors, copy=False)

    def __len__(self) -> int:
        return len(self.vectors)

    def top(
        self, latents: NDArray[np.floating], k: int, *, allowed: NDArray[np.bool_] | None, scored: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Predictions (M, k) and ids (M, k), best first, padded with -inf and -1.

        Parameters
        ----------
        latents : (M, D)
        k : int
        allowed : bool (n,) or None      items that may be returned
        scored : int64 (M, t)      items that are not returned for a query; -1 is padding
        """
        rows = np.ascontiguousarray(latents, dtype=np.float32)
        if allowed is not None and allowed.all():
            allowed = None
        return self._index.search(rows, k, filter=allowed, exclude=as_csr(scored))


def as_csr(scored: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Padded id lists (M, t) as (indptr, indices); None if all are empty."""
    if not scored.shape[1]:
        return None
    there = scored >= 0
    return np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64), scored[there]


def quantized(vectors: NDArray[np.floating], dtype: FactorDtype) -> dict[str, NDArray[np.generic]]:
    """Arrays that hold the vectors in a narrower type: bytes with a scale a row, or the upper half of float32."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if dtype == "float32":
        return {"values": rows}
    if dtype == "bfloat16":
        bits = rows.view(np.uint32)
        return {"values": ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)}  # to nearest, ties to even
    if dtype == "int8":
        scale = np.abs(rows).max(axis=1, initial=0.0) / 127.0
        codes = np.rint(rows / np.where(scale > 0, scale, 1.0)[:, None]).astype(np.int8)
        return {"values": codes, "scale": scale.astype(np.float32)}
    raise ValueError(f'dtype: "float32", "bfloat16" or "int8", got {dtype!r}')


def dequantized(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The vectors (n, D) that `quantized` stands for, in float32."""
    values = arrays["values"]
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    if values.dtype == np.int8:
        return values.astype(np.float32) * np.asarray(arrays["scale"], dtype=np.float32)[:, None]
    return values.astype(np.float32)


def padded(lists: Sequence[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    """Id lists of unequal length as (M, width), padded with -1."""
    result = np.full((len(lists), width), -1, np.int64)
    for row, ids in zip(result, lists, strict=True):
        row[: len(ids)] = ids[:width]
    return result
