"""The losses as ``torch.nn`` modules, named after their papers.

Each is a few lines over :mod:`simtile.functional`, which documents arguments, memory and errors.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.losses._adaptive import AMCLLoss, DeepBoostingLoss, MaxViolationLoss, ProgressiveInfoNCELoss
from simtile.losses._cached import CachedLoss, encode_in_chunks
from simtile.losses._crops import BarlowTwinsLoss, MultiCropInfoNCELoss, SiameseLoss, SwALIPLoss
from simtile.losses._gated import HydraLoss, LabelGate
from simtile.losses._info_nce import CWCLLoss, FilteredInfoNCELoss, InfoNCELoss, NTXentLoss, SupConLoss
from simtile.losses._listwise import StableDistillationLoss, STSLoss, WassersteinLoss
from simtile.losses._matryoshka import Matryoshka2dLoss, MatryoshkaInfoNCELoss
from simtile.losses._mixing import MetrixLoss, SupReMixLoss
from simtile.losses._module import ContrastiveLoss
from simtile.losses._queue import MomentumQueue, momentum_update
from simtile.losses._relatives import (
    CMIMLoss,
    ContrastiveGapLoss,
    DistillationLoss,
    FocalInfoNCELoss,
    MarginInfoNCELoss,
)
from simtile.losses._several import MaxSimLoss, MetaContrastLoss, MultiPositiveInfoNCELoss, SoftREPALoss
from simtile.losses._sigmoid import SigLIPLoss
from simtile.losses._swav import SwAVLoss
from simtile.losses._views import DCLLoss, HCLLoss

__all__ = [
    "AMCLLoss",
    "BarlowTwinsLoss",
    "CMIMLoss",
    "CWCLLoss",
    "CachedLoss",
    "ContrastiveGapLoss",
    "ContrastiveLoss",
    "DCLLoss",
    "DeepBoostingLoss",
    "DistillationLoss",
    "FilteredInfoNCELoss",
    "FocalInfoNCELoss",
    "HCLLoss",
    "HydraLoss",
    "InfoNCELoss",
    "LabelGate",
    "MarginInfoNCELoss",
    "Matryoshka2dLoss",
    "MatryoshkaInfoNCELoss",
    "MaxSimLoss",
    "MaxViolationLoss",
    "MetaContrastLoss",
    "MetrixLoss",
    "MomentumQueue",
    "MultiCropInfoNCELoss",
    "MultiPositiveInfoNCELoss",
    "NTXentLoss",
    "ProgressiveInfoNCELoss",
    "STSLoss",
    "SiameseLoss",
    "SigLIPLoss",
    "SoftREPALoss",
    "StableDistillationLoss",
    "SupConLoss",
    "SupReMixLoss",
    "SwALIPLoss",
    "SwAVLoss",
    "WassersteinLoss",
    "encode_in_chunks",
    "momentum_update",
]
