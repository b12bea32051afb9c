"""How search grows with the number of vectors: exact, and by a graph at recall .95; from how many queries a graph pays.

    python benches/bench_search_growth.py               50,000 to 800,000 vectors, a process each; some 8 minutes
    python benches/bench_search_growth.py --record      writes results/search_growth.json
    python benches/bench_search_growth.py --one N       one size: a line of JSON

The vectors are those of ``bench_search_exact.py``; beyond the 47,000 there are, copies of them with noise of a tenth of
their length. Rates are by CPU time, one thread. The graph pays from the number of queries on where its building and
walks cost less than packing and scanning: what ``simtile.search.build`` estimates beforehand is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
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
from simtile.search import ExactIndex, GraphIndex, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = (50_000, 200_000, 800_000)
RECALL = 0.95
NOISE = 0.1
RESULTS = Path(__file__).parent / "results" / "search_growth.json"


def enlarged(base: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """``n`` rows, at most as many as there are without copies; copies are moved and have length 1 again."""
    if n <= len(base) * 1.2:
        return base
    rows = np.tile(base, (-(-n // len(base)), 1))[:n]
    rng = np.random.default_rng(0)
    for at in range(len(base), n, len(base)):
        part = rows[at : at + len(base)]
        noise = rng.standard_normal(part.shape, dtype=np.float32)
        part += NOISE * noise / np.float32(np.sqrt(part.shape[1]))
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def measured(base: NDArray[np.float32], queries: NDArray[np.float32], n: int) -> dict[str, Any]:
    """One size; queries are searched in halves, the first of which tunes the graph."""
    vectors = enlarged(base, n)
    tuning, asked = queries[::2], queries[1::2]

    def cpu(work: Any) -> tuple[Any, float]:
        started = time.process_time()
        return work(), time.process_time() - started

    index, pack = cpu(lambda: ExactIndex(vectors))
    scans = [cpu(lambda: index.search(asked, K, num_threads=1)) for _ in range(3)]
    truth, scan = scans[0][0][0][:, -1:], min(seconds for _, seconds in scans)
    first_pass = index.first_pass
    graph, build = cpu(lambda: GraphIndex.build(vectors, num_threads=1))
    ef = graph.tune(RECALL, k=K, queries=tuning)
    walks = [cpu(lambda: graph.search(asked, K, num_threads=1)) for _ in range(5)]
    recall, walk = float((walks[0][0][0] >= truth).mean()), min(seconds for _, seconds in walks)
    exact_query, graph_query = scan / len(asked), walk / len(asked)
    return {
        "n": len(vectors), "dim": vectors.shape[1], "first_pass": first_pass, "pack_s": pack,
        "exact_qps": 1 / exact_query, "build_s": build, "graph_qps": 1 / graph_query, "ef": ef, "recall": recall,
        "pays_from": (build - pack) / (exact_query - graph_query),
    }  # fmt: skip


def estimated(n: int, d: int, codes: bool) -> float:
    """Queries from which on ``explain`` takes the graph."""
    low, high = 1, 10**12
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if explain(n, d, queries=middle, codes=codes).index == "graph" else (middle, high)
    return float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int)
    parser.add_argument("--data", type=Path, help="vectors that an earlier run has kept")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "vectors.npz"
        keep_vectors(data)
        if options.one:
            with np.load(data) as file:
                print(json.dumps(measured(file["base"], file["queries"], options.one)))
            return
        one = {f"{lib}_NUM_THREADS": "1" for lib in ("OMP", "OPENBLAS", "MKL")}
        every = []
        for n in options.sizes:
            command = [sys.executable, __file__, "--one", str(n), "--data", str(data)]
            done = subprocess.run(command, env=os.environ | one, check=True, capture_output=True, text=True)
            every.append(json.loads(done.stdout.splitlines()[-1]))
    for row in every:
        row["estimate"] = estimated(row["n"], row["dim"], row["first_pass"] == "i8")
    print_table(
        f"Top {K} by size, one thread",
        ("vectors", "exact QPS", "graph QPS", "at recall", "graph built in s", "pays from queries", "explain says"),
        [
            (f"{r['n']:,}", f"{r['exact_qps']:,.0f}", f"{r['graph_qps']:,.0f}", f"{r['recall']:.3f}",
             f"{r['build_s']:.1f}", f"{r['pays_from']:,.0f}", f"{r['estimate']:,.0f}")
            for r in every
        ],
    )  # fmt: skip
    if options.record:
        record: Record = {"machine": environment(1), "rows": every}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
