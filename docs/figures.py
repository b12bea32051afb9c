"""Figures within sentences, made of the JSON in benches/results/ as the tables are.

    at <!-- value NAME -->0.939<!-- /value -->            what the function NAME of this file returns

A line that begins with a comment is no text to Markdown, so that a marker never stands first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from recorded import RESULTS, not_recorded, read


def spread(values: Sequence[float], style: str) -> str:
    """The least and the greatest, once where they read the same."""
    low, high = format(min(values), style), format(max(values), style)
    return low if low == high else f"{low} to {high}"


def saturation_errors() -> str:
    """Errors of float32 gradients at the middle loss of the table."""
    row = sorted(read("saturation")["rows"], key=lambda row: -row["loss"])[1]
    ours, dense = row["error"]["simtile float32"], row["error"]["torch float32"]
    return f"at a loss of {row['loss']:.0e} it is {ours:.1e} here and {dense:.1e} in dense torch"


def sparse_gain() -> str:
    """What a sparse index keeps of the gain over reranking, over the budgets of its table."""

    def recall(name: str, method: str, budget: int) -> float:
        rows = read(name)["rows"]
        wanted = ("raw", budget, 100, method)
        return next(row["recall"] for row in rows if (row["target"], row["budget"], row["k"], row["method"]) == wanted)

    kept = []
    for name, budget in itertools.product(("maxsim", "cross-encoder"), (100, 200, 400)):
        whole, reranked = (recall(f"cur-{name}-dense", method, budget) for method in ("auto", "rerank"))
        kept.append((recall(f"cur-{name}-sparse", "auto", budget) - reranked) / (whole - reranked))
    return f"{spread(kept, '.0%')} of the gain"


def pixels_knn() -> str:
    """What raw pixels reach with all labels."""
    return f"{read('train_simclr')['after']['5-NN, raw pixels']:.3f}"


def training_seconds() -> str:
    """The shortest and the longest job."""
    return f"{spread([read(f'train_{task}')['seconds']['total'] for task in ('clip', 'simclr', 'sentence')], '.0f')} s"


def recipe_seconds() -> str:
    """CPU time of the longest recipe."""
    return f"{max(found['cpu_seconds'] for found in read('recipes').values()):.0f} s"


def trained_capacity() -> str:
    """Documents whose pairs training solves at d = 4."""
    return f"{read('recipes')['limit']['table']['capacity at d = 4, by training']:.0f}"


def two_workers() -> str:
    """Two workers over one, and what else the machine did."""
    found = read("scale")
    gains = [found["seconds"][job]["one_worker"] / found["seconds"][job]["two_workers"] for job in found["flop"]]
    load = found["load_before_and_after"][0][0]
    return f"{spread(gains, '.2f')} times as fast as one, on two cores whose load was {load:.1f} before the run"


def graph_pays() -> str:
    """Queries a vector from which a graph's building is worth it."""
    if not (RESULTS / "search_growth.json").exists():
        return not_recorded("python benches/bench_search_growth.py --record")
    return spread([row["pays_from"] / row["n"] for row in read("search_growth")["rows"]], ".1f")


VALUES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        saturation_errors, sparse_gain, pixels_knn, training_seconds, recipe_seconds, trained_capacity, two_workers,
        graph_pays,
    )
}  # fmt: skip
