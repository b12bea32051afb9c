"""The report's figures as SVG text, drawn from the JSON of a run; a figure whose records are missing is not drawn."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from machine import Record
from simtile._figure_style import AFTER, BEFORE, FAINT_INK, SIZE, STYLE

COLOURS = (AFTER, "#b45309", "#1d4ed8", "#7c3aed", "#be185d", "#4d7c0f", "#0e7490")
OURS, THEIRS = AFTER, BEFORE


def figure(draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> str:
    """One pair of axes, drawn on and written."""
    with mpl.rc_context(STYLE):
        picture = Figure(size, layout="constrained")
        axes = picture.subplots()
        draw(axes)
        buffer = io.StringIO()
        picture.savefig(buffer, format="svg", metadata={"Date": None})  # on white: pages may be dark
        return buffer.getvalue()


def by_size(results: Record, what: str, label: str) -> str | None:
    """Milliseconds or megabytes of a loss with its gradients, by batch size."""
    rows = results.get("info_nce", {}).get("sizes")
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for name, title, colour in (("torch", "plain torch", THEIRS), ("simtile", "simtile", OURS)):
            shown = [r for r in rows if r["contender"] == name and r.get(what) is not None]
            batches = [r["batch"] for r in shown]
            axes.plot(batches, [max(r[what], 0.1) for r in shown], "o-", color=colour, linewidth=2, label=title)
        axes.set(xscale="log", yscale="log", xlabel="pairs in the batch", ylabel=label)
        every = sorted({r["batch"] for r in rows})
        axes.set_xticks(every, [f"{batch // 1024}k" for batch in every])
        axes.xaxis.set_minor_locator(NullLocator())
        plain_numbers(axes)
        axes.grid()
        axes.legend()

    return figure(draw)


def plain_numbers(axes: Axes) -> None:
    """Ticks of a logarithmic axis at 1, 3, 10, 30, …, written out."""
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())


def pareto(results: Record) -> str | None:
    """Queries a second by recall@10, of every index at a rising effort."""
    found = results.get("search", {}).get("processes")
    if not found:
        return None

    def draw(axes: Axes) -> None:
        names = dict.fromkeys(one["name"] for one in found)
        for name, colour in zip(names, COLOURS, strict=False):
            curve = next(one["curve"] for one in found if one["name"] == name)
            recalls = [point["recall"] for point in curve]
            rates = [statistics.median(point["cpu_qps"]) for point in curve]
            width = 2.2 if name == "simtile" else 1.4
            axes.plot(recalls, rates, "o-", color=colour, markersize=3.5, linewidth=width, label=name)
        exact = [one for one in results.get("search_exact", {}).get("processes", []) if one["name"] == "simtile-i8"]
        if exact:
            rate = statistics.median(q for one in exact for q in one["cpu_qps"])
            axes.plot(1.0, rate, "D", color=OURS, label="simtile, exact")
        axes.set(yscale="log", xlabel="recall@10", ylabel="queries a CPU second")
        plain_numbers(axes)
        axes.grid()
        axes.legend(fontsize=9)

    return figure(draw, (SIZE[0], 3.8))


def hubs(results: Record) -> str | None:
    """The skewness that every correction leaves, and its recall@10 as a number."""
    rows = results.get("hubness_table", {}).get("rows")
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        names = [row["method"].replace("_", " ") for row in rows][::-1]
        values = [row["skewness"] for row in rows][::-1]
        recalls = [100 * row["recall_at_10"] for row in rows][::-1]
        colours = [THEIRS if name == "raw cosine" else OURS for name in names]
        axes.barh(names, values, color=colours, height=0.66)
        for at, (value, recall) in enumerate(zip(values, recalls, strict=True)):
            axes.text(value, at, f" {recall:.0f}", va="center", color=FAINT_INK, fontsize=9)
        axes.set(xlabel="skewness of N₁₀; numbers: recall@10, %", xlim=(0, 1.12 * max(values)))
        axes.tick_params(axis="y", length=0, labelsize=9)

    return figure(draw, (SIZE[0], 0.9 + 0.24 * len(rows)))


def calls(rows: Sequence[dict[str, Any]], k: int) -> str:
    """Recall@k of raw scores by scorer calls, every method of `simtile.cur` and its controls."""

    def draw(axes: Axes) -> None:
        shown = [row for row in rows if (row["target"], row["k"]) == ("raw", k)]
        methods = list(dict.fromkeys(row["method"] for row in shown))
        methods.sort(key=lambda name: name != "auto")
        for name, colour in zip(methods, COLOURS, strict=False):
            points = [(row["budget"], 100 * row["recall"]) for row in shown if row["method"] == name]
            dashed = name in ("popularity", "half_and_half")
            style = {"linestyle": "--" if dashed else "-", "linewidth": 2.4 if name == "auto" else 1.4}
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=name, **style)
        budgets = sorted({row["budget"] for row in shown})
        axes.set(xscale="log", xlabel="scorer calls a query", ylabel=f"recall@{k}, %", ylim=(0, 102))
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid()
        axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))

    return figure(draw, (SIZE[0], 3.8))


def ceiling(results: Record) -> str | None:
    """Whole losses and bare tiles as shares of the multiply-add rate of a core."""
    rows = [
        (", ".join([title, *([] if name == "pair_softplus" else [row["variant"]]), row["dtype"]]), row["share"])
        for name, title in (("info_nce", "InfoNCE"), ("pair_softplus", "sigmoid loss"), ("pair_lse", "log-sum-exp"))
        for row in results.get(name, {}).get("rows", [])
        if row.get("share") is not None and row["dim"] == 384
    ]
    ceilings = {(c["isa"], c["dtype"]): c["rate"] for c in results.get("ceilings", []) if c["threads"] == 1}
    tiles = [r for r in results.get("tiles", []) if r["dim"] == 384 and r["isa"] == results["tiles"][0]["isa"]]
    measured = [(r, ceilings.get((r["isa"], r["dtype"]))) for r in tiles]  # no ceiling where a type is emulated
    rows += [(f"tile alone, {r['dtype']}", r["rate"] / limit) for r, limit in measured if limit]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        names, shares = [name for name, _ in rows][::-1], [100 * share for _, share in rows][::-1]
        axes.barh(names, shares, color=OURS, height=0.66)
        for at, share in enumerate(shares):
            axes.text(share, at, f" {share:.0f}", va="center", color=FAINT_INK, fontsize=9)
        axes.set(xlim=(0, 108), xlabel="% of the core's measured ceiling")
        axes.tick_params(axis="y", length=0, labelsize=9)

    return figure(draw, (SIZE[0], 0.9 + 0.26 * len(rows)))
