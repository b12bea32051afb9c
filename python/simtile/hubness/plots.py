"""The report's two figures as PNG: the k-occurrence histogram and the Lorenz curve, before and after."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from simtile._figure_style import AFTER, BEFORE, SIZE, STYLE
from simtile.hubness.metrics import HubnessReport

COLOURS = {"before": BEFORE, "after": AFTER}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No version in the file: the same figures give the same bytes.
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def k_occurrence(reports: Mapping[str, HubnessReport]) -> bytes:
    """Share of items by N_k on logarithmic axes; a diamond at the left edge for those in no list."""
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        largest = max(2, *(report.largest_hub for report in reports.values()))
        edges = np.unique(np.geomspace(1, largest + 1, 22).astype(int))
        centres = np.sqrt(edges[:-1] * np.maximum(edges[1:] - 1, edges[:-1]))
        for name, report in reports.items():
            counts = report.k_occurrence
            density = np.histogram(counts, bins=edges)[0] / np.diff(edges) / max(len(counts), 1)
            shown = density > 0
            label = f"{name}: skewness {report.skewness:.2f}"
            axes.plot(centres[shown], density[shown], "o-", color=COLOURS[name], markersize=4, label=label)
            if report.anti_hub_occurrence > 0:
                axes.plot(0.5, report.anti_hub_occurrence, "D", color=COLOURS[name], markersize=6)
        axes.set(xscale="log", yscale="log", xlabel="N_k: lists that an item is in (diamond: none)")
        axes.set_ylabel("share of items")
        axes.grid()
        axes.legend()
        return _png(figure)


def lorenz(reports: Mapping[str, HubnessReport]) -> bytes:
    """Share of all list places that the items with the fewest take."""
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=STYLE["grid.color"], linestyle="--", linewidth=1)
        for name, report in reports.items():
            counts = np.sort(report.k_occurrence)
            share = np.concatenate([[0], np.cumsum(counts)]) / max(1, counts.sum())
            label = f"{name}: Gini {report.gini:.2f}"
            axes.plot(np.linspace(0, 1, len(share)), share, color=COLOURS[name], linewidth=2, label=label)
        axes.set(xlabel="share of items, from the fewest places", ylabel="share of list places")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid()
        axes.legend(loc="upper left")
        return _png(figure)
