"""What the system does to a process: little memory, few threads, forks, Ctrl-C. It gives a result or an exception."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_job
from simtile import _core
from simtile.search import ExactIndex, GraphIndex

JOB = Path(memory_job.__file__)


def with_little_memory(call: str, mebibytes: float) -> str:
    """What memory_job printed; its process must not have been ended by the system or by Rust."""
    command = [sys.executable, JOB, call, str(mebibytes)]
    job = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert job.returncode == 0, f"{call} within {mebibytes} MiB: {job.stderr}"
    return job.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize(
    ("call", "mebibytes", "outcome"),
    [
        ("exact", 1, "MemoryError"),
        ("search", 2, "MemoryError|done"),
        ("huge_k", 100, "MemoryError"),
        ("graph_add", 8, "MemoryError"),
        ("lse", 100, "MemoryError"),
        ("stats", 1, "MemoryError|done"),
        ("range", 64, "MemoryError"),
        ("threads", 64, "RuntimeError num_threads|MemoryError"),  # a stack, or what a thread starts with
    ],
)
def test_too_little_memory_is_an_exception(call: str, mebibytes: float, outcome: str) -> None:
    assert with_little_memory(call, mebibytes).startswith(tuple(outcome.split("|")))


rng = np.random.default_rng(0)
x = rng.standard_normal((700, 24)).astype(np.float32)
CALLS: dict[str, Callable[[int], Any]] = {
    "search": lambda threads: ExactIndex(x).search(x, 5, num_threads=threads),
    "knn_graph": lambda threads: ExactIndex(x).knn_graph(5, num_threads=threads),
    "graph": lambda threads: GraphIndex.build(x, num_threads=threads).search(x, 5, num_threads=threads),
    "lse": lambda threads: _core.pair_lse(x, x, 1.0, want_column=True, num_threads=threads)[:2],
    "stats": lambda threads: _core.pair_stats(x, x, [1.0], 3, num_threads=threads),
}


@pytest.mark.parametrize("call", CALLS)
def test_many_more_threads_than_processors_give_the_same_bits(call: str) -> None:
    for one, many in zip(CALLS[call](1), CALLS[call](64), strict=True):
        np.testing.assert_array_equal(one, many)


def answer(queue: Any) -> None:
    queue.put(ExactIndex(x).search(x[:9], 4, num_threads=3)[1])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_search_like_their_parent(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    wanted = ExactIndex(x).search(x[:9], 4, num_threads=3)[1]  # threads have been here before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=answer, args=(queue,))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=120), wanted)
    child.join()
    queue.close()
    queue.join_thread()


class Beep(Exception):
    """What a handler raises."""


def ring(number: int, frame: Any) -> None:
    raise Beep


@pytest.fixture(scope="module")
def large() -> Any:
    return np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)


LONG: dict[str, Callable[[Any, int], Any]] = {
    # Each would take a minute and more.
    "search": lambda x, threads: ExactIndex(x).search(np.tile(x, (20, 1)), 10, num_threads=threads),
    "knn_graph": lambda x, threads: ExactIndex(np.tile(x, (6, 1))).knn_graph(50, num_threads=threads),
    "lse": lambda x, threads: _core.pair_lse(np.tile(x, (20, 1)), np.tile(x, (6, 1)), 1.0, num_threads=threads),
    "graph": lambda x, threads: GraphIndex.build(np.tile(x, (4, 1)), num_threads=threads),
    "stats": lambda x, threads: _core.pair_stats(
        np.tile(x, (20, 1)), np.tile(x, (6, 1)), [1.0], 5, num_threads=threads
    ),
}


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals of POSIX")
@pytest.mark.parametrize(("call", "threads"), [("search", 3), ("knn_graph", 1), ("lse", 3), ("graph", 2), ("stats", 1)])
def test_a_signal_leaves_a_long_call(large: Any, call: str, threads: int) -> None:
    sent: list[float] = []

    def send() -> None:
        time.sleep(1)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, ring)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Beep):
            LONG[call](large, threads)
        # Far less than the call would have taken; typically a tenth of a second.
        assert time.monotonic() - sent[0] < 20
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(ExactIndex(large[:50]).search(large[:2], 1)) == 2  # and the engine is as it was


SCRIPTS = {
    "knn_graph": """
x = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)
print("begins", flush=True)
ExactIndex(np.tile(x, (10, 1))).knn_graph(50, num_threads=2)
""",
    "processes": """
if __name__ == "__main__":
    for number, _ in ProcessExecutor(2).stream(time.sleep, [(0,), (0,), (3600,), (3600,)]):
        print("begins", flush=True)
""",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_ends_a_script_promptly(tmp_path: Path, script: str) -> None:
    # A shell's background jobs are born with SIGINT ignored, and pass that on: Python's own handler is put back.
    begin = """
import signal, time
import numpy as np
from simtile.executors import ProcessExecutor
from simtile.search import ExactIndex
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
    (tmp_path / "script.py").write_text(begin + SCRIPTS[script])
    command = [sys.executable, tmp_path / "script.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        time.sleep(1)
        job.send_signal(signal.SIGINT)
        _, error = job.communicate(timeout=60)  # the workers too have let go of its pipes
    assert job.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in error
    assert b"panicked" not in error


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX")
def test_a_change_of_a_graph_index_is_finished_before_a_signal_is_seen(large: Any) -> None:
    rows = large[:3000]
    whole = GraphIndex.build(rows[:500], num_threads=1)
    whole.add(rows[500:], num_threads=1)
    index = GraphIndex.build(rows[:500], num_threads=1)

    def interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # adding takes some tenths of a second
        index.add(rows[500:], num_threads=1)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(20):  # on a busy machine the signal may come before the change has begun
            with pytest.raises(Beep):
                interrupted()
            if len(index) > 500:
                break
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(index) == len(whole) == 3000
    for ours, wanted in zip(index.search(rows[::50], 5), whole.search(rows[::50], 5), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_a_handler_that_raises_nothing_disturbs_nothing(large: Any) -> None:
    rings: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rings.append(len(ExactIndex(x).search(x[:2], 1)[1])))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        found = ExactIndex(large).search(large[:3000], 3, num_threads=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(rings) <= {2}
    for ours, quiet in zip(found, ExactIndex(large).search(large[:3000], 3, num_threads=1), strict=True):
        np.testing.assert_array_equal(ours, quiet)
