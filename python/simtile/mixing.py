"""Losses with mixtures of embeddings, in score space: no mixture is ever made.

:func:`mix_scores` is the operation, :func:`supremix` and :func:`metrix` are losses over it. The hard negatives that
:func:`simtile.functional.focal_info_nce` mixes are drawn by :func:`pair_mixing` and :func:`list_mixing`.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._losses.metrix import metrix
from simtile._losses.mixtures import list_mixing, mix_scores, pair_mixing
from simtile._losses.supremix import supremix

__all__ = ["list_mixing", "metrix", "mix_scores", "pair_mixing", "supremix"]
