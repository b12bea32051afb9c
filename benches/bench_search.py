"""Approximate top-10 of 1,000 queries in some 47,000 real vectors of 384 dimensions: queries a second at equal recall.

    python benches/bench_search.py                          contenders in turns, a process each, and a table
    python benches/bench_search.py --contenders simtile hnswlib
    python benches/bench_search.py --one NAME               one contender: a line of JSON

The vectors are those of ``bench_search_exact.py``. A contender builds its index once, as its documentation advises for
some 50,000 vectors, and searches with a rising effort; rates are by CPU time, which stays meaningful where others use
the machine, and the table interpolates them (their logarithm) at equal recall. diskannpy-rust and rabitqlib are raced
where they are installed; neither is needed otherwise.
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Ids = NDArray[np.int64]
    Search = Callable[[Vectors, int], Ids]
    """(queries, effort) -> ids (M, K)"""

RECALLS = (0.90, 0.95, 0.99)
DEGREE = 32
"""Edges of a vertex, for everybody (HNSW's lowest level has twice its M)."""
BREADTH = 200
"""Candidates of each insertion: the value that hnswlib and faiss give in their examples; Vamana's is 100."""


def simtile(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from simtile.search import GraphIndex

    index = GraphIndex.build(base, num_threads=threads)
    return lambda queries, ef: index.search(queries, K, ef=ef, num_threads=threads)[1], index.graph_bytes


def hnswlib(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import hnswlib as library

    index = library.Index(space="ip", dim=base.shape[1])
    index.init_index(max_elements=len(base), M=DEGREE // 2, ef_construction=BREADTH)
    index.set_num_threads(threads)
    index.add_items(base)

    def search(queries: Vectors, ef: int) -> Ids:
        index.set_ef(ef)
        return index.knn_query(queries, K)[0].astype(np.int64)  # type: ignore[no-any-return]

    return search, index.index_file_size() - base.nbytes


def faiss(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import faiss as library

    library.omp_set_num_threads(threads)
    index = library.IndexHNSWFlat(base.shape[1], DEGREE // 2, library.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BREADTH
    index.add(base)

    def search(queries: Vectors, ef: int) -> Ids:
        index.hnsw.efSearch = ef
        return index.search(queries, K)[1]  # type: ignore[no-any-return]

    return search, len(library.serialize_index(index)) - base.nbytes


def usearch(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from usearch.index import Index

    index = Index(ndim=base.shape[1], metric="ip", dtype="f32", connectivity=DEGREE // 2, expansion_add=BREADTH)
    index.add(np.arange(len(base)), base, threads=threads)

    def search(queries: Vectors, ef: int) -> Ids:
        index.expansion_search = ef
        return index.search(queries, K, threads=threads).keys.astype(np.int64)

    return search, index.serialized_length - base.nbytes


def rabitqlib(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    from rabitqlib import SymqgIndex

    index = SymqgIndex(base.shape[1], DEGREE, "l2")  # unit vectors: the same order
    index.build(base, BREADTH, threads)

    def search(queries: Vectors, ef: int) -> Ids:
        return index.search_batch(queries, K, ef, threads)[0].astype(np.int64)  # type: ignore[no-any-return]

    index.save(str(folder / "symqg"))
    return search, (folder / "symqg").stat().st_size - base.nbytes


def diskann(base: Vectors, folder: Path, threads: int) -> tuple[Search, int]:
    import diskannpy

    # Unit vectors: cosine and inner product agree, and this metric skips the norms.
    index = diskannpy.AsyncDiskIndex(
        index_directory=str(folder), num_threads=threads, r=DEGREE, l=100, alpha=1.2, vector_dtype=np.float32,
        distance_metric="cosinenormalized", dimensions=base.shape[1], load_from_file=False, max_points=len(base) + 1,
    )  # fmt: skip
    index.batch_insert(np.arange(1, len(base) + 1, dtype=np.uint32), base, True, threads)

    def search(queries: Vectors, ef: int) -> Ids:
        return index.batch_search(queries, K, ef, threads).identifiers.astype(np.int64) - 1  # type: ignore[no-any-return]

    return search, len(base) * DEGREE * 4


CONTENDERS = {f.__name__: f for f in (simtile, hnswlib, faiss, usearch, rabitqlib, diskann)}
MODULES = {"diskann": "diskannpy"}
DISTRIBUTIONS = {"faiss": "faiss-cpu", "diskann": "diskannpy-rust"}
EFFORTS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448)


def run_one(name: str, data: Path, runs: int, threads: int) -> dict[str, Any]:
    """The curve of one contender: recall and rates at every effort, to a recall beyond the last of ``RECALLS``."""
    with np.load(data) as file:
        base, queries = file["base"], file["queries"]
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


def in_process(name: str, data: Path, runs: int, threads: int) -> dict[str, Any]:
    """:func:`run_one` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, "--data", str(data), "--runs", str(runs)]
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
    parser.add_argument("--runs", type=int, default=5, help="timed batches at each effort")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where all results are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "vectors.npz"
        keep_vectors(data)
        if options.one:
            print(json.dumps(run_one(options.one, data, options.runs, options.threads)))
            return
        installed = [name for name in CONTENDERS if importlib.util.find_spec(MODULES.get(name, name)) is not None]
        contenders = options.contenders or installed
        turns = [name for _ in range(options.rounds) for name in contenders]
        every = [in_process(name, data, options.runs, options.threads) for name in turns]
    print_results(every)
    if options.json:
        record: Record = {"machine": environment(options.threads), "processes": every}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
