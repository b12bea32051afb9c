"""The journal of scores: nothing that was paid for is lost or bought twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simtile.cur import JournalError, ScoreJournal
from simtile.cur.journal import content_key


def fill(path: Path, n: int = 5) -> None:
    with ScoreJournal(path, version="v") as journal:
        queries, items = journal.query_numbers(["a", "b"]), journal.item_numbers([f"item {i}" for i in range(n)])
        for i in range(n):
            journal.append(queries, items[[i, i]], np.array([i + 0.25, -i]))


def test_scores_survive_reopening(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with ScoreJournal(tmp_path / "j", version="v") as journal:
        assert len(journal) == 10
        assert journal.query_numbers(["b", "c"]).tolist() == [1, 2]
        ids, scores = journal.row(0)
        np.testing.assert_array_equal(ids, range(5))
        np.testing.assert_array_equal(scores, np.arange(5) + 0.25)
        np.testing.assert_array_equal(journal.known(1, np.array([4, 99, 0])), [-4.0, np.nan, 0.0])


def test_every_torn_end_costs_the_last_frame_at_most(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 3)
    raw = (tmp_path / "whole").read_bytes()
    counts = []
    for size in range(len(raw) + 1):
        (tmp_path / "torn").write_bytes(raw[:size])
        with ScoreJournal(tmp_path / "torn", version="v") as journal:
            counts.append(len(journal))
            journal.append(journal.query_numbers(["new"]), journal.item_numbers(["x"]), np.array([1.0]))
        with ScoreJournal(tmp_path / "torn", version="v") as journal:
            assert len(journal) == counts[-1] + 1
    assert sorted(set(counts)) == [0, 2, 4, 6] and counts == sorted(counts)


def test_damage_before_the_end_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    raw = bytearray((tmp_path / "j").read_bytes())
    for position in range(len(raw)):
        broken = raw.copy()
        broken[position] ^= 0x40
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(JournalError, match=r"damaged|not a journal"):
            ScoreJournal(tmp_path / "broken", version="v")


def test_another_scorers_journal_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with pytest.raises(JournalError, match=r"'v', wanted those of 'w'"):
        ScoreJournal(tmp_path / "j", version="w")


def test_a_journal_has_one_owner(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with ScoreJournal(tmp_path / "j", version="v"), pytest.raises(JournalError, match="in use"):
        ScoreJournal(tmp_path / "j", version="v")


def test_nan_is_not_kept_and_the_first_of_two_scores_stays(tmp_path: Path) -> None:
    with ScoreJournal(None, version="v") as journal:
        query, items = journal.query_numbers(["q", "q"]), journal.item_numbers(["a", "b"])
        journal.append(query, items, np.array([1.0, np.nan]))
        journal.append(query, items, np.array([5.0, 2.0]))
        assert journal.row(0)[1].tolist() == [1.0, 2.0]


def test_a_copy_holds_the_same_scores(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with ScoreJournal(tmp_path / "j", version="v") as journal:
        journal.copy_to(tmp_path / "copy")
        with ScoreJournal(tmp_path / "copy", version="v") as copy:
            for query in (0, 1):
                np.testing.assert_array_equal(copy.row(query), journal.row(query))


def test_keys_tell_kinds_and_contents_apart() -> None:
    values = ["1", b"1", 1, [1], {"a": 1}, np.array([1.0]), np.array([1.0], np.float32), np.array([[1.0]])]
    assert len({content_key(value) for value in values}) == len(values)
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    with pytest.raises(TypeError, match=r"query or item.*object"):
        content_key(object())


BUILD = """
import sys, time
from simtile.cur import CallableScorer, CrossEncoderIndex, Limits
log = open(sys.argv[2], "a", buffering=1)
def score(pairs):
    for q, i in pairs:
        log.write(f"{q} {i}\\n")
    time.sleep(0.002)
    return [float(hash((q, i)) % 1000) for q, i in pairs]
CrossEncoderIndex.build(range(60), CallableScorer(score, version="v", limits=Limits(batch_size=10)), queries=range(50),
dense=True,
                        store=sys.argv[1])
print("done")
"""


def test_a_build_that_is_killed_goes_on_and_buys_nothing_twice_but_the_batch_in_flight(tmp_path: Path) -> None:
    log, command = tmp_path / "log", [sys.executable, "-c", BUILD, str(tmp_path / "j"), str(tmp_path / "log")]
    kills = 0
    for wanted in (300, 1100, 2000):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and (not log.exists() or log.read_text().count("\n") < wanted):
                time.sleep(0.005)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
    assert kills >= 2
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "done\n"
    asked = log.read_text().split("\n")[:-1]
    assert len(set(asked)) == 3000
    assert len(asked) <= 3000 + 10 * kills
