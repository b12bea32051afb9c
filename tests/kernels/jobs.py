"""Random jobs for the kernels, and dense torch on the same inputs: in float64 the truth, in their own type the bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accuracy import Float, rounded, unit_rows
from simtile.kernels import reference_torch

SHAPES = [
    pytest.param(1, 1, 1, id="one-pair"),
    pytest.param(5, 7, 3, id="below-a-tile"),
    pytest.param(32, 32, 32, id="one-tile"),
    pytest.param(64, 96, 64, id="several-exact-tiles"),
    pytest.param(37, 70, 45, id="ragged-in-every-dimension"),
    pytest.param(130, 33, 20, id="many-more-rows"),
    pytest.param(1, 70, 16, id="one-row"),
    pytest.param(70, 1, 16, id="one-column"),
]
"""(M, N, D) against the interpreter's tiles of 32 x 32 x 32; the id is the reason."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALES = (1.0, 14.0, 100.0, 1 / 0.003)
RULES = ("none", "exclude", "only", "lists", "diagonal", "bias", "threshold", "guide")


@dataclass(frozen=True)
class Job:
    """Inputs of a launcher; ``options`` are its keyword arguments."""

    x: Tensor
    y: Tensor
    options: dict[str, Any]

    @property
    def scale(self) -> float:
        return float(self.options.get("scale", 1.0))


def job(
    rng: np.random.Generator, M: int, N: int, D: int, *, dtype: torch.dtype = torch.float32, scale: float = 1.0,
    rules: tuple[str, ...] = ("none",),
) -> Job:  # fmt: skip
    """Unit rows, and options that follow the named rules."""
    x, y = (rounded(unit_rows(rng, rows, D), dtype)[0] for rows in (M, N))
    options: dict[str, Any] = {"scale": torch.tensor(scale)}
    if "exclude" in rules or "only" in rules:
        options["x_ids"], options["y_ids"] = (torch.from_numpy(rng.integers(0, 4, rows)) for rows in (M, N))
        options["ids_mode"] = "only" if "only" in rules else "exclude"
    if "lists" in rules:
        # Up to five a row, in no order and with repetitions; some rows have none.
        counts = rng.integers(0, 6, M)
        indptr = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
        options["exclude"] = (indptr, torch.from_numpy(rng.integers(0, N, int(counts.sum()))))
    if "diagonal" in rules:
        options["skip_diagonal"] = True
    if "bias" in rules:
        options["x_bias"], options["y_bias"] = (torch.from_numpy(rng.standard_normal(rows)).float() for rows in (M, N))
    if "threshold" in rules or "guide" in rules:
        # Far from every score: a pair at the limit itself would be left out or not by a rounding.
        options["threshold"] = torch.full((M,), 0.2531 if "guide" in rules else 0.2531 * scale)
    if "guide" in rules:
        options["guide"] = tuple(rounded(unit_rows(rng, rows, 8), dtype)[0] for rows in (M, N))
    return Job(x, y, options)


def left_out(job: Job) -> Tensor:
    """(M, N) bool, from float64 scores where a limit decides."""
    ids = () if job.options.get("ids_mode") == "flip" else ("x_ids", "y_ids", "ids_mode")
    rules = {name: job.options[name] for name in (*ids, "exclude", "skip_diagonal") if name in job.options}
    out = reference_torch.left_out(len(job.x), len(job.y), **rules)
    if "threshold" in job.options:
        x, y = job.options.get("guide", (job.x, job.y))
        s = x.double() @ y.double().T
        if "guide" not in job.options:
            s = s * job.scale
            if "x_bias" in job.options:
                s = s + job.options["x_bias"][:, None] + job.options["y_bias"]
        out |= s > job.options["threshold"][:, None].double()
    return out


def flipped(job: Job) -> Tensor:
    """(M, N) bool, the pairs whose score changes its sign."""
    M, N = len(job.x), len(job.y)
    out = torch.zeros(M, N, dtype=torch.bool)
    if job.options.get("ids_mode") == "flip":
        out |= job.options["x_ids"][:, None] == job.options["y_ids"]
    if job.options.get("flip_diagonal"):
        out |= torch.eye(M, N, dtype=torch.bool)
    return out


def sum_floor(*terms: int) -> float:
    """Ulps that always pass in a gradient: the rounding of a float32 sum of n terms grows as sqrt(n)."""
    return max(4.0, max(terms) ** 0.5)


class Dense:
    """All scores of a job at once, in float64 or as plain torch computes them in the inputs' own type."""

    def __init__(self, job: Job, dtype: torch.dtype | None = None) -> None:
        x_type = dtype or job.x.dtype
        other = dtype or torch.float32
        self.x, self.y = (part.to(x_type, copy=True).requires_grad_() for part in (job.x, job.y))
        self.scale = job.options.get("scale", torch.tensor(1.0)).to(other).clone().requires_grad_()
        zeros = torch.zeros(len(job.x)), torch.zeros(len(job.y))
        self.x_bias = job.options.get("x_bias", zeros[0]).to(other).clone().requires_grad_()
        self.y_bias = job.options.get("y_bias", zeros[1]).to(other).clone().requires_grad_()
        products = (self.scale.to(x_type) * (self.x @ self.y.T)).to(other)
        self.all_scores = products + self.x_bias[:, None] + self.y_bias
        self.scores = torch.where(flipped(job), -self.all_scores, self.all_scores)
        self.scores = self.scores.masked_fill(left_out(job), -torch.inf)

    def lse(self, dim: int) -> Tensor:
        return reference_torch.logsumexp(self.scores, dim)

    def gradients(self, total: Tensor) -> list[Tensor]:
        """Of x, y, the scale and the biases."""
        leaves = (self.x, self.y, self.scale, self.x_bias, self.y_bias)
        grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        return list(grads)


def dense_gradients(job: Job, total: Callable[[Dense], Tensor]) -> tuple[list[Float], list[Tensor]]:
    """(truth, plain torch's) gradients of a loss of the scores."""
    exact, plain = Dense(job, torch.float64), Dense(job)
    return [g.numpy() for g in exact.gradients(total(exact))], plain.gradients(total(plain))
