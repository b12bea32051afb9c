"""The gradient of data importance, 1,000 queries of 50 retrieved items and 10 slots: NumPy over all queries, simtile.

    python benches/bench_corpus.py               contenders in turns, a process each, and a table
    python benches/bench_corpus.py --one NAME    one contender: a line of JSON

Both compute the same recurrences in float64; the results are compared before anything is timed. Milliseconds by the
clock and by CPU time, medians of the processes' medians. The bar is 5 ms on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Ids = NDArray[np.int64]

QUERIES, M, K, ITEMS = 1_000, 50, 10, 20_000
CONTENDERS = {"numpy": 1, "simtile, 1 thread": 1, "simtile, 2 threads": 2}
BAR_MS = 5.0


def problem() -> tuple[Ids, Float, Float]:
    """Lists of random items, right and wrong answers, weights."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.choice(ITEMS, M, replace=False) for _ in range(QUERIES)])
    return ids, (rng.random((QUERIES, M)) < 0.4).astype(np.float64), rng.random(ITEMS)


def batched(ids: Ids, utilities: Float, weights: Float) -> tuple[float, Float]:
    """The recurrences of rust/src/importance.rs, all queries at a time."""
    p = weights[ids]
    before = np.zeros((M, QUERIES, K))
    before[0, :, 0] = 1.0
    for i in range(M - 1):
        before[i + 1] = before[i] * (1 - p[:, i, None])
        before[i + 1, :, 1:] += before[i, :, :-1] * p[:, i, None]
    after, parts = np.zeros((QUERIES, K + 1)), np.empty((QUERIES, M))
    for i in range(M - 1, -1, -1):
        f = utilities[:, i, None]
        parts[:, i] = (before[i] * (f - after[:, :K])).sum(axis=1) / K
        after[:, K] = f[:, 0]
        after[:, :K] = (1 - p[:, i, None]) * after[:, :K] + p[:, i, None] * after[:, 1:]
    value = (before.sum(axis=2).T * utilities * p).sum() / (K * QUERIES)
    return float(value), np.bincount(ids.ravel(), parts.ravel(), minlength=ITEMS) / QUERIES


def run_one(name: str, runs: int) -> dict[str, Any]:
    """Milliseconds of ``runs`` calls after one that is checked."""
    from simtile.corpus import importance_gradient

    ids, utilities, weights = problem()

    def ours() -> tuple[float, Float]:
        return importance_gradient(ids, utilities, weights, k=K, num_threads=CONTENDERS[name])

    value, gradient = batched(ids, utilities, weights)
    found = ours()
    error = max(abs(found[0] - value), float(np.abs(found[1] - gradient).max()))
    if error > 1e-12:
        raise SystemExit(f"{name}: the results differ by {error}")
    call = (lambda: batched(ids, utilities, weights)) if name == "numpy" else ours
    clock, cpu = [], []
    for _ in range(runs):
        started, cpu_started = time.perf_counter(), time.process_time()
        call()
        clock.append(1e3 * (time.perf_counter() - started))
        cpu.append(1e3 * (time.process_time() - cpu_started))
    return {"name": name, "ms": clock, "cpu_ms": cpu, "shape": [QUERIES, M, K], "error": error}


def in_process(name: str, runs: int) -> dict[str, Any]:
    """:func:`run_one` in a process of its own."""
    one = {f"{lib}_NUM_THREADS": "1" for lib in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, __file__, "--one", name, "--runs", str(runs)]
    done = subprocess.run(command, env=os.environ | one, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--runs", type=int, default=20, help="timed calls in a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where all results are written")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.runs)))
        return
    every = [in_process(name, options.runs) for _ in range(options.rounds) for name in CONTENDERS]
    medians = {
        what: {
            name: statistics.median(statistics.median(one[what]) for one in every if one["name"] == name)
            for name in CONTENDERS
        }
        for what in ("ms", "cpu_ms")
    }
    rows = [
        (
            name,
            f"{medians['ms'][name]:.2f}",
            f"{medians['cpu_ms'][name]:.2f}",
            f"{medians['ms']['numpy'] / medians['ms'][name]:.1f}x",
            "-" if name == "numpy" else "yes" if medians["ms"][name] <= BAR_MS else "NO",
        )
        for name in CONTENDERS
    ]
    header = ("contender", "ms", "CPU ms", "numpy's time over it", f"within {BAR_MS:g} ms")
    print_table(f"Gradient of data importance: {QUERIES:,} queries, {M} retrieved, {K} used", header, rows)
    if options.json:
        options.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
