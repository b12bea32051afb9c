"""The report's figures, each an SVG document of about the width of a phone, so that its text stays legible there."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from simtile._figure_style import AFTER, BEFORE, FAINT_INK, SIZE, STYLE
from simtile.demo.evaluate import Retrieval


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def loss_curve(losses: Sequence[float], batch: int) -> str:
    """Loss by step, with the loss of guessing (log of the batch) for comparison."""
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        steps = np.arange(1, len(losses) + 1)
        axes.axhline(np.log(batch), color=BEFORE, linestyle="--", linewidth=1)
        label = f"guessing: log {batch:,} = {np.log(batch):.2f}"
        axes.text(len(losses), np.log(batch) - 0.15, label, ha="right", va="top", color=FAINT_INK, fontsize=10)
        axes.plot(steps, losses, color=AFTER, linewidth=2, marker="o", markersize=3.5)
        axes.set(xlabel="step", ylabel="InfoNCE loss", ylim=(0, 1.05 * max(np.log(batch), *losses)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        return _svg(figure)


def recall_bars(before: Retrieval, after: Retrieval) -> str:
    """Recall@1, recall@10 and MRR@10 before and after, with the values on the bars."""
    labels = ("recall@1", "recall@10", "MRR@10")
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        for offset, retrieval, colour, label in ((-0.2, before, BEFORE, "before"), (0.2, after, AFTER, "after")):
            values = [retrieval.recall_at_1, retrieval.recall_at_10, retrieval.mrr_at_10]
            bars = axes.bar(np.arange(3) + offset, values, width=0.36, color=colour, label=label)
            axes.bar_label(bars, fmt="{:.3f}", padding=2, fontsize=10)
        axes.set_xticks(range(3), labels)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.15 * max(before.recall_at_10, after.recall_at_10, 0.01))
        axes.grid(axis="y")
        axes.legend(loc="upper left")
        return _svg(figure)


def k_occurrence_histogram(before: Retrieval, after: Retrieval) -> str:
    """Share of codes by the number of top-10 lists they are in, on logarithmic axes; zero has a place of its own."""
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        largest = max(before.largest_hub, after.largest_hub, 2)
        edges = np.unique(np.geomspace(1, largest + 1, 22).astype(int))
        centres = np.sqrt(edges[:-1] * np.maximum(edges[1:] - 1, edges[:-1]))
        for retrieval, colour, label in ((before, BEFORE, "before"), (after, AFTER, "after")):
            counts, _ = np.histogram(retrieval.k_occurrence, bins=edges)
            density = counts / np.diff(edges) / len(retrieval.k_occurrence)
            shown = density > 0
            axes.plot(centres[shown], density[shown], color=colour, marker="o", markersize=4, linewidth=1.8)
            axes.plot(
                0.5, max(retrieval.anti_hub_share, 1e-9), color=colour, marker="D", markersize=6, linestyle="none"
            )
            axes.plot([], [], color=colour, marker="o", label=f"{label}: skewness {retrieval.hubness_skew:.2f}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.3 / len(before.k_occurrence) / max(1, np.diff(edges)[-1]))
        ticks = [0.5, *(10.0**power for power in range(int(np.log10(largest)) + 1))]
        axes.set_xticks(ticks, ["0", *(f"{tick:,.0f}" for tick in ticks[1:])])
        axes.minorticks_off()
        axes.set(xlabel="N₁₀: top-10 lists that a function is in", ylabel="share of functions")
        axes.grid()
        axes.legend(loc="upper right")
        return _svg(figure)


def heat_maps(similarities: dict[str, NDArray[np.float32]]) -> str:
    """Cosines of a few queries (rows) and their codes (columns), all on one colour scale."""
    with mpl.rc_context(STYLE):
        figure = Figure((4.8, 2.6), layout="constrained")
        panels: list[Axes] = list(figure.subplots(1, len(similarities), squeeze=False)[0])
        low = min(0.0, *(float(values.min()) for values in similarities.values()))
        image = None
        for axes, (title, values) in zip(panels, similarities.items(), strict=True):
            image = axes.imshow(values, cmap="GnBu", vmin=low, vmax=1.0, interpolation="nearest")
            axes.set_title(title, fontsize=11)
            axes.set_xlabel("code")
            axes.set_xticks([])
            axes.set_yticks([])
        panels[0].set_ylabel("query")
        if image is not None:
            figure.colorbar(image, ax=panels, shrink=0.8, label="cosine", aspect=14)
        return _svg(figure)


def loss_cost_bars(rows: Sequence[tuple[str, float, float, str]]) -> str:
    """One panel per quantity (title, plain torch, simtile, unit)."""
    with mpl.rc_context(STYLE):
        figure = Figure((4.8, 1.4 * len(rows)), layout=ConstrainedLayoutEngine(hspace=0.12))
        for axes, (title, plain, ours, unit) in zip(
            figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
        ):
            bars = axes.barh(["simtile", "plain torch"], [ours, plain], color=[AFTER, BEFORE], height=0.6)
            axes.bar_label(bars, fmt=f"{{:,.0f}} {unit}", padding=4, fontsize=10)
            axes.set_xlim(0, 1.28 * max(plain, ours))
            axes.set_title(title, fontsize=11, loc="left")
            axes.xaxis.set_visible(False)
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        return _svg(figure)


def package_bars(counts: dict[str, int], *, most: int = 9) -> str:
    """Pairs per package, the largest ones, the others as one bar."""
    shown = dict(list(counts.items())[:most])
    if len(counts) > most:
        shown[f"{len(counts) - most} other packages"] = sum(list(counts.values())[most:])
    with mpl.rc_context(STYLE):
        figure = Figure((4.8, 0.3 + 0.29 * len(shown)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(list(shown)[::-1], list(shown.values())[::-1], color=AFTER, height=0.66)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=10)
        axes.set_xlim(0, 1.16 * max(shown.values()))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return _svg(figure)
