"""The ten nearest neighbours of every one of some 47,000 real vectors of 384 dimensions: CPU seconds, one thread.

    python benches/bench_knn_graph.py               contenders in turns, a process each, and a table
    python benches/bench_knn_graph.py --one NAME    one contender: a line of JSON

The vectors are those of ``bench_search_exact.py``. Building whatever a contender needs counts. "faiss IVF" is the
approximate rival: its probes are the fewest that reach a recall of 0.95. Recalls are measured on every 20th vector
against float64, itself left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_search_exact import K, keep_vectors
from harness import print_table
from machine import Record, environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Ids = NDArray[np.int64]

CONTENDERS = ("numpy", "faiss-ivf", "simtile-search", "simtile-graph")
BATCH = 1_000
SAMPLE = slice(None, None, 20)
LEAST_RECALL = 0.95
PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def by_batches(search: Callable[[Vectors], Ids], base: Vectors) -> Ids:
    """A search for all vectors; each finds itself, too."""
    return np.concatenate([search(base[i : i + BATCH]) for i in range(0, len(base), BATCH)])


def run(name: str, base: Vectors) -> tuple[Ids, float]:
    """Ids (N, K or more), perhaps with each vector itself, and the CPU seconds they took."""
    if name == "faiss-ivf":
        import faiss

        faiss.omp_set_num_threads(1)
        started = time.process_time()
        lists = int(4 * len(base) ** 0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(base.shape[1]), base.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(base)
        index.add(base)
        built = time.process_time() - started
        for index.nprobe in PROBES:  # whoever uses it has to find out, which does not count here
            if recall(index.search(base[SAMPLE], K + 1)[1], base, np.arange(len(base))[SAMPLE]) >= LEAST_RECALL:
                break
        started = time.process_time()
        ids = by_batches(lambda queries: index.search(queries, K + 1)[1], base)
        return ids, built + time.process_time() - started
    started = time.process_time()
    if name == "numpy":
        scores = np.empty((BATCH, len(base)), np.float32)

        def largest(queries: Vectors) -> Ids:
            out = np.matmul(queries, base.T, out=scores[: len(queries)])
            return np.argpartition(out, len(base) - K - 1, axis=1)[:, len(base) - K - 1 :].copy()  # not a view

        ids = by_batches(largest, base)
    else:
        from simtile import _core

        store = _core.ExactStore(base, codes=True)
        if name == "simtile-graph":
            ids = store.neighbours(K)[1]
        else:
            ids = by_batches(lambda queries: store.search(queries, K + 1)[1], base)
    return ids, time.process_time() - started


def recall(ids: Ids, base: Vectors, rows: NDArray[np.int64]) -> float:
    """Share of the K neighbours of ``rows`` whose float64 score reaches the true K-th best, less 1e-6 for ties."""
    reached = 0.0
    for at in range(0, len(rows), BATCH):
        some, found = rows[at : at + BATCH], ids[at : at + BATCH]
        exact = base[some].astype(np.float64) @ base.T.astype(np.float64)
        exact[np.arange(len(some)), some] = -np.inf
        kth = np.partition(exact, len(base) - K, axis=1)[:, len(base) - K, None]
        others = np.take_along_axis(exact, np.maximum(found, 0), axis=1)
        hits = ((others >= kth - 1e-6) & (found >= 0)).sum(axis=1)
        reached += np.minimum(hits, K).sum()
    return float(reached / (len(rows) * K))


def in_process(name: str, data: Path) -> dict[str, Any]:
    """A contender in a process of its own, one thread, OpenBLAS free to choose its kernel."""
    one = {f"{lib}_NUM_THREADS": "1" for lib in ("OMP", "OPENBLAS", "MKL")}
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | one
    command = [sys.executable, __file__, "--one", name, "--data", str(data)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--data", type=Path, help="vectors that an earlier run has kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where all results are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "vectors.npz"
        keep_vectors(data)
        if options.one:
            with np.load(data) as file:
                base = file["base"]
            ids, seconds = run(options.one, base)
            found = recall(ids[SAMPLE], base, np.arange(len(base))[SAMPLE])
            print(json.dumps({"name": options.one, "seconds": seconds, "recall": found, "shape": base.shape}))
            return
        every = [in_process(name, data) for _ in range(options.rounds) for name in options.contenders]
    for one in every:
        if one["recall"] < (LEAST_RECALL if one["name"] == "faiss-ivf" else 1.0):
            raise SystemExit(f"{one['name']}: recall {one['recall']}")
    rows = []
    ours = [one["seconds"] for one in every if one["name"] == "simtile-graph"]
    for name in options.contenders:
        times = [one["seconds"] for one in every if one["name"] == name]
        found = min(one["recall"] for one in every if one["name"] == name)
        ratio, worst = statistics.median(times) / statistics.median(ours), min(times) / max(ours)
        row = (name, f"{statistics.median(times):.2f}", f"[{min(times):.2f} {max(times):.2f}]", f"{found:.3f}")
        rows.append((*row, f"{ratio:.2f}x", f"{worst:.2f}x"))
    n, d = every[0]["shape"]
    header = ("contender", "CPU s", "[min max]", "recall", "of the graph's time", "at least")
    print_table(f"Neighbours of all items: {n:,} x {d}, {K} each, one thread", header, rows)
    if options.json:
        record: Record = {"machine": environment(1), "processes": every}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
