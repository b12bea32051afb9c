"""How much of the exact top k each method finds for how many scorer calls, beside what costs nothing to know.

    recall@k = |found ∩ exact top k| / k        found: every item a method had scored, at one budget of calls

Two controls go with every result. "popularity" scores the items with the highest means over the build queries, the same
for every query; "half_and_half" spends half on those and half on the retriever's list. A scorer with strong hubs makes
any method look good that learns the hubs: only what beats both controls has learned something about the query.
Frobenius errors are not reported: a matrix of cross-encoder scores is almost its mean, which any approximation has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simtile.cur.index import CrossEncoderIndex, Target
from simtile.cur.planning import MethodName
from simtile.cur.rounds import run_rounds

__all__ = ["CONTROLS", "Report", "evaluate"]

Control: TypeAlias = Literal["popularity", "half_and_half"]
CONTROLS: tuple[Control, ...] = ("popularity", "half_and_half")
Key: TypeAlias = tuple[Target, int, int, str]


@dataclass(frozen=True)
class Report:
    """Recalls of every query.

    Attributes
    ----------
    recalls : {(target, budget, k, method): float (M,)}
    """

    recalls: dict[Key, NDArray[np.float64]]

    def mean(self, key: Key) -> tuple[float, float]:
        """Mean recall and its standard error."""
        return _mean_and_error(self.recalls[key])

    def gain(self, key: Key, over: str) -> tuple[float, float]:
        """Mean difference from another method on the same queries, and the standard error of that difference."""
        target, budget, k, _ = key
        return _mean_and_error(self.recalls[key] - self.recalls[target, budget, k, over])

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object a result."""
        result = []
        for key in self.recalls:
            row: dict[str, Any] = dict(zip(("target", "budget", "k", "method"), key, strict=True))
            row["recall"], row["error"] = self.mean(key)
            for over in ("rerank", *CONTROLS):
                if (*key[:3], over) in self.recalls and key[3] != over:
                    row[f"gain_over_{over}"], row[f"gain_over_{over}_error"] = self.gain(key, over)
            result.append(row)
        return result

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`rows` as JSON."""
        Path(path).write_text(json.dumps(self.rows(), indent=1) + "\n")

    def table(self, target: Target = "raw") -> str:
        """Markdown: methods by (budget, k), in per cent; ``±`` is the standard error of the difference from rerank."""
        columns = sorted({(key[1], key[2]) for key in self.recalls if key[0] == target})
        methods = list(dict.fromkeys(key[3] for key in self.recalls if key[0] == target))
        lines = [
            "| calls | k | " + " | ".join(methods) + " |",
            "|--:|--:|" + "--:|" * len(methods),
        ]
        for budget, k in columns:
            cells = [self._cell((target, budget, k, method)) for method in methods]
            lines.append(f"| {budget} | {k} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str], target: Target = "raw") -> None:
        """Calls against recall, a panel a k (needs matplotlib)."""
        from matplotlib.figure import Figure

        ks = sorted({key[2] for key in self.recalls if key[0] == target})
        methods = list(dict.fromkeys(key[3] for key in self.recalls if key[0] == target))
        figure = Figure(figsize=(4.0 * len(ks), 3.6), layout="constrained")
        for axes, k in zip(np.ravel(figure.subplots(1, len(ks))), ks, strict=True):
            for method in methods:
                budgets = sorted(key[1] for key in self.recalls if (key[0], key[2], key[3]) == (target, k, method))
                means, errors = zip(*(self.mean((target, budget, k, method)) for budget in budgets), strict=True)
                axes.errorbar(
                    budgets, means, yerr=errors, label=method, linestyle="--" if method in CONTROLS else "-", marker="."
                )
            axes.set(xscale="log", xlabel="scorer calls per query", ylabel=f"recall@{k}", ylim=(0.0, 1.02))
            axes.set_xticks(budgets, [str(budget) for budget in budgets])
            axes.minorticks_off()
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=120)

    def _cell(self, key: Key) -> str:
        if key not in self.recalls:
            return ""
        mean = f"{100 * self.mean(key)[0]:.1f}"
        if key[3] == "rerank" or (*key[:3], "rerank") not in self.recalls:
            return mean
        gain, error = self.gain(key, "rerank")
        return f"{mean} ({100 * gain:+.1f} ± {100 * error:.1f})"


def evaluate(
    index: CrossEncoderIndex,
    queries: Sequence[Any],
    exact: NDArray[np.floating],
    *,
    query_embeddings: NDArray[np.floating] | None = None,
    methods: Sequence[MethodName] = ("rerank", "anncur", "adacur", "axn", "auto"),
    budgets: Sequence[int] = (50, 100, 200, 400),
    ks: Sequence[int] = (1, 10, 50, 100),
    targets: Sequence[Target] = ("raw", "centred"),
) -> Report:
    """Search queries whose scores are all known, by every method and control. Not one call of the scorer is made.

    Parameters
    ----------
    index : CrossEncoderIndex
    queries : sequence of M queries that the index was not built from
    exact : (M, N)      the scorer's scores of all items
    query_embeddings : array (M, e)      if the index has embeddings
    methods : sequence      those that need whole rows are left out of a sparse index by the caller
    budgets, ks : sequences of int      pairs with k <= budget are reported
    targets : sequence of {"raw", "centred"}

    Raises
    ------
    ValueError      naming the argument
    """
    n = len(index.vectors)
    if exact.shape != (len(queries), n) or not np.isfinite(exact).all():
        raise ValueError(f"exact: finite scores of shape ({len(queries)}, {n}), got {exact.shape}")
    recalls: dict[Key, NDArray[np.float64]] = {}
    for target in targets:
        offset = index.item_means if target == "centred" else np.zeros(n)
        values = exact - offset
        ranked = np.argsort(-values, axis=1, kind="stable")[:, : max(ks)]
        for budget in budgets:
            wanted = [k for k in ks if k <= min(budget, n)]
            for method in methods:
                found: NDArray[np.int64] | None = None
                for k in wanted:
                    if found is None or method == "auto":  # which chooses for each k
                        plan = index.plan(
                            queries, k, budget=budget, method=method, target=target, query_embeddings=query_embeddings
                        )
                        found = run_rounds(plan.method, plan.sizes, _Lookup(values)).ids
                    recalls[target, budget, k, method] = _recall(ranked[:, :k], found)
            for control in CONTROLS:
                lists = _control(control, index, queries, query_embeddings, budget)
                for k in wanted:
                    recalls[target, budget, k, control] = _recall(ranked[:, :k], lists)
    return Report(recalls)


class _Lookup:
    """Buys from a matrix."""

    def __init__(self, values: NDArray[np.floating]) -> None:
        self._values = values

    def __call__(self, queries: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(ids >= 0, self._values[queries[:, None], ids], np.nan)


def _control(
    control: Control,
    index: CrossEncoderIndex,
    queries: Sequence[Any],
    embeddings: NDArray[np.floating] | None,
    budget: int,
) -> NDArray[np.int64]:
    """Lists (M, budget) that no score of the query had a part in."""
    popular = np.argsort(-index.item_means, kind="stable")
    if control == "popularity":
        return np.repeat(popular[None, :budget], len(queries), axis=0)
    plan = index.plan(queries, 1, budget=max(budget // 2, 1), method="rerank", query_embeddings=embeddings)
    result = []
    for row in plan.method.first:
        row = row[row >= 0]
        others = popular[~np.isin(popular, row)]
        result.append(np.concatenate([row, others[: budget - len(row)]]))
    return np.stack(result)


def _recall(exact: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([np.isin(top, ids).mean() for top, ids in zip(exact, found, strict=True)])


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(values.mean()), error
