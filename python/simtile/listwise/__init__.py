"""Losses over whole lists: each list is to be put in its right order, or its scores into a teacher's.

Scores of listed items come in, from any scorer; :func:`stable_distillation` makes them from embeddings, with all other
queries' items as background, and never holds the matrix of all pairs.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.listwise._distillation import stable_distillation
from simtile.listwise._mle import list_mle
from simtile.listwise._ranking import pearson_loss, pro_loss, rank_kl_loss, sts_loss
from simtile.listwise._tail_lse import tail_lse
from simtile.listwise._wasserstein import wasserstein_loss

__all__ = [
    "list_mle",
    "pearson_loss",
    "pro_loss",
    "rank_kl_loss",
    "stable_distillation",
    "sts_loss",
    "tail_lse",
    "wasserstein_loss",
]
