"""Losses that set something pair by pair: a temperature, a margin, a weight.

:func:`amcl` learns temperatures, :func:`deep_boosting` takes margins from a frozen branch whose own loss is
:func:`max_violation`, and :func:`progressive_info_nce` weighs rows by their difficulty and the training's progress.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._losses.amcl import amcl
from simtile._losses.deep_boosting import deep_boosting, max_violation
from simtile._losses.progressive import easy_then_hard, progressive_info_nce

__all__ = ["amcl", "deep_boosting", "easy_then_hard", "max_violation", "progressive_info_nce"]
