"""Hubness correction, fit and search: 5,000 queries, a gallery of 20,000, banks of 5,000, 384 dimensions, top 10.

    python benches/bench_hubness.py                contenders in turns, a process each, and a table
    python benches/bench_hubness.py --one NAME     one contender: a line of JSON
    python benches/bench_hubness.py --large        20,000 queries and bank rows, 100,000 items of 512: ours alone

Vectors are those of bench_search_exact.py (real, of unit length). Times are CPU seconds of the whole: bank and gallery
in, ids of all queries out. A contender's ids must overlap with its own method's float64 formula first: 99.9 % of the
top 10, 99 % where the fit multiplies bfloat16 or bytes. The released codes of QB-Norm and DBNorm are written here as
the dense matrices that they work on.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_search_exact import real_vectors
from harness import print_table, save
from machine import PeakMemory, environment
from simtile.hubness import reference

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

K, BETA = 10, 20.0
SHAPE = {"queries": 5_000, "gallery": 20_000, "bank": 5_000, "items": 5_000}
CHECKED = 100
"""Queries whose ids are compared with float64."""


def ours(method: Any, precision: Any, **options: Any) -> Callable[..., Ids]:
    def run(data: dict[str, Vectors], threads: int) -> Ids:
        from simtile.hubness import HubnessReducer

        banks = {"query_bank": data["bank"]} | ({"gallery_bank": data["items"]} if method == "dual_dis" else {})
        reducer = HubnessReducer(method, metric="ip", precision=precision, num_threads=threads, **options)
        return np.asarray(reducer.fit(data["gallery"], **banks).search(data["queries"], K)[1])

    return run


def torch_loop(dtype: str) -> Callable[..., Ids]:
    """What one writes by hand: blocks of 512 rows; in bfloat16 the best 32 are scored again in float32."""

    def run(data: dict[str, Vectors], threads: int) -> Ids:
        import torch

        torch.set_num_threads(threads)
        kind = getattr(torch, dtype)
        queries, gallery, bank = (torch.from_numpy(data[name]) for name in ("queries", "gallery", "bank"))
        items = gallery.to(kind).T
        lse = torch.full((len(gallery),), -torch.inf)
        for part in bank.to(kind).split(512):
            lse = torch.logaddexp(lse, torch.logsumexp((part @ items).float().mul_(BETA), dim=0))
        bias, found = lse / BETA, []
        for part, exact in zip(queries.to(kind).split(512), queries.split(512), strict=True):
            scores = (part @ items).float().sub_(bias)
            if dtype == "float32":
                found.append(scores.topk(K).indices)
                continue
            ids = scores.topk(32).indices
            scores = torch.einsum("qd,qkd->qk", exact, gallery[ids]) - bias[ids]
            found.append(ids.gather(1, scores.topk(K).indices))
        return torch.cat(found).numpy()

    return run


def faiss_csls(data: dict[str, Vectors], threads: int) -> Ids:
    """CSLS as kiez does it with a flat faiss index: the gallery's neighbours in the bank, then 50 candidates."""
    import faiss

    faiss.omp_set_num_threads(threads)
    d = data["gallery"].shape[1]
    bank, gallery = faiss.IndexFlatIP(d), faiss.IndexFlatIP(d)
    bank.add(data["bank"])
    nearest = bank.search(data["gallery"], K)[0].mean(axis=1)
    gallery.add(data["gallery"])
    scores, ids = gallery.search(data["queries"], 50)
    order = np.argsort(-(2 * scores - nearest[ids]), axis=1)[:, :K]
    return np.take_along_axis(ids, order, axis=1)


def faiss_nnn(data: dict[str, Vectors], threads: int) -> Ids:
    """NNN as nnn-retrieval does it with a flat faiss index: 128 neighbours in the bank, then an index of d + 1."""
    import faiss

    faiss.omp_set_num_threads(threads)
    d = data["gallery"].shape[1]
    bank, gallery = faiss.IndexFlatIP(d), faiss.IndexFlatIP(d + 1)
    bank.add(data["bank"])
    bias = -0.75 * bank.search(data["gallery"], 128)[0].mean(axis=1, keepdims=True)
    gallery.add(np.hstack([data["gallery"], bias]))
    return np.asarray(gallery.search(np.hstack([data["queries"], np.ones_like(data["queries"][:, :1])]), K)[1])


def nnn_retrieval(data: dict[str, Vectors], threads: int) -> Ids:
    """The package itself, on torch."""
    import nnn
    import torch

    torch.set_num_threads(threads)
    retriever = nnn.NNNRetriever(data["gallery"].shape[1], use_gpu=False)
    ranker = nnn.NNNRanker(
        retriever, data["gallery"], data["bank"], alternate_ks=128, alternate_weight=0.75, batch_size=256
    )
    return np.asarray(ranker.search(data["queries"], K)[1])


def dense(dual: bool) -> Callable[..., Ids]:
    """QB-Norm's and DBNorm's released computations: dense matrices, full sorts."""

    def factor(s: Vectors, bank: Vectors, beta: float) -> Vectors:
        hubs = np.unique(np.argsort(-bank, axis=1)[:, 0])
        rows = np.isin(np.argsort(-s, axis=1)[:, 0], hubs)
        result = s.copy()
        result[rows] = (np.exp(s * beta) / np.exp(bank * beta).sum(axis=0))[rows]
        return result

    def run(data: dict[str, Vectors], threads: int) -> Ids:
        items = data["gallery"].T
        s = data["queries"] @ items
        result = factor(s, data["bank"] @ items, BETA)
        if dual:
            result = result * factor(s, data["items"] @ items, BETA)
        return np.argsort(-result, axis=1)[:, :K]

    return run


CONTENDERS: dict[str, tuple[str, Callable[..., Ids]]] = {
    "simtile f32": ("inverted_softmax", ours("inverted_softmax", "float32")),
    "simtile bf16": ("inverted_softmax", ours("inverted_softmax", "bfloat16")),
    "simtile int8": ("inverted_softmax", ours("inverted_softmax", "int8")),
    "torch loop f32": ("inverted_softmax", torch_loop("float32")),
    "torch loop bf16": ("inverted_softmax", torch_loop("bfloat16")),
    "simtile CSLS int8": ("csls", ours("csls", "int8")),
    "kiez on faiss": ("csls on lists", faiss_csls),
    "simtile NNN int8": ("nnn", ours("nnn", "int8", k=128)),
    "nnn on faiss": ("nnn", faiss_nnn),
    "nnn-retrieval": ("nnn", nnn_retrieval),
    "simtile DIS f32": ("dynamic_inverted_softmax", ours("dynamic_inverted_softmax", "float32")),
    "simtile DIS int8": ("dynamic_inverted_softmax", ours("dynamic_inverted_softmax", "int8")),
    "QB-Norm": ("dynamic_inverted_softmax", dense(dual=False)),
    "simtile DualDIS f32": ("dual_dis released", ours("dual_dis", "float32", compat="dbnorm")),
    "simtile DualDIS int8": ("dual_dis released", ours("dual_dis", "int8", compat="dbnorm")),
    "DBNorm": ("dual_dis released", dense(dual=True)),
}
"""Each with the formula that its ids are checked against."""

RIVALS = {
    "torch loop f32": "simtile f32", "torch loop bf16": "simtile bf16", "kiez on faiss": "simtile CSLS int8",
    "nnn on faiss": "simtile NNN int8", "nnn-retrieval": "simtile NNN int8", "QB-Norm": "simtile DIS f32",
    "DBNorm": "simtile DualDIS f32",
}  # fmt: skip


NEEDS = {"kiez on faiss": "faiss", "nnn on faiss": "faiss", "nnn-retrieval": "nnn"}
"""Contenders that are, or stand on, another library."""
QUICK = ("simtile f32", "torch loop f32")


def exact_ids(data: dict[str, Vectors], method: str) -> Ids:
    """The formula in float64 for the first queries."""
    g = data["gallery"].astype(np.float64)
    s, bank = data["queries"][:CHECKED] @ g.T, data["bank"] @ g.T
    if method == "inverted_softmax":
        scores = reference.inverted_softmax(s, bank, BETA)
    elif method == "dynamic_inverted_softmax":
        scores = reference.dynamic_inverted_softmax(s, bank, BETA)
    elif method == "nnn":
        scores = reference.nnn(s, bank)
    elif method == "dual_dis released":
        scores = np.ones_like(s)
        for other in (bank, data["items"] @ g.T):
            opened = reference.gate(s, other)
            scores *= np.where(opened, np.exp(BETA * s) / np.exp(BETA * other).sum(axis=0), s)
    else:
        scores = 2 * s - reference.top_mean(bank, K)
        if method == "csls on lists":
            scores = np.where(s >= -np.sort(-s, axis=1)[:, 49:50], scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def overlap(a: Ids, b: Ids) -> float:
    """Share of common entries."""
    return float(np.mean([len(np.intersect1d(x, y)) / K for x, y in zip(a, b, strict=True)]))


def run_one(name: str, data: dict[str, Vectors], threads: int, runs: int) -> dict[str, Any]:
    """Check, weigh, then time."""
    method, run = CONTENDERS[name]
    with PeakMemory() as memory:
        ids = run(data, threads)
    right = overlap(ids[:CHECKED], exact_ids(data, method))
    if right < (0.99 if name.endswith(("bf16", "int8")) else 0.999):
        raise SystemExit(f"{name}: {right:.4f} of the formula's ids")
    cpu, wall = [], []
    for _ in range(runs):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        run(data, threads)
        cpu.append(time.process_time() - begin_cpu)
        wall.append(time.perf_counter() - begin)
    return {"name": name, "threads": threads, "cpu": cpu, "wall": wall, "extra_mb": memory.extra / 1e6, "right": right}


def prepared(shape: dict[str, int]) -> dict[str, Vectors]:
    """Real vectors in a random order, dealt out."""
    base, queries = real_vectors()
    rows = np.concatenate([base, queries])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    starts = np.cumsum([0, *shape.values()])
    return {name: np.ascontiguousarray(rows[a:b]) for name, a, b in zip(shape, starts, starts[1:], strict=False)}


def large() -> dict[str, Any]:
    """20,000 x 100,000 with a bank of 20,000, 512 dimensions: random unit vectors with a common part, ours alone."""
    rng = np.random.default_rng(0)
    data = {}
    for name, n in (("gallery", 100_000), ("bank", 20_000), ("queries", 20_000)):
        x = rng.standard_normal((n, 512), dtype=np.float32) + np.float32(0.3)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        data[name] = x
    begin = time.process_time()
    with PeakMemory() as memory:
        ours("inverted_softmax", "bfloat16")(data, 1)
    return {"cpu": time.process_time() - begin, "extra_mb": memory.extra / 1e6}


def in_process(name: str, data: Path, threads: int, runs: int) -> dict[str, Any]:
    """:func:`run_one` in a process of its own."""
    one = {f"{lib}_NUM_THREADS": str(threads) for lib in ("OMP", "OPENBLAS", "MKL")}
    environ = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | one
    how = ["--data", str(data), "--threads", str(threads), "--runs", str(runs)]
    command = [sys.executable, __file__, "--one", name, *how]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"name": name, "missing": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_results(every: list[dict[str, Any]], shape: dict[str, int]) -> None:
    """Medians of the rounds' medians; ratios of CPU seconds to our counterpart's."""
    names = dict.fromkeys(one["name"] for one in every)
    runs = {name: [one for one in every if one["name"] == name and "cpu" in one] for name in names}
    cpu = {
        name: statistics.median(statistics.median(one["cpu"]) for one in found) for name, found in runs.items() if found
    }
    rows = []
    for name, found in runs.items():
        if not found:
            rows.append((name, next(one["missing"] for one in every if one["name"] == name)))
            continue
        rival = RIVALS.get(name)
        ratio = f"{cpu[name] / cpu[rival]:.2f}x of {rival}" if rival in cpu else "-"
        memory, right = max(one["extra_mb"] for one in found), min(one["right"] for one in found)
        rows.append((name, f"{cpu[name]:.2f}", f"{memory:.0f}", f"{right:.4f}", ratio))
    header = ("contender", "CPU s", "extra MB", "overlap@10", "ratio")
    print_table(f"Fit and search, {shape['queries']:,} x {shape['gallery']:,}, one thread", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=CONTENDERS)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, help="these contenders alone")
    parser.add_argument("--data", type=Path, help="vectors that an earlier run has kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="timed calls in a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    if options.large:
        print(json.dumps(large()))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.data or Path(folder) / "vectors.npz"
        if not path.exists():
            np.savez(path, **prepared(SHAPE))
        if options.one:
            with np.load(path) as file:
                print(json.dumps(run_one(options.one, dict(file), options.threads, options.runs)))
            return
        with np.load(path) as file:
            shape = {name: len(rows) for name, rows in file.items()}
        names = options.only or list(CONTENDERS)
        every = [in_process(name, path, options.threads, options.runs) for _ in range(options.rounds) for name in names]
    print_results(every, shape)
    record = {"machine": environment(options.threads), "shape": shape, "processes": every}
    print(f"\n{save('hubness', record, keep=False)}")


if __name__ == "__main__":
    main()
