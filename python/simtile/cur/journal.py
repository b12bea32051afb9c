"""Scores that were paid for: an append-only file with a checksum on every frame, or memory alone.

    file  = header frame, frames …
    frame = magic, kind, count, CRC-32 of the payload, CRC-32 of these four, payload
    kinds : header (JSON: format, scorer version), query keys, item keys (16 bytes each, numbered in order),
            scores (records of query number uint32, item number uint32, score float64)

A process that dies while it writes leaves a torn frame at the end, which the next one cuts off. A wrong checksum
is an error: those bytes were once right. One process at a time may hold a file (POSIX lock).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simtile.cur.errors import JournalError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing to lock with; two processes on one journal are the user's risk there
    fcntl = None  # type: ignore[assignment]

__all__ = ["ScoreJournal", "content_key"]

_HEAD = struct.Struct("<4sIII")
_CHECK = struct.Struct("<I")
_MAGIC = b"SJ01"
_HEADER, _QUERIES, _ITEMS, _SCORES = range(4)
_KEY_BYTES = 16
_RECORD = np.dtype([("query", "<u4"), ("item", "<u4"), ("score", "<f8")])
_UNIT = {_HEADER: 1, _QUERIES: _KEY_BYTES, _ITEMS: _KEY_BYTES, _SCORES: _RECORD.itemsize}
_SYNC_SECONDS = 1.0
"""A killed process loses no finished write; a power cut may lose those since the last fsync, one of these ago."""


def content_key(value: Any) -> bytes:
    """16 bytes that stand for a query or an item by what it holds.

    Raises TypeError for what is neither a text, bytes, an array nor JSON.
    """
    if isinstance(value, str):
        raw = b"s" + value.encode(errors="surrogatepass")
    elif isinstance(value, (bytes, bytearray)):
        raw = b"b" + bytes(value)
    elif isinstance(value, np.ndarray):
        raw = f"a{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    else:
        try:
            raw = b"j" + json.dumps(value, sort_keys=True).encode()
        except TypeError as error:
            wanted = "a text, bytes, an array or JSON values, to be known again later"
            raise TypeError(f"query or item: {wanted}; got {type(value).__name__}") from error
    return hashlib.blake2b(raw, digest_size=_KEY_BYTES).digest()


class ScoreJournal:
    """Scores by (query, item), kept for one scorer.

    Parameters
    ----------
    path : path or None      None keeps everything in memory only
    version : str      the scorer's; a file of another version is refused

    Raises
    ------
    JournalError      the file is damaged before its end, locked by another process, or of another scorer
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, version: str) -> None:
        self.version = version
        self.path = None if path is None else Path(path)
        self._queries: dict[bytes, int] = {}
        self._items: dict[bytes, int] = {}
        self._chunks: dict[int, list[NDArray[Any]]] = {}
        self._file: BinaryIO | None = None
        self._synced = 0.0
        if self.path is not None:
            self._open(self.path)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, version: str) -> ScoreJournal:
        """The scores of a file in memory: nothing is locked, and what is added later is not written."""
        journal = cls(None, version=version)
        with open(path, "rb") as file:
            journal._read(Path(path), file)
        return journal

    def __len__(self) -> int:
        """The number of scores, written twice counted once."""
        return sum(len(self.row(query)[0]) for query in self._chunks)

    def __enter__(self) -> ScoreJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything through and let go of the file; the scores stay readable."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def query_numbers(self, queries: Iterable[Any]) -> NDArray[np.int64]:
        """The numbers of queries by content; new ones are numbered and written."""
        return self._numbers(queries, self._queries, _QUERIES)

    def item_numbers(self, items: Iterable[Any]) -> NDArray[np.int64]:
        """The numbers of items by content; new ones are numbered and written."""
        return self._numbers(items, self._items, _ITEMS)

    def find_query(self, key: bytes) -> int:
        """The number of a query by its `content_key`, -1 if it has none."""
        return self._queries.get(key, -1)

    def find_items(self, items: Iterable[Any]) -> NDArray[np.int64]:
        """The numbers of items by content, -1 for those that have none."""
        return np.array([self._items.get(content_key(item), -1) for item in items], dtype=np.int64)

    def append(self, queries: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Add scores (B,) of numbered queries (B,) and items (B,); NaN is left out."""
        records = np.empty(len(scores), _RECORD)
        records["query"], records["item"], records["score"] = queries, items, scores
        records = records[np.isfinite(records["score"])]
        if len(records):
            self._write(_SCORES, records.tobytes())
            self._remember(records)

    def row(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Item numbers, ascending, and scores of one query."""
        chunks = self._chunks.get(query)
        if not chunks:
            return np.empty(0, np.int64), np.empty(0)
        if len(chunks) > 1:
            merged = np.concatenate(chunks)
            # The first of equal numbers: a score that was bought twice keeps its first value.
            _, first = np.unique(merged["item"], return_index=True)
            chunks[:] = [merged[first]]
        elif not (np.diff(chunks[0]["item"].astype(np.int64)) > 0).all():
            _, first = np.unique(chunks[0]["item"], return_index=True)
            chunks[:] = [chunks[0][first]]
        return chunks[0]["item"].astype(np.int64), chunks[0]["score"].astype(np.float64)

    def known(self, query: int, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores (len(items),) of numbered items, NaN where there is none."""
        present, scores = self.row(query)
        if not len(present):
            return np.full(len(items), np.nan)
        at = np.searchsorted(present, items).clip(max=len(present) - 1)
        return np.where(present[at] == items, scores[at], np.nan)

    def copy_to(self, path: Path) -> None:
        """Write all scores, each once, as a new journal."""
        with ScoreJournal(path, version=self.version) as other:
            for kind, numbers in ((_QUERIES, self._queries), (_ITEMS, self._items)):
                other._write(kind, b"".join(numbers))
            other._queries, other._items = dict(self._queries), dict(self._items)
            for query in self._chunks:
                items, scores = self.row(query)
                other.append(np.full(len(items), query), items, scores)

    def _numbers(self, values: Iterable[Any], known: dict[bytes, int], kind: int) -> NDArray[np.int64]:
        keys = [content_key(value) for value in values]
        new = [key for key in dict.fromkeys(keys) if key not in known]
        if new:
            self._write(kind, b"".join(new))
            known.update({key: len(known) + i for i, key in enumerate(new)})
        return np.array([known[key] for key in keys], dtype=np.int64)

    def _remember(self, records: NDArray[Any]) -> None:
        order = np.argsort(records["query"], kind="stable")
        records = records[order]
        starts = np.flatnonzero(np.r_[True, np.diff(records["query"].astype(np.int64)) != 0])
        for part in np.split(records, starts[1:]):
            self._chunks.setdefault(int(part["query"][0]), []).append(part)

    def _write(self, kind: int, payload: bytes) -> None:
        if self._file is None:
            if self.path is not None:
                raise JournalError(f"{self.path}: closed")
            return
        count = len(payload) // _UNIT[kind]
        head = _HEAD.pack(_MAGIC, kind, count, zlib.crc32(payload))
        self._file.write(head + _CHECK.pack(zlib.crc32(head)) + payload)
        self._file.flush()
        if time.monotonic() > self._synced + _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 — held until close()
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise JournalError(f"{path}: in use by another process") from error
        try:
            end = self._read(path, file)
        except BaseException:
            file.close()
            raise
        file.truncate(end)
        self._file = file
        if end == 0:
            self._write(_HEADER, json.dumps({"format": 1, "scorer": self.version}).encode())

    def _read(self, path: Path, file: BinaryIO) -> int:
        """Take in every whole frame; the position after the last one."""
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        position = 0
        while position + _HEAD.size + _CHECK.size <= size:
            head = file.read(_HEAD.size)
            (check,) = _CHECK.unpack(file.read(_CHECK.size))
            magic, kind, count, checksum = _HEAD.unpack(head)
            if magic != _MAGIC or check != zlib.crc32(head):
                raise JournalError(f"{path}: not a journal, or damaged, at byte {position} of {size}")
            payload = file.read(count * _UNIT[kind])
            if len(payload) < count * _UNIT[kind]:
                break
            if checksum != zlib.crc32(payload):
                raise JournalError(f"{path}: damaged at byte {position} of {size}")
            self._take(path, kind, payload)
            position = file.tell()
        return position

    def _take(self, path: Path, kind: int, payload: bytes) -> None:
        if kind == _HEADER:
            found = json.loads(payload)["scorer"]
            if found != self.version:
                raise JournalError(f"{path}: scores of {found!r}, wanted those of {self.version!r}")
        elif kind == _SCORES:
            self._remember(np.frombuffer(payload, _RECORD))
        else:
            known = self._queries if kind == _QUERIES else self._items
            for i in range(0, len(payload), _KEY_BYTES):
                known[payload[i : i + _KEY_BYTES]] = len(known)
