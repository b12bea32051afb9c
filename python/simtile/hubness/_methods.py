"""What each correction asks of the bank, and how its statistics become a correction of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from simtile.hubness.reference import LEAST_SQUARED_DISTANCE
from simtile.kernels.reference import Stats

Float: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Literal[
    "inverted_softmax", "dynamic_inverted_softmax", "dual_is", "dual_dis", "csls", "nnn", "distribution_normalization",
    "local_scaling", "nicdm", "mutual_proximity", "mutual_proximity_empirical", "dissim_local", "globally_corrected",
    "dual_softmax", "sinkhorn",
]  # fmt: skip
Bank: TypeAlias = Literal["query", "gallery"]

METHODS: tuple[Method, ...] = get_args(Method)
DUAL = frozenset({"dual_is", "dual_dis"})
GATED = frozenset({"dynamic_inverted_softmax", "dual_dis"})
SOFT = frozenset({"inverted_softmax", "dynamic_inverted_softmax"}) | DUAL
"""Their state is a log-sum-exp over the bank."""
TOP = frozenset({"csls", "nnn", "local_scaling", "nicdm"})
"""Their state is the k largest scores over the bank."""
RANKED = frozenset({"globally_corrected", "mutual_proximity_empirical"})
PAIRWISE = RANKED | {"mutual_proximity", "dual_softmax"}
"""Not affine: every pair has to be looked at with its query."""
UNIT = frozenset({"local_scaling", "nicdm"})
"""Affine for unit vectors only."""
BANKLESS = frozenset({"dual_softmax"})

RANK_DEPTH = 128
"""Bank scores kept of each item by the rank-based methods; a query that needs deeper ranks reads the bank again."""
EXPANSION = 5e-3
"""beta times the standard deviation below which log-mean-exp is taken from mean and variance: its float32 sum divided
by beta has an error of 1e-7 / beta, the expansion one of beta² · sd³."""

PAPER_DEFAULTS: Mapping[Method, Mapping[str, float]] = {
    "inverted_softmax": {"beta": 20.0},
    "dynamic_inverted_softmax": {"beta": 20.0, "activation_k": 1},
    "dual_is": {"beta": 1 / 1.99, "beta_gallery": 3.0},
    "dual_dis": {"beta": 1 / 1.99, "beta_gallery": 3.0, "activation_k": 1},
    "csls": {"k": 10},
    "nnn": {"k": 128, "alpha": 0.75},
    "distribution_normalization": {"alpha": 0.5},
    "local_scaling": {"k": 7},
    "nicdm": {"k": 10},
    "mutual_proximity": {},
    "mutual_proximity_empirical": {},
    "dissim_local": {"k": 10},
    "globally_corrected": {},
    "dual_softmax": {"beta": 1.0},
    "sinkhorn": {"tau": 0.01, "iterations": 10},
}
"""As published or, where the paper leaves it open, as in the released code."""


@dataclass(frozen=True)
class Settings:
    """Checked parameters of a fitted reducer."""

    method: Method
    beta: float
    beta_gallery: float
    k: int
    alpha: float
    tau: float
    iterations: int
    activation_k: int

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The banks that must be given."""
        if self.method in BANKLESS:
            return ()
        return ("query", "gallery") if self.method in DUAL else ("query",)

    def slope(self, bank: Bank) -> float:
        """beta of a bank."""
        return self.beta if bank == "query" else self.beta_gallery

    @property
    def depth(self) -> int:
        """Largest scores wanted of each item."""
        if self.method in TOP:
            return self.k
        return RANK_DEPTH if self.method in RANKED else 0

    @property
    def least_bank(self) -> int:
        """Rows that a bank must have."""
        return self.k if self.method in TOP or self.method == "dissim_local" else 1


@dataclass(frozen=True)
class Correction:
    """score = scale_j * s_ij + Σ_t (bias_t[j] where gate t is open, else constant_t); affine methods: one, open."""

    scale: Float | None
    biases: tuple[Float, ...]
    constants: tuple[float, ...] = ()

    def affine(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
        """Scale and bias in float32, as an index takes them."""
        (bias,) = self.biases
        return None if self.scale is None else self.scale.astype(np.float32), bias.astype(np.float32)


def soft_mean(stats: Stats, beta: float) -> Float:
    """(N,) log-mean-exp of beta * s over beta."""
    lse = (stats.lse[stats.betas.index(beta)] - math.log(stats.count)) / beta
    near_linear = beta * np.sqrt(stats.var) < EXPANSION
    return np.where(near_linear, stats.mean + beta * stats.var / 2, lse)


def correction(settings: Settings, stats: Mapping[Bank, Stats]) -> Correction:
    """Of a method whose correction follows from the statistics of its banks alone."""
    method, k = settings.method, settings.k
    if method in SOFT:
        total = sum(settings.slope(bank) for bank in settings.banks)
        parts = [
            -settings.slope(bank) / total * soft_mean(stats[bank], settings.slope(bank)) for bank in settings.banks
        ]
        if method in GATED:
            return Correction(None, tuple(parts), tuple(float(part.mean()) if len(part) else 0.0 for part in parts))
        return Correction(None, (np.sum(parts, axis=0),))
    state = stats["query"]
    if method == "distribution_normalization":
        return Correction(None, (-settings.alpha * state.mean,))
    best = state.top[:k]
    if method == "csls":
        return Correction(np.full(best.shape[1], 2.0), (-best.mean(axis=0),))
    if method == "nnn":
        return Correction(None, (-settings.alpha * best.mean(axis=0),))
    distances = np.sqrt(np.maximum(2 - 2 * best, LEAST_SQUARED_DISTANCE))
    # -d² / scaling with d² = 2 - 2 s
    scaling = distances[k - 1] if method == "local_scaling" else distances.mean(axis=0)
    return Correction(2 / scaling, (-2 / scaling,))
