"""Losses over views, crops and prototypes: Sinkhorn assignments, and what CLIP borrowed from self-supervision.

The conventions of :mod:`simtile.functional` hold.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._losses.crops import barlow_twins, multi_crop_info_nce, siamese_loss, swalip
from simtile._losses.swav import Potentials, sinkhorn, swav

__all__ = [
    "Potentials",
    "barlow_twins",
    "multi_crop_info_nce",
    "siamese_loss",
    "sinkhorn",
    "swalip",
    "swav",
]
