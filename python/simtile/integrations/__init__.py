"""Drop-in losses for the libraries that people train with: same names, arguments and results, without the B×B scores.

    simtile.integrations.open_clip               ClipLoss, CoCaLoss, SigLipLoss
    simtile.integrations.sentence_transformers   MultipleNegativesRankingLoss, Cached…, GISTEmbedLoss
    simtile.integrations.metric_learning         NTXentLoss, SupConLoss (pytorch-metric-learning)
    simtile.integrations.lightly                 NTXentLoss, DirectCLRLoss
    simtile.integrations.transformers            forward of CLIPModel and SiglipModel

Import a class from its module, or let the library use ours: ``simtile.patch("open_clip")``. A module is loaded, and its
library with it, when it is asked for.
"""

from __future__ import annotations

import importlib

from simtile.integrations._patch import Patch

__all__ = ["patch", "unpatch"]

LIBRARIES = ("lightly", "metric_learning", "open_clip", "sentence_transformers", "transformers")
"""Each has a module of this name here, with a ``PATCH``."""


def patch(library: str) -> None:
    """Let a library use simtile's losses: its classes are replaced wherever its modules hold them.

    Names that other code imported from the library before are not reached, nor are objects that exist already: call
    this first. A second call replaces only what modules loaded since then hold. Results are the library's own, to
    rounding; what each drop-in leaves to the original is said in its module and in docs/integrations.md.

    Parameters
    ----------
    library : {"lightly", "metric_learning", "open_clip", "sentence_transformers", "transformers"}

    Raises
    ------
    ValueError      another name
    ModuleNotFoundError      the library is not installed; the message says how to install it
    """
    _patch_of(library).apply()


def unpatch(library: str) -> None:
    """Undo :func:`patch`: the library's modules hold exactly the objects that they held before.

    Without a preceding ``patch`` nothing happens. What other code imported meanwhile keeps working.
    Raises as :func:`patch`.
    """
    _patch_of(library).undo()


def _patch_of(library: str) -> Patch:
    if library not in LIBRARIES:
        raise ValueError(f"library: one of {', '.join(map(repr, LIBRARIES))}, got {library!r}")
    found: Patch = importlib.import_module(f"simtile.integrations.{library}").PATCH
    return found
