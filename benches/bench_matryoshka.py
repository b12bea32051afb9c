"""Matryoshka InfoNCE of five prefixes beside one loss of the whole length, and beside dense torch: a loss a prefix.

One-sided, loss and both gradients. What counts is the first contender's ``nested`` beside its ``whole``: all prefixes
come out of one sweep, where a loss a prefix computes a good two times as many products.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Bench, Case, main, main_batch, print_race, print_table, race, rounds_of, rows_of_race
from machine import Ceilings, Record, raced_dtypes
from simtile.functional import info_nce, matryoshka_info_nce
from simtile.kernels import reference_torch

TEMPERATURE = 0.05
DIM = 768
SHARES = (64 / 768, 128 / 768, 256 / 768, 512 / 768, 1.0)
"""Of the whole length: the prefixes of Kusupati et al. 2022 that encoders of 768 dimensions are trained with."""


def lengths(x: Tensor, dims: str) -> list[int]:
    return [round(share * x.shape[1]) for share in SHARES] if dims == "nested" else [x.shape[1]]


def ours(x: Tensor, y: Tensor, dims: str) -> tuple[Tensor]:
    if dims == "whole":
        return (info_nce(x, y, temperature=TEMPERATURE, symmetric=False, normalize=True),)
    return (matryoshka_info_nce(x, y, lengths(x, dims), temperature=TEMPERATURE, symmetric=False),)


def dense(x: Tensor, y: Tensor, dims: str) -> tuple[Tensor]:
    """As sentence-transformers' MatryoshkaLoss goes about it."""
    loss = torch.zeros(())
    for d in lengths(x, dims):
        logits = (1 / TEMPERATURE) * F.normalize(x[:, :d]) @ F.normalize(y[:, :d]).T
        loss = loss + F.cross_entropy(logits, torch.arange(len(x)))
    return (loss,)


def exact(x: Tensor, y: Tensor, dims: str) -> tuple[Tensor]:
    loss, scale = x.new_zeros(()), 1 / TEMPERATURE
    for d in lengths(x, dims):
        a, b = F.normalize(x[:, :d]), F.normalize(y[:, :d])
        loss = loss + reference_torch.pair_nll(a, b, (a * b).sum(1) * scale, scale=scale)
    return (loss,)


BENCH = Bench(
    file=__file__,
    option="dims",
    variants={"whole": 3, "nested": 3},
    contenders={"simtile": ours, "torch": dense},
    exact=exact,
)


def run(options: argparse.Namespace, ceilings: Ceilings) -> Record:
    batch = main_batch(options)
    dtypes = ("float32",) if options.quick else raced_dtypes()
    cases = [Case(dims, dtype, batch, DIM, options.threads) for dtype in dtypes for dims in BENCH.variants]
    results = race(BENCH, cases, **rounds_of(options, main=False))
    rows = [row for entries in results for row in rows_of_race(BENCH, entries, ceilings)]
    print_race(f"Matryoshka InfoNCE, one-sided, B = {batch:,}, {options.threads} threads", BENCH, rows)
    ms = {(row["contender"], row["dtype"], row["variant"]): row.get("ms") for row in rows}
    ratios = [
        [contender, dtype, f"{ms[contender, dtype, 'nested'] / ms[contender, dtype, 'whole']:.2f}x"]
        for contender in BENCH.contenders
        for dtype in dtypes
        if all(ms[contender, dtype, dims] is not None for dims in BENCH.variants)
    ]
    print_table("Five prefixes beside one loss of the whole length", ("contender", "dtype", "nested / whole"), ratios)
    return {"rows": rows, "processes": [p for entries in results for e in entries for p in e.processes]}


if __name__ == "__main__":
    main(BENCH, __doc__, run)
