"""Every kind of file, damaged at random: refused with a ValueError, or read as it was written; never a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simtile.cur import CallableScorer, CrossEncoderIndex, ScoreJournal, Scorer
from simtile.hubness import HubnessReducer
from simtile.search import ExactIndex, GraphIndex

ROUNDS = 250
x = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
# Long in few directions, so that a first pass along them is kept in the file.
LONG = (np.random.default_rng(1).standard_normal((4096, 64)) / np.arange(1, 65)).astype(np.float32)
ITEMS = [f"item {i}" for i in range(60)]


def scorer() -> Scorer:
    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(len(query) * int(item.split()[1]) % 17) for query, item in pairs]

    return CallableScorer(score, version="v")


def write_reducer(path: Path) -> None:
    HubnessReducer("csls").fit(x, query_bank=x[:50]).save(path)


def write_journal(path: Path) -> None:
    with ScoreJournal(path, version="v") as journal:
        for i in range(20):
            journal.append(journal.query_numbers(["q"] * 3), journal.item_numbers(ITEMS[i : i + 3]), np.arange(3.0) + i)


def read_journal(path: Path) -> Any:
    with ScoreJournal(path, version="v") as journal:
        return journal.known(int(journal.query_numbers(["q"])[0]), journal.item_numbers(ITEMS))


def write_cur(path: Path) -> None:
    CrossEncoderIndex.build(ITEMS, scorer(), queries=list("abcdef"), dense=True, rank=4).save(path)


def read_cur(path: Path) -> Any:
    index = CrossEncoderIndex.load(path, scorer())
    return [[hit["score"] for hit in hits] for hits in index.search(["query"], 5, budget=30)]


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "exact index": (lambda path: ExactIndex(x).save(path), lambda path: ExactIndex.load(path).search(x[:5], 3)),
    "exact index along directions": (
        lambda path: ExactIndex(LONG, first_pass="pca").save(path),
        lambda path: ExactIndex.load(path).search(LONG[:5], 3),
    ),
    "graph index": (lambda path: GraphIndex.build(x).save(path), lambda path: GraphIndex.load(path).search(x[:5], 3)),
    "reducer": (write_reducer, lambda path: HubnessReducer.load(path).search(x[:5], 3)),
    "journal": (write_journal, read_journal),
    "cross-encoder index": (write_cur, read_cur),
}


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    way = rng.integers(4)
    place = int(rng.integers(len(content)))
    if way == 0:
        return content[:place]
    if way == 1:
        return content + rng.bytes(int(rng.integers(1, 40)))
    if way == 2:  # a page of zeros, as a lost write leaves
        return content[:place] + bytes(min(512, len(content) - place)) + content[place + 512 :]
    changed = bytearray(content)
    for at in rng.integers(0, len(content), int(rng.choice([1, 2, 30]))):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_without_effect(kind: str, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    whole = tmp_path / "whole"
    write(whole)
    wanted = read(whole)
    rng = np.random.default_rng(0)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()) if whole.is_dir() else [None]
    refused = 0
    for _ in range(ROUNDS if len(files) == 1 else ROUNDS // 3):
        copy = tmp_path / "copy"
        for name in files:
            shutil.rmtree(copy, ignore_errors=True)
            copy.unlink(missing_ok=True)
            shutil.copytree(whole, copy) if whole.is_dir() else shutil.copy(whole, copy)
            target = copy if name is None else copy / name
            target.write_bytes(damage(target.read_bytes(), rng))
            try:
                found = read(copy)
            except ValueError:
                refused += 1
                continue
            if kind == "journal":  # a torn end is what a crash leaves: the frames before it hold
                assert np.array_equal(found, wanted, equal_nan=True) or np.isnan(found).sum() > np.isnan(wanted).sum()
                known = ~np.isnan(found)
                assert np.array_equal(found[known], wanted[known])
            else:
                for ours, expected in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(ours, expected)
    assert refused > ROUNDS // 10
