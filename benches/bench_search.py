"""Approximate top-10 of 1,000 queries in some 47,000 real vectors of 384 dimensions: queries a second at equal recall.

    python benches/bench_search.py                          contenders in turns, a process each, and a table
    python benches/bench_search.py --contenders simtile hnswlib
    python benches/bench_search.py --one NAME               one contender: a line of JSON

The vectors are those of ``bench_search_exact.py``. A contender builds its index once, as its documentation advises for
some 50,000 vectors, and searches with a rising effort; rates are by CPU time, which stays meaningful where others use
the machine, and the table interpolates them (their logarithm) at equal recall. With ``--dim 64`` the vectors are
projected on so many of their leading principal directions and scaled to unit length again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_search_exact import K, keep_vectors, recall
from harness import print_table
from machine import Record, environment
from search_contenders import CONTENDERS, DISTRIBUTIONS, EFFORTS, MODULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_contenders import Vectors

RECALLS = (0.90, 0.95, 0.99)


def leading_directions(base: Vectors, queries: Vectors, dim: int) -> tuple[Vectors, Vectors]:
    """Both on the `dim` directions of largest second moment of the base, rows of unit length."""
    directions = np.linalg.eigh(base.T @ base)[1][:, ::-1][:, :dim]

    def project(vectors: Vectors) -> Vectors:
        projected = vectors @ directions
        return np.ascontiguousarray(projected / np.linalg.norm(projected, axis=1, keepdims=True))

    return project(base), project(queries)


def run_one(name: str, data: Path, dim: int | None, runs: int, threads: int) -> dict[str, Any]:
    """The curve of one contender: recall and rates at every effort, to a recall beyond the last of ``RECALLS``."""
    with np.load(data) as file:
        base, queries = file["base"], file["queries"]
    if dim is not None:
        base, queries = leading_directions(base, queries, dim)
    with tempfile.TemporaryDirectory() as folder:
        started, cpu_started = time.perf_counter(), time.process_time()
        search, extra = CONTENDERS[name](base, Path(folder), threads)
        build, cpu_build = time.perf_counter() - started, time.process_time() - cpu_started
        curve = []
        for effort in EFFORTS:
            found = recall(search(queries, effort), base, queries)
            qps, cpu_qps = [], []
            for _ in range(runs):
                started, cpu_started = time.perf_counter(), time.process_time()
                search(queries, effort)
                qps.append(len(queries) / (time.perf_counter() - started))
                cpu_qps.append(len(queries) / (time.process_time() - cpu_started))
            curve.append({"effort": effort, "recall": found, "qps": qps, "cpu_qps": cpu_qps})
            if found > RECALLS[-1] + 0.003:
                break
    version = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    return {
        "name": name, "version": version, "curve": curve, "build_s": build, "build_cpu_s": cpu_build,
        "extra_bytes": extra, "shape": [*base.shape, len(queries)], "threads": threads,
    }  # fmt: skip


def in_process(name: str, data: Path, dim: int | None, runs: int, threads: int) -> dict[str, Any]:
    """:func:`run_one` in a process of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--one", name, "--data", str(data), "--runs", str(runs)]
    command += [] if dim is None else ["--dim", str(dim)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def rate_at(curve: Sequence[dict[str, Any]], wanted: float, what: str) -> float | None:
    """Queries a second at a recall: log-linear between the two efforts around it, None beyond the curve.

    A curve that begins above the recall counts with its first point.
    """
    rates = [(point["recall"], statistics.median(point[what])) for point in curve]
    if rates[0][0] >= wanted:
        return rates[0][1]
    for (low, fast), (high, slow) in itertools.pairwise(rates):
        if low < wanted <= high:
            share = (wanted - low) / (high - low)
            return math.exp((1 - share) * math.log(fast) + share * math.log(slow))
    return None


def print_results(every: Sequence[dict[str, Any]]) -> None:
    """Medians over the processes, and how many times as fast the first contender is."""
    n, d, m = every[0]["shape"]
    what = "cpu_qps" if every[0]["threads"] == 1 else "qps"
    rates: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(one["name"] for one in every):
        of_name = [[rate_at(one["curve"], r, what) for r in RECALLS] for one in every if one["name"] == name]
        rates[name] = [
            statistics.median(v for v in column if v is not None) if None not in column else None
            for column in zip(*of_name, strict=True)
        ]
    first = every[0]["name"]
    rows = []
    for name, own in rates.items():
        ones = [one for one in every if one["name"] == name]
        row = [name, *("-" if v is None else f"{v:,.0f}" for v in own)]
        row += [
            f"{ours / v:.2f}x" if ours is not None and v is not None else "-"
            for ours, v in zip(rates[first], own, strict=True)
        ]
        row.append(f"{statistics.median(one['build_cpu_s'] for one in ones):.1f}")
        row.append(f"{ones[0]['extra_bytes'] / (4 * n * d):.2f}")
        rows.append(row)
    header = ("contender", *(f"QPS at {r}" for r in RECALLS), *(f"{first} / it" for _ in RECALLS), "build CPU s",
              "bytes / raw")  # fmt: skip
    threads = every[0]["threads"]
    print_table(f"{n:,} x {d}, batches of {m:,}, top {K}, {threads} thread(s), {what}", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="ours first; all that are installed")
    parser.add_argument("--data", type=Path, help="vectors that an earlier run has kept")
    parser.add_argument("--dim", type=int, help="leading principal directions instead of all coordinates")
    parser.add_argument("--runs", type=int, default=5, help="timed batches at each effort")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where all results are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "vectors.npz"
        keep_vectors(data)
        if options.one:
            print(json.dumps(run_one(options.one, data, options.dim, options.runs, options.threads)))
            return
        installed = [name for name in CONTENDERS if importlib.util.find_spec(MODULES.get(name, name)) is not None]
        contenders = options.contenders or installed
        turns = [name for _ in range(options.rounds) for name in contenders]
        every = [in_process(name, data, options.dim, options.runs, options.threads) for name in turns]
    print_results(every)
    if options.json:
        record: Record = {"machine": environment(options.threads), "processes": every}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
