"""SigLIP's sigmoid loss and its gradients beside dense torch: gradients are made in the forward pass, 3u."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Bench, Case, main, main_batch, print_race, race, rounds_of, rows_of_race
from machine import Ceilings, Record, raced_dtypes
from simtile.functional import sigmoid_loss
from simtile.kernels import reference_torch

SCALE, BIAS = 10.0, -10.0
"""As in the paper, arXiv:2303.15343."""


def ours(x: Tensor, y: Tensor, variant: str) -> tuple[Tensor]:
    return (sigmoid_loss(x, y, scale=SCALE, bias=BIAS, normalize=False),)


def dense(x: Tensor, y: Tensor, variant: str) -> tuple[Tensor]:
    """Algorithm 1 of the paper."""
    logits = SCALE * x @ y.T + BIAS
    labels = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return (-F.logsigmoid(labels * logits).sum() / len(x),)


def exact(x: Tensor, y: Tensor, variant: str) -> tuple[Tensor]:
    """Negatives over all pairs but the diagonal, plus the positives."""
    bias = torch.full((len(x),), BIAS, dtype=x.dtype)
    negatives = reference_torch.pair_softplus(x, y, scale=SCALE, x_bias=bias, skip_diagonal=True)
    return (negatives + reference_torch.softplus(-(SCALE * (x * y).sum(1) + BIAS)).mean(),)


BENCH = Bench(
    file=__file__,
    option="loss",
    variants={"sigmoid": 3},
    contenders={"simtile": ours, "torch": dense},
    exact=exact,
)


def run(options: argparse.Namespace, ceilings: Ceilings) -> Record:
    dtypes = ("float32",) if options.quick else raced_dtypes()
    cases = [Case("sigmoid", dtype, main_batch(options), 384, options.threads) for dtype in dtypes]
    results = race(BENCH, cases, **rounds_of(options, main=False))
    rows = [row for entries in results for row in rows_of_race(BENCH, entries, ceilings)]
    print_race(f"Sigmoid loss and both gradients, B = {main_batch(options):,}, {options.threads} threads", BENCH, rows)
    return {"rows": rows, "processes": [p for entries in results for e in entries for p in e.processes]}


if __name__ == "__main__":
    main(BENCH, __doc__, run)
