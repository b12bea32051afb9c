"""Proves every GPU kernel against float64, then races the losses and the search on the card at hand.

    python benches/gpu.py                      on a CUDA or ROCm machine: proofs, then B = 4k ... 131k, D = 256 ... 4096
    python benches/gpu.py --quick              one size of each
    TRITON_INTERPRET=1 python benches/gpu.py --device cpu --quick    the whole path on a CPU, tiny: nothing is claimed

Writes JSON with the card, versions, times (median of interleaved rounds), peak extra memory and the share of the card's
own measured bfloat16 rate, counting the fewest FLOP that the loss needs (u = 2 * B * B * D: two-sided 4u, one-sided and
sigmoid 3u). A rival that disagrees with float64 on a small batch is reported and not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from gpu_proof import prove
from gpu_rivals import Step, one_sided, searches, sigmoid, two_sided
from simtile.kernels.accumulate import Wanted
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd
from simtile.kernels.pair_nll import pair_nll_fwd
from simtile.kernels.pair_softplus import pair_softplus_fwd
from simtile.kernels.pair_topk import pair_topk_fwd

SCALE, BIAS = 14.0, -10.0
ROUNDS = 10


def simtile_two_sided(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B = len(x)
    own = torch.empty(B, device=x.device)
    row, column = pair_lse_fwd(x, y, direction="both", own=own, scale=SCALE)
    assert row is not None and column is not None
    weight = torch.full((B,), 0.5 / B, device=x.device)
    grads = pair_lse_bwd(
        x, y, row=row, column=column, grad_row=weight, grad_column=weight, diagonal=-2 * weight, scale=SCALE
    )
    assert grads.x is not None and grads.y is not None
    return (row + column - 2 * own).mean() / 2, grads.x, grads.y


def simtile_one_sided(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.full((len(x),), 1 / len(x), device=x.device)
    result = pair_nll_fwd(x, y, None, link="softplus", weight=weight, wanted=Wanted(), scale=SCALE, skip_diagonal=True)
    assert result.grads is not None and result.grads.x is not None and result.grads.y is not None
    return result.loss.mean(), result.grads.x, result.grads.y


def simtile_sigmoid(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = torch.full((len(x),), 1 / len(x), device=x.device), torch.full((len(x),), BIAS, device=x.device)
    result = pair_softplus_fwd(x, y, weight=weight, wanted=Wanted(), scale=SCALE, x_bias=bias, flip_diagonal=True)
    assert result.grads is not None and result.grads.x is not None and result.grads.y is not None
    return result.rows.mean(), result.grads.x, result.grads.y


RACES: dict[str, tuple[Step, Callable[[bool], dict[str, Step]], int]] = {
    "two-sided InfoNCE": (simtile_two_sided, lambda compiled: two_sided(SCALE, compiled), 4),
    "one-sided InfoNCE": (simtile_one_sided, lambda compiled: one_sided(SCALE, compiled), 3),
    "SigLIP": (simtile_sigmoid, lambda compiled: sigmoid(SCALE, BIAS, compiled), 3),
}
"""Ours, the rivals, and how many GEMMs the loss and its gradients need at least in O(B * D) memory."""


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3


def peak_extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Beyond the inputs, gradients included; None on a CPU."""
    if device.type == "cpu":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def race(runs: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, dict[str, Any]]:
    """Median, best and worst seconds and peak bytes of each; rounds are interleaved, so that a drift hits all alike."""
    table: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        try:
            run()  # compiles
            table[name] = {"peak_bytes": peak_extra_bytes(run, device), "times": []}
        except torch.cuda.OutOfMemoryError:
            table[name] = {"failed": "out of memory"}
            torch.cuda.empty_cache()
    for _ in range(rounds):
        for name, row in table.items():
            if "times" in row:
                row["times"].append(seconds(runs[name], device))
    for row in table.values():
        if times := row.pop("times", None):
            row |= {"median_s": statistics.median(times), "best_s": min(times), "worst_s": max(times)}
    return table


def bfloat16_rate(device: torch.device, size: int) -> float:
    """FLOP per second of a square torch.mm, the card's ceiling in practice."""
    a, b = (torch.randn(size, size, device=device).to(input_type(device)) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(ROUNDS))


def unit_rows(rows: int, D: int, device: torch.device, seed: int) -> Tensor:
    """bfloat16 on a card; float32 on a CPU, whose interpreter computes bfloat16 wrongly."""
    generator = torch.Generator(device).manual_seed(seed)
    return F.normalize(torch.randn(rows, D, device=device, generator=generator)).to(input_type(device))


def input_type(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def disagreement(run: Step, ours: Step, device: torch.device, D: int) -> str | None:
    """Why a rival's loss or gradient is not that of ours (which is proved), on a small batch; None if it is."""
    x, y = unit_rows(96, D, device, 1), unit_rows(96, D, device, 2)
    try:
        for name, actual, expected in zip(("loss", "dx", "dy"), run(x, y), ours(x, y), strict=True):
            off = float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())
            if not off < 0.05:  # ten times bfloat16's rounding; NaN is not below it
                return f"{name} is off by {off:.0%}"
    except Exception as error:  # a rival may fail in any way: that is a result, not our error
        return f"{type(error).__name__}: {error}"
    return None


def losses(device: torch.device, sizes: list[tuple[int, int]], rate: float, rounds: int) -> Iterator[dict[str, Any]]:
    for title, (ours, rivals_of, gemms) in RACES.items():
        rivals = rivals_of(device.type != "cpu")
        for B, D in sizes:
            x, y = unit_rows(B, D, device, 3), unit_rows(B, D, device, 4)
            faults = {name: disagreement(run, ours, device, D) for name, run in rivals.items()}
            runs: dict[str, Callable[[], object]] = {"simtile": lambda ours=ours, x=x, y=y: ours(x, y)}
            for name, run in rivals.items():
                if faults[name] is None:
                    runs[name] = lambda run=run, x=x, y=y: run(x, y)
            table = race(runs, device, rounds)
            for row in table.values():
                if "median_s" in row:
                    row["share_of_bfloat16_rate"] = gemms * 2 * B * B * D / row["median_s"] / rate
                    row["pairs_per_s"] = B * B / row["median_s"]
            table |= {name: {"failed": fault} for name, fault in faults.items() if fault is not None}
            yield {"race": title, "B": B, "D": D, "dtype": str(x.dtype), "gemms": gemms, "results": table}


def search(device: torch.device, sizes: list[tuple[int, int, int, int]], rounds: int) -> Iterator[dict[str, Any]]:
    for M, N, D, k in sizes:
        x, y = unit_rows(M, D, device, 5), unit_rows(N, D, device, 6)
        runs: dict[str, Callable[[], object]] = {"simtile": lambda x=x, y=y, k=k: pair_topk_fwd(x, y, k)}
        for name, run in searches(y).items():
            runs[name] = lambda run=run, x=x, y=y, k=k: run(x, y, k)
        table = race(runs, device, rounds)
        for row in table.values():
            if "median_s" in row:
                row["item_bytes_per_s"] = y.numel() * y.element_size() / row["median_s"]
        yield {"race": "top-k", "M": M, "N": N, "D": D, "k": k, "dtype": str(x.dtype), "results": table}


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a kernel failed its proof: then nothing is timed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="one size of each race")
    parser.add_argument("--out", type=Path, default=None, help="default: benches/results/gpu-<card>-<date>.json")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    interpreted = device.type == "cpu"
    if not interpreted and not torch.cuda.is_available():
        parser.error("no CUDA or ROCm device: try TRITON_INTERPRET=1 with --device cpu --quick")

    if interpreted:
        proofs, dtypes = [(37, 45, 24)], [torch.float32]
        batches, queries, square, rounds = [(40, 24)], [(3, 300, 16, 5)], 64, 1
    else:
        proofs, dtypes = (
            [(1000, 1301, D) for D in (64, 77, 768, 1152, 4096)],
            [torch.float32, torch.bfloat16, torch.float16],
        )
        batches = [(B, D) for B in (4096, 8192, 16384, 32768, 65536, 131072) for D in (256, 512, 768, 1024, 1152, 4096)]
        queries = [
            (M, N, D, k) for N, D in ((1_000_000, 128), (1_000_000, 768)) for M in (1, 16, 1024) for k in (10, 100)
        ]
        square, rounds = 8192, ROUNDS
        if options.quick:
            proofs, batches, queries = proofs[:3], [(32768, 768)], [(16, 1_000_000, 128, 100)]

    verdicts = list(prove(device, proofs, dtypes))
    failed = [verdict for verdict in verdicts if not verdict.passed]
    for verdict in failed:
        print(f"FAILED {verdict.name}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}")
    print(f"{len(verdicts)} proofs, {len(failed)} failed")
    if failed:
        return 1

    rate = bfloat16_rate(device, square)
    card = "Triton's interpreter" if interpreted else torch.cuda.get_device_name(device)
    report: dict[str, Any] = {
        "card": card, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "torch": torch.__version__,
        "triton": triton.__version__, "bfloat16_rate": rate, "proofs": len(verdicts), "races": [],
    }  # fmt: skip
    print(f"{card}: {rate / 1e12:.1f} TFLOP/s in a bfloat16 GEMM")
    for entry in (*losses(device, batches, rate, rounds), *search(device, queries, rounds)):
        report["races"].append(entry)
        shape = " ".join(f"{name}={entry[name]}" for name in ("B", "M", "N", "D", "k") if name in entry)
        print(f"\n{entry['race']}  {shape}")
        for name, row in entry["results"].items():
            if "failed" in row:
                print(f"  {name:16} {row['failed']}")
                continue
            peak = "" if row["peak_bytes"] is None else f"  {row['peak_bytes'] / 2**20:8.0f} MiB"
            share = f"  {row['share_of_bfloat16_rate']:5.1%} of the rate" if "share_of_bfloat16_rate" in row else ""
            print(f"  {name:16} {row['median_s'] * 1e3:9.3f} ms{peak}{share}")
    out = options.out or Path(__file__).parent / "results" / f"gpu-{card.replace(' ', '-')}-{report['date'][:10]}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
