"""Similarity learning and retrieval without the similarity matrix.

    simtile.functional   the operations and losses on torch tensors      pip install "simtile[torch]"
    simtile.losses       the losses as torch modules                     pip install "simtile[torch]"
    simtile.targets      target weights that factorise, for new losses   pip install "simtile[torch]"
    simtile.search       nearest neighbours, exact and by a graph        numpy is enough
    simtile.hubness      hubness: measured, corrected, exported          numpy is enough
    simtile.corpus       coresets, clusters, importance of items         numpy is enough
    simtile.cur          an expensive scorer's favourites in few calls   numpy is enough
    simtile.evaluation   small evaluations of embedding spaces           see its modules
    simtile.distributed  the losses over several processes               pip install "simtile[torch]"
    simtile.explain      which plan a job takes, why, and its memory     pip install "simtile[torch]"
    simtile.patch        let open_clip, lightly, ... use these losses    see simtile.integrations

Each part is loaded on first use, so ``import simtile`` needs numpy alone and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from simtile._extras import missing_extra

if TYPE_CHECKING:
    from simtile import corpus, cur, distributed, evaluation, functional, hubness, integrations, losses, search, targets
    from simtile.functional import explain
    from simtile.integrations import patch, unpatch

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "corpus",
    "cur",
    "distributed",
    "evaluation",
    "explain",
    "functional",
    "hubness",
    "integrations",
    "losses",
    "patch",
    "search",
    "targets",
    "unpatch",
]

_SUBMODULES = frozenset(
    {
        "corpus",
        "cur",
        "distributed",
        "evaluation",
        "functional",
        "hubness",
        "integrations",
        "losses",
        "search",
        "targets",
    }
)
_MODULE_OF = {"explain": "simtile.functional", "patch": "simtile.integrations", "unpatch": "simtile.integrations"}


def __getattr__(name: str) -> object:
    """Load a part of simtile on first use (PEP 562); a ModuleNotFoundError names the extra that is missing."""
    try:
        if name in _SUBMODULES:
            return importlib.import_module(f"simtile.{name}")
        if name in _MODULE_OF:
            value: object = getattr(importlib.import_module(_MODULE_OF[name]), name)
            globals()[name] = value
            return value
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    raise AttributeError(f"module 'simtile' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
