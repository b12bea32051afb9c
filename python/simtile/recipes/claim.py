"""What a recipe measured, and whether that is what it claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simtile.recipes.registry import Recipe


@dataclass(frozen=True)
class Outcome:
    """What a recipe returns.

    Attributes
    ----------
    measured, baseline : float
        What the claim compares.
    table : mapping of str to float
        Whatever else is worth printing, by name.
    """

    measured: float
    baseline: float
    table: Mapping[str, float] = field(default_factory=dict)


def mean_outcome(outcomes: Mapping[int, Outcome]) -> Outcome:
    """What several seeds measured, averaged; the table gains by how much each is ahead of its baseline."""
    found = list(outcomes.values())
    table = {name: statistics.fmean(one.table[name] for one in found) for name in found[0].table}
    ahead = {f"measured - baseline, seed {seed}": one.measured - one.baseline for seed, one in outcomes.items()}
    return Outcome(
        statistics.fmean(one.measured for one in found), statistics.fmean(one.baseline for one in found),
        {**table, **ahead},
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it."""

    holds: bool
    sentence: str


def judge(recipe: Recipe, outcome: Outcome, *, tiny: bool = False) -> Verdict:
    """Compare the measured value with the baseline, by the recipe's margin. What is not finite holds no claim."""
    margin = recipe.bar(tiny=tiny)
    ahead = outcome.measured - outcome.baseline
    if recipe.better == "equal":
        holds, bar = abs(ahead) <= margin, f"equal to the baseline within {margin:g}"
    elif recipe.better == "higher":
        holds, bar = ahead >= margin, f"at least {margin:g} above the baseline"
    else:
        holds, bar = -ahead >= margin, f"at least {margin:g} below the baseline"
    holds = holds and math.isfinite(outcome.measured) and math.isfinite(outcome.baseline)
    return Verdict(holds, f"{bar}: {'holds' if holds else 'DOES NOT HOLD'} ({ahead:+.4g})")
