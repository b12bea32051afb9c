"""What a core can do and what the engine's tiles make of it: ceilings, tile products, losses beside the targets.

The programs of ``microkernel/`` measure; here is what is asked of them and how it is printed. Without cargo there are
no ceilings, and shares are unknown.
"""

from __future__ import annotations

from harness import number, print_table, python
from machine import Ceilings, Record, microkernel

BAR_CEILING = {"float32": 272, "bfloat16": 545, "int8": 1090}
"""GFLOP/s per core of the machine (Zen 5) that the project's targets were set on."""

TILE_BAR = {"float32": 230, "bfloat16": 460, "int8": 950}
PLAN_BAR = {"float32": 200, "bfloat16": 380}
"""The targets there: tile products, and the work of a whole loss with its gradients."""

TORCH_MATMUL = """
import json, statistics, time, torch
torch.set_num_threads(1)
x, y = torch.randn({side}, {dim}), torch.randn({side}, {dim})
out, times = torch.empty({side}, {side}), []
for _ in range({repeats} + 1):
    begin = time.thread_time()
    torch.mm(x, y.T, out=out)
    times.append(time.thread_time() - begin)
print(json.dumps({{"rate": 2 * {side} ** 2 * {dim} / statistics.median(times[1:]) / 1e9}}))
"""
"""torch's float32 product on one thread, like the tiles in CPU time."""


def ceilings(threads: int) -> Ceilings:
    found = Ceilings.measured(threads)
    print_table(
        "Ceilings: multiply-adds on registers, GFLOP/s per core (GOP/s for int8)",
        ("isa", "dtype", "one core busy", f"{threads} busy"),
        [
            (r["isa"], r["dtype"], f"{r['rate']:.0f}", number(found.rate(r["dtype"], threads, r["isa"]), "{:.0f}"))
            for r in found.records
            if r["threads"] == 1
        ],
    )
    return found


def tiles(limit: Ceilings, *, quick: bool) -> list[Record]:
    """The engine's register tiles alone, and what row and column log-sum-exp cost on top."""
    records = []
    for dim in (384,) if quick else (384, 768):
        records += microkernel("tiles", str(dim), "3" if quick else "7")
    table = []
    for r in records:
        bar = TILE_BAR[r["dtype"]] / BAR_CEILING[r["dtype"]]
        best = r["isa"] == limit.records[0]["isa"]
        share = limit.share(r["rate"], r["dtype"], 1, r["isa"])
        lse = r["lse_rate"]
        table.append([
            r["isa"], r["dtype"], r["dim"], f"{r['rate']:.0f}", number(share, "{:.0%}"),
            f"{bar:.0%}" if best else "-", f"{r['packed_rate']:.0f}", number(lse, "{:.0f}"),
            number(lse and r["packed_rate"] / lse - 1, "{:+.1%}"), number(lse and r["rate"] / lse - 1, "{:+.1%}"),
        ])  # fmt: skip
    print_table(
        "Tile products on one thread, GFLOP/s by CPU time; log-sum-exp of rows and columns in the same walk",
        (
            "isa",
            "dtype",
            "D",
            "tile",
            "of ceiling",
            "bar",
            "with packing",
            "with LSE",
            "over packing",
            "over tile",
        ),
        table,
    )
    return records


def crates(tile_records: list[Record], *, quick: bool) -> list[Record]:
    """C = X Yᵀ in float32 by well-kept crates, and torch's product beside the AVX2 path."""
    repeats = 3 if quick else 7
    records, table = [], []
    for dim in (384,) if quick else (384, 768):
        found = microkernel("crates", str(dim), str(repeats))
        side = found[0]["side"]
        torch_rate = python("-c", TORCH_MATMUL.format(side=side, dim=dim, repeats=repeats), threads=1)["rate"]
        found.append({"what": "crate", "name": "torch.mm", "side": side, "dim": dim, "rate": round(torch_rate, 1)})
        avx2 = [r for r in tile_records if (r["isa"], r["dtype"], r["dim"]) == ("avx2", "float32", dim)]
        own = found[0]["rate"]
        table += [(dim, r["name"], f"{r['rate']:.0f}", f"{r['rate'] / own:.2f}") for r in found]
        table += [(dim, "AVX2 tile", f"{r['rate']:.0f}", f"{r['rate'] / torch_rate:.2f} of torch") for r in avx2]
        records += found
    print_table(
        "C = X Yᵀ, float32, one thread, GFLOP/s by CPU time; the crates have no bfloat16, no bytes and no epilogue",
        ("D", "product", "rate", "of the tile"),
        table,
    )
    return records


def print_bars(results: Record, limit: Ceilings) -> None:
    """Rates of whole losses beside the targets, both as shares of their own machine's ceiling."""
    table = []
    for name in ("info_nce", "pair_softplus"):
        for r in results.get(name, {}).get("rows", []):
            if r.get("rate") is not None:
                bar = PLAN_BAR[r["dtype"]] / BAR_CEILING[r["dtype"]]
                ceiling = limit.rate(r["dtype"], r["threads"])
                table.append([
                    name, r["variant"], r["dtype"], r["dim"], f"{r['rate']:.0f}", f"{r['cpu_rate']:.0f}",
                    number(ceiling, "{:.0f}"),
                    number(r["share"], "{:.0%}"), number(r["cpu_share"], "{:.0%}"),
                    f"{bar:.0%} ({PLAN_BAR[r['dtype']]} where the ceiling was {BAR_CEILING[r['dtype']]})",
                ])  # fmt: skip
    print_table(
        "Plan rates: GFLOP/s per core of 3u one-sided and 4u two-sided, by the clock and by CPU time",
        ("loss", "variant", "dtype", "D", "rate", "CPU time", "ceiling", "share", "CPU time", "bar"),
        table,
    )
