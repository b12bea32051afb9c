"""The loss by step, as an image for a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from simtile._figure_style import AFTER, SIZE, STYLE

if TYPE_CHECKING:
    from collections.abc import Sequence


def loss_curve(losses: Sequence[float]) -> str:
    """An ``<img>`` that needs no other file."""
    with mpl.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot(range(1, len(losses) + 1), losses, color=AFTER, linewidth=1.5)
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        axes.grid(axis="y")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    data = base64.b64encode(buffer.getvalue().encode()).decode()
    return f'<img alt="Loss by step" src="data:image/svg+xml;base64,{data}">'
