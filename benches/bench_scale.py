"""What a block costs with one worker and with two: the figures behind docs/scale.md.

    python benches/bench_scale.py            writes benches/results/scale.json

Each job is timed in one process, with one worker process and with two, interleaved, medians of the rounds: all-pairs
search in a mapped file, statistics of a bank, blocks that only travel, workers that only start. The results of all are
compared bit for bit before anything is timed. A worker has one thread.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simtile import _core
from simtile.executors import Executor, InProcess, ProcessExecutor
from simtile.hubness import HubnessReducer
from simtile.search import search_blocks

RESULTS = Path(__file__).parent / "results" / "scale.json"
N, M, D, K = 60_000, 24_576, 256, 10
BANK = 16 * 9216
ROUNDS = 3
EMPTY = np.zeros((0, 1), np.float32)


def nothing(array: Any) -> int:
    return len(array)


def jobs(folder: Path) -> dict[str, Callable[[Executor], Any]]:
    rng = np.random.default_rng(0)
    vectors, queries, bank = (rng.standard_normal((n, D), dtype=np.float32) for n in (N, M, BANK))
    np.save(folder / "vectors.npy", vectors)
    mapped = np.load(folder / "vectors.npy", mmap_mode="r")
    block = np.zeros(64 << 18, np.float32)  # 64 MiB

    def search(executor: Executor) -> Any:
        return search_blocks(mapped, queries, K, block_rows=N // 6, num_threads=1, executor=executor)

    def stats(executor: Executor) -> Any:
        reducer = HubnessReducer("inverted_softmax", num_threads=1, executor=executor)
        return (reducer.fit(vectors[: N // 6], query_bank=bank).item_bias_,)

    def travel(executor: Executor) -> Any:
        return (np.array(list(executor.in_order(nothing, ((block,) for _ in range(8))))),)

    def start(executor: Executor) -> Any:
        return (np.array(list(executor.in_order(nothing, [(EMPTY,), (EMPTY,)]))),)

    return {"search": search, "stats": stats, "travel_8_blocks_of_64_mib": travel, "start_and_stop": start}


def main() -> None:
    where: dict[str, Executor] = {
        "in_process": InProcess(),
        "one_worker": ProcessExecutor(1),
        "two_workers": ProcessExecutor(2),
    }
    load = [os.getloadavg()]
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)).items():
            one = job(where["in_process"])
            for executor in where.values():
                for ours, expected in zip(job(executor), one, strict=True):
                    np.testing.assert_array_equal(ours, expected)
            taken: dict[str, list[float]] = {executor: [] for executor in where}
            for _ in range(ROUNDS):
                for executor in where:
                    begin = time.perf_counter()
                    job(where[executor])
                    taken[executor].append(time.perf_counter() - begin)
            seconds[name] = {executor: round(statistics.median(times), 4) for executor, times in taken.items()}
    load.append(os.getloadavg())
    flop = {"search": 2.0 * N * M * D, "stats": 2.0 * BANK * (N // 6) * D}
    facts = {
        "seconds": seconds,
        "flop": flop,
        "gflop_per_second": {
            name: {executor: round(flop[name] / s / 1e9, 1) for executor, s in seconds[name].items()} for name in flop
        },
        "shapes": {"N": N, "M": M, "D": D, "K": K, "bank": BANK, "gallery_of_stats": N // 6},
        "load_before_and_after": load,
        "machine": {"processors": os.cpu_count(), "cpu": cpu(), "system": platform.platform(), "isas": _core.isas()},
        "versions": {"simtile": _core.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "commit": git("rev-parse", "--short", "HEAD"),
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


@functools.cache
def git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip()


if __name__ == "__main__":
    main()
