"""The demo's results as a table for the terminal and as plain data for ``demo.json``."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import simtile
from simtile import _core
from simtile.demo.job import Results

# name of the Retrieval field, label, format, whether higher is better
METRICS = (
    ("recall_at_1", "recall@1", "{:.3f}", True),
    ("recall_at_10", "recall@10", "{:.3f}", True),
    ("mrr_at_10", "MRR@10", "{:.3f}", True),
    ("hubness_skew", "k-occurrence skewness (k = 10)", "{:.2f}", False),
    ("largest_hub", "largest hub (lists of 10 it is in)", "{:,}", False),
    ("anti_hub_share", "anti-hubs (in nobody's list)", "{:.1%}", False),
)


def metric_rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Label, before, after and the ratio that makes the change an improvement above 1."""
    rows = []
    for name, label, form, higher_is_better in METRICS:
        before, after = getattr(results.before, name), getattr(results.after, name)
        better, worse = (after, before) if higher_is_better else (before, after)
        rows.append((label, form.format(before), form.format(after), f"{better / worse:.1f}×" if worse > 0 else ""))
    return rows


def loss_rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Label, plain torch, simtile and the ratio in simtile's favour."""
    plain, ours = results.losses.costs["torch"], results.losses.costs["simtile"]
    rows = [
        (
            "time, forward + backward",
            f"{plain.median_ms:,.0f} ms",
            f"{ours.median_ms:,.0f} ms",
            f"{plain.median_ms / ours.median_ms:.1f}×",
        )
    ]
    if plain.extra_mb is not None and ours.extra_mb is not None:
        ratio = f"{plain.extra_mb / ours.extra_mb:.1f}×" if ours.extra_mb > 0 else ""
        rows.append(("extra peak memory", f"{plain.extra_mb:,.0f} MB", f"{ours.extra_mb:,.0f} MB", ratio))
    return rows


def agreement(results: Results) -> str:
    """How closely the two losses agree, as a sentence."""
    losses = results.losses
    return (
        f"Both give the same result: loss {losses.costs['simtile'].loss:.4f}, relative difference "
        f"{losses.loss_difference:.0e} of the loss and {losses.gradient_difference:.0e} of the gradients."
    )


def table(results: Results) -> str:
    """Both tables in one, for the terminal."""
    losses = results.losses
    rows: list[tuple[str, ...]] = [
        (f"search in unseen packages, {len(results.before.ids):,} queries", "before", "after", "better by"),
        *metric_rows(results),
        (),
        (f"the loss on one batch, {losses.batch:,} × {losses.dim}", "plain torch", "simtile", "better by"),
        *loss_rows(results),
    ]
    widths = [max(len(row[column]) for row in rows if row) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(widths[i]) for i, cell in enumerate(row[1:], 1))])
        if row
        else ""
        for row in rows
    ]
    return "\n".join([*lines, "", agreement(results)])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "simtile": simtile.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "instruction set": _core.isas()[0],
        "torch threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def as_json(results: Results) -> dict[str, Any]:
    """All figures, without any harvested text."""
    corpus = results.corpus
    losses = asdict(results.losses)
    for name, cost in results.losses.costs.items():
        losses["costs"][name]["median_ms"] = cost.median_ms
    return {
        "machine": machine(),
        "options": {
            "batch": results.batch,
            "epochs": results.options.epochs,
            "seed": results.options.seed,
            "max_pairs": results.options.max_pairs,
            "max_test": results.options.max_test,
        },
        "corpus": {
            "digest": corpus.digest,
            "train_pairs": len(corpus.train),
            "test_pairs": len(corpus.test),
            "files": corpus.n_files,
            "unparsable_files": corpus.n_unparsed,
            "duplicates": corpus.n_duplicates,
            "stopped_early": corpus.stopped_early,
            "harvest_seconds": corpus.seconds,
            "from_cache": corpus.from_cache,
            "pairs_per_package": corpus.pairs_per_package(),
            "versions": corpus.versions,
        },
        "before": results.before.figures(),
        "after": results.after.figures(),
        "history": [asdict(step) for step in results.history],
        "losses": losses,
        "seconds": results.seconds,
    }
