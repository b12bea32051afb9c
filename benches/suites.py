"""The suites of `simtile bench`: which programs each runs, and what is left out and why.

A suite adds its records to the results and its absentees to ``results["not_run"]``; nothing is estimated in the place
of a measurement. Programs that race contenders in processes of their own run as they would alone, and leave JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bench_cur_recall
import bench_drop_ins
import bench_hubness
import bench_info_nce
import bench_knn_graph
import bench_matryoshka
import bench_pair_lse
import bench_pair_softplus
import bench_search
import bench_search_exact
import bench_small_batches
import engine as tiles
from machine import BENCHES, OUT, Ceilings, Record, raced_dtypes
from search_contenders import CONTENDERS, MODULES

QUICK_BASE, QUICK_QUERIES = 6_000, 500
"""Vectors of the search suite with --quick."""
QUICK_CONTENDERS = ("simtile", "hnswlib", "rabitqlib")
"""Of its graphs: the most used and the fastest peer."""


def program(name: str, *arguments: str, written: str) -> Any:
    """Run a bench file, which prints its tables; the JSON that it leaves in ``out/``."""
    OUT.mkdir(exist_ok=True)
    subprocess.run([sys.executable, str(BENCHES / f"{name}.py"), *arguments], check=True)
    return json.loads((OUT / written).read_text())


def present(results: Record, suite: str, modules: Mapping[str, str | None], options: argparse.Namespace) -> list[str]:
    """Contenders that can run: ours (module None), and with --peers those whose module is installed."""
    names = []
    for name, module in modules.items():
        if module is None or (options.peers and importlib.util.find_spec(module) is not None):
            names.append(name)
        else:
            skip(results, suite, name, f"{module} is not installed" if options.peers else "without --peers")
    return names


def skip(results: Record, suite: str, what: str, why: str) -> None:
    """Say that something is missing."""
    results["not_run"].append({"suite": suite, "what": what, "why": why})


def ceilings(options: argparse.Namespace, results: Record) -> Ceilings:
    """Measured once, by the first suite that needs them."""
    if "ceilings" not in results:
        found = tiles.ceilings(options.threads)
        results["ceilings"] = found.records
        if not found.records:
            skip(results, "engine", "ceilings of a core", "no cargo to build benches/microkernel with")
    return Ceilings(results["ceilings"])


def run_engine(options: argparse.Namespace, results: Record) -> None:
    """Register tiles of every instruction set, and two crates."""
    limit = ceilings(options, results)
    if not limit.records:
        skip(results, "engine", "tiles and crates", "no cargo to build benches/microkernel with")
        return
    results["tiles"] = tiles.tiles(limit, quick=options.quick)
    results["crates"] = tiles.crates(results["tiles"], quick=options.quick)


def run_losses(options: argparse.Namespace, results: Record) -> None:
    """InfoNCE beside plain torch, drop-ins beside their originals; but for --quick sigmoid loss, Matryoshka,
    log-sum-exp, small batches."""
    limit = ceilings(options, results)
    if "bfloat16" not in raced_dtypes():
        skip(results, "losses", "bfloat16", "this processor does not multiply it, and torch takes minutes a step")
    results["info_nce"] = bench_info_nce.run(options, limit)
    if not options.quick:
        results["pair_softplus"] = bench_pair_softplus.run(options, limit)
        results["matryoshka"] = bench_matryoshka.run(options, limit)
        results["pair_lse"] = bench_pair_lse.run(options, limit)
        results["small_batches"] = bench_small_batches.run(options.threads, quick=False)
    tiles.print_bars(results, limit)
    modules = {name: drop_in.original.partition(".")[0] for name, drop_in in bench_drop_ins.DROP_INS.items()}
    losses = present(results, "losses", modules, options)
    if losses:
        results["drop_ins"] = bench_drop_ins.run(options)


def rounds(options: argparse.Namespace, full: Sequence[int], quick: Sequence[int]) -> list[str]:
    """Options of the programs that race: --rounds and --runs."""
    n_rounds, n_runs = quick if options.quick else full
    return ["--rounds", str(options.rounds or n_rounds), "--runs", str(options.repeats or n_runs)]


def run_search(options: argparse.Namespace, results: Record) -> None:
    """Exact search, the graph index at a rising effort, and the neighbours of all items, of the same vectors."""
    data = OUT / ("vectors-quick.npz" if options.quick else "vectors.npz")
    OUT.mkdir(exist_ok=True)
    sizes = {"base": QUICK_BASE, "queries": QUICK_QUERIES} if options.quick else {}
    bench_search_exact.keep_vectors(data, **sizes)
    same = ("--data", str(data))

    def race(bench: Any, modules: Mapping[str, str | None], *more: str) -> None:
        stem = Path(bench.__file__).stem
        written = f"{stem.removeprefix('bench_')}.json"
        names = present(results, stem, modules, options)
        how = ("--contenders", *names, *same, "--json", str(OUT / written), *more)
        results[stem.removeprefix("bench_")] = program(stem, *how, written=written)

    exact = {name: name if name in bench_search_exact.PEERS else None for name in bench_search_exact.CONTENDERS}
    race(bench_search_exact, exact, *rounds(options, (3, 5), (1, 3)))
    racers = QUICK_CONTENDERS if options.quick else tuple(CONTENDERS)
    graph = {name: None if name == "simtile" else MODULES.get(name, name) for name in racers}
    race(bench_search, graph, *rounds(options, (3, 5), (1, 2)))
    if not options.quick:
        every = {name: "faiss" if name.startswith("faiss") else None for name in bench_knn_graph.CONTENDERS}
        race(bench_knn_graph, every, "--rounds", str(options.rounds or 3))


def quick_bank() -> Path:
    """The vectors of the quick search as gallery, bank and queries: encoding the whole ones takes most of a minute."""
    path = OUT / "hubness-quick.npz"
    bench_search_exact.keep_vectors(OUT / "vectors-quick.npz", base=QUICK_BASE, queries=QUICK_QUERIES)
    with np.load(OUT / "vectors-quick.npz") as file:
        gallery, bank, queries = np.split(file["base"], (QUICK_BASE // 2, QUICK_BASE * 3 // 4))
    np.savez(path, gallery=gallery, bank=bank, queries=queries)
    return path


def run_hubness(options: argparse.Namespace, results: Record) -> None:
    """What a correction costs and, but for --quick, what it does to recall and hubs."""
    modules = {name: bench_hubness.NEEDS.get(name) for name in bench_hubness.CONTENDERS}
    names = present(results, "hubness", modules, options)
    if options.quick:
        names = [name for name in names if name in bench_hubness.QUICK]
    if "torch loop bf16" in names and "bfloat16" not in raced_dtypes():
        names.remove("torch loop bf16")
        skip(results, "hubness", "torch loop bf16", "this processor does not multiply bfloat16")
    how = [*rounds(options, (3, 3), (1, 2)), *(["--data", str(quick_bank())] if options.quick else [])]
    results["hubness"] = program("bench_hubness", *how, "--only", *names, written="hubness.json")
    if not options.quick:
        results["hubness_table"] = program("hubness_table", "--encoder", "words", written="hubness-words.json")


def run_cur(options: argparse.Namespace, results: Record) -> None:
    """Recall for a budget of scorer calls, and what a search costs besides the scorer."""
    kinds = bench_cur_recall.KINDS[:1] if options.quick else bench_cur_recall.KINDS
    found = {}
    for data in ("cross-encoder",) if options.quick else ("cross-encoder", "maxsim"):
        for kind in kinds:
            how = (data, "--index", kind, *(["--quick"] if options.quick else []))
            found[f"{data}-{kind}"] = program("bench_cur_recall", *how, written=f"cur-{data}-{kind}.json")
    results["cur_recall"] = found
    if not options.quick:
        results["cur_overhead"] = program("bench_cur_overhead", written="cur-overhead.json")


SUITES: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    "engine": run_engine, "losses": run_losses, "search": run_search, "hubness": run_hubness, "cur": run_cur,
}  # fmt: skip
