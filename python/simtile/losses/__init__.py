"""The losses as ``torch.nn`` modules, named after their papers.

Each is a few lines over :mod:`simtile.functional`, which documents arguments, memory and errors.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.losses._info_nce import CWCLLoss, FilteredInfoNCELoss, InfoNCELoss, NTXentLoss, SupConLoss
from simtile.losses._module import ContrastiveLoss
from simtile.losses._sigmoid import SigLIPLoss

__all__ = [
    "CWCLLoss",
    "ContrastiveLoss",
    "FilteredInfoNCELoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SigLIPLoss",
    "SupConLoss",
]
