"""Gradient error of InfoNCE near saturation, by loss level: the table of docs/numerics.md.

    python benches/saturation.py [--record]      prints it; the JSON goes to `out/`, or to `results/`

Two-sided, scale 100, 1,003 x 768, key = query + noise of a size that gives the loss level. Errors are those of both
gradients together, relative to float64 on the same rounded inputs.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness import print_table
from machine import OUT, RESULTS, environment
from simtile.functional import info_nce
from simtile.kernels import reference_losses, reference_torch
from simtile.kernels.reference import unit

ROWS, WIDTH, SCALE = 1003, 768, 100.0
LEVELS = (1e-3, 1e-6, 1e-9)


def pairs_at(level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit rows (ROWS, WIDTH) whose mean loss is `level`: the noise is found by bisection."""
    rng = np.random.default_rng(0)
    query, noise = (unit(rng.standard_normal((ROWS, WIDTH))) for _ in range(2))
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        key = unit(query + middle * noise)
        loss = float(reference_losses.info_nce(query, key, temperature=1 / SCALE, symmetric=True, normalize=False))
        low, high = (middle, high) if loss < level else (low, middle)
    return query, unit(query + low * noise)


def exact_loss(query: Tensor, key: Tensor) -> Tensor:
    """The specification's form in float64: the positive is kept out, so that no digit of a small loss is lost."""
    scores = SCALE * query @ key.T
    others = scores.masked_fill(torch.eye(len(query), dtype=torch.bool), -torch.inf)
    own = scores.diagonal()
    row, column = others.logsumexp(1) - own, others.logsumexp(0) - own
    return (reference_torch.softplus(row) + reference_torch.softplus(column)).mean() / 2


def dense_loss(query: Tensor, key: Tensor) -> Tensor:
    """Plain torch."""
    scores = SCALE * query @ key.T
    labels = torch.arange(len(query))
    return (F.cross_entropy(scores.float(), labels) + F.cross_entropy(scores.T.float(), labels)) / 2


def simtile_loss(query: Tensor, key: Tensor) -> Tensor:
    """The engine's plan for large batches, at any size."""
    return info_nce(query, key, temperature=1 / SCALE, symmetric=True, normalize=False, plan="recompute")


def gradients(loss: object, query: Tensor, key: Tensor) -> Tensor:
    """Both gradients as one float64 vector."""
    inputs = [query.clone().requires_grad_(), key.clone().requires_grad_()]
    parts = torch.autograd.grad(loss(*inputs), inputs)  # type: ignore[operator]
    return torch.cat([part.double().flatten() for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="keep the results under benches/results/")
    options = parser.parse_args()
    rows = []
    for level in LEVELS:
        query, key = pairs_at(level)
        errors = {}
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [torch.from_numpy(part).to(dtype) for part in (query, key)]
            truth = gradients(exact_loss, *(part.double() for part in inputs))
            for name, loss in (("simtile", simtile_loss), ("torch", dense_loss)):
                error = float((gradients(loss, *inputs) - truth).norm() / truth.norm())
                errors[f"{name} {str(dtype).removeprefix('torch.')}"] = error
        rows.append({"loss": level, "error": errors})
    print_table(
        "Relative error of both gradients by loss level",
        ("loss", *rows[0]["error"]),
        [(f"{row['loss']:.0e}", *(f"{error:.1e}" for error in row["error"].values())) for row in rows],
    )
    OUT.mkdir(exist_ok=True)
    path = (RESULTS if options.record else OUT) / "saturation.json"
    path.write_text(json.dumps({"machine": environment(torch.get_num_threads()), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
