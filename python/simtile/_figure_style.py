"""Colours, size and fonts of every report's figures."""

from __future__ import annotations

from typing import Any

BEFORE, AFTER = "#9aa5b1", "#0f766e"
INK, FAINT_INK, FAINT = "#1f2933", "#52606d", "#d9e0e6"
SIZE = (4.8, 3.2)  # inches
STYLE: dict[Any, Any] = {  # matplotlib types the keys as one long Literal
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "simtile",  # the same figures give the same file
}
