"""Choosing beta, k and alpha on queries whose answers are known, from statistics that one pass collects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from simtile.hubness._methods import DUAL, GATED, SOFT, TOP, Settings, correction
from simtile.hubness._model import Model
from simtile.hubness._pairwise import BLOCK_BYTES
from simtile.hubness._summary import Rows, prepare
from simtile.hubness.metrics import retrieval_report

Objective: TypeAlias = Literal["recall_at_1", "recall_at_10", "mrr"]

BETAS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
KS = (1, 2, 5, 10, 20, 50, 100, 128)
ALPHAS = (0.25, 0.5, 0.75, 1.0)


def tune(
    model: Model, queries: Rows, ground_truth: Any, *, betas: Sequence[float] | None, ks: Sequence[int] | None,
    alphas: Sequence[float] | None, objective: Objective,
) -> tuple[list[dict[str, float]], dict[str, float]]:  # fmt: skip
    """(rows of the table, best first; the parameters of the best); the model then has them."""
    truth = np.asarray(ground_truth)
    if truth.shape != (len(queries),) or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"ground_truth: {len(queries)} integers, got {truth.dtype} of shape {truth.shape}")
    if len(truth) == 0 or not (truth.min() >= 0 and truth.max() < len(model.gallery)):
        raise ValueError(f"ground_truth: at least one, of 0..{len(model.gallery) - 1}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective: one of {get_args(Objective)}, got {objective!r}")
    grid = list(settings_grid(model, betas, ks, alphas))
    model.collect(tuple(s.beta for s in grid) + tuple(s.beta_gallery for s in grid if s.method in DUAL),
                  max((s.k for s in grid if s.method in TOP), default=0))  # fmt: skip
    ranks = corrected_ranks(model, queries, truth.astype(np.int64), grid)
    names = tuned(model.settings)
    table: list[dict[str, float]] = []
    for setting, found in zip(grid, ranks, strict=True):
        report = retrieval_report(found)
        table.append({
            **{name: getattr(setting, name) for name in names},
            "recall_at_1": report.recall_at[1], "recall_at_10": report.recall_at[10], "mrr": report.mrr,
        })  # fmt: skip
    order = sorted(range(len(grid)), key=lambda i: -table[i][objective])
    model.choose(grid[order[0]])
    return [table[i] for i in order], {name: getattr(grid[order[0]], name) for name in names}


def tuned(settings: Settings) -> tuple[str, ...]:
    """The parameters that a pass serves several values of."""
    if settings.method in GATED or settings.method not in SOFT | TOP | {"distribution_normalization"}:
        raise ValueError(f"method: {settings.method!r} has no statistics that serve several settings")
    if settings.method in SOFT:
        return ("beta", "beta_gallery") if settings.method in DUAL else ("beta",)
    return {"nnn": ("k", "alpha"), "distribution_normalization": ("alpha",)}.get(settings.method, ("k",))


def settings_grid(
    model: Model, betas: Sequence[float] | None, ks: Sequence[int] | None, alphas: Sequence[float] | None
) -> list[Settings]:
    """Every combination of the values of what the method has."""
    settings, names = model.settings, tuned(model.settings)
    for name, given, takes in (("betas", betas, "beta"), ("ks", ks, "k"), ("alphas", alphas, "alpha")):
        if given is not None and takes not in names:
            raise ValueError(f"{name}: method {settings.method!r} has no {takes}")
        if given is not None and (len(given) == 0 or not all(np.isfinite(v) and v > 0 for v in given)):
            raise ValueError(f"{name}: positive and finite values, got {tuple(given)}")
    most = min((stats.count for stats in model.stats.values()), default=0)
    if ks is not None and max(ks) > most:
        raise ValueError(f"ks: at most the {most} rows of the bank, got {max(ks)}")
    # What fit has collected already is tried as well, so that a grid chosen there is used.
    slopes = [float(np.float32(b)) for b in (betas or (*BETAS, settings.beta, *model.betas))]
    values: dict[str, list[Any]] = {
        "beta": sorted(set(slopes)),
        "beta_gallery": sorted(set(slopes)),
        "k": sorted({int(k) for k in ks or (*KS, settings.k) if k <= most}),
        "alpha": sorted({float(a) for a in alphas or (*ALPHAS, settings.alpha)}),
    }
    combinations = itertools.product(*(values[name] for name in names))
    return [replace(settings, **dict(zip(names, v, strict=True))) for v in combinations]


def corrected_ranks(
    model: Model, queries: Rows, truth: NDArray[np.int64], grid: Sequence[Settings]
) -> NDArray[np.float64]:
    """(settings, M) the rank, from 1, of each query's right item by each setting, ties counted half: one pass."""
    gallery, rows = prepare(model.gallery, model.how.metric), prepare(queries, model.how.metric)
    affine = [correction(settings, model.stats).affine() for settings in grid]
    ranks = np.empty((len(grid), len(rows)))
    step = max(1, BLOCK_BYTES // (4 * len(gallery)))
    for i in range(0, len(rows), step):
        raw = rows[i : i + step] @ gallery.T
        own = (np.arange(len(raw)), truth[i : i + step])
        for found, (scale, bias) in zip(ranks, affine, strict=True):
            scores = raw + bias if scale is None else scale * raw + bias
            right = scores[own][:, None]
            found[i : i + step] = 1 + (scores > right).sum(axis=1) + 0.5 * ((scores == right).sum(axis=1) - 1)
    return ranks
