"""Hubness: measure it, correct it, at any size, in any index. NumPy arrays or torch tensors on the CPU.

    HubnessReducer      every correction: fit on a gallery and a bank of queries, then search, re-rank or export
    hubness_report      k-occurrence figures of lists of neighbours
    reference           the formula of each correction in dense float64

docs/hubness.md explains which correction is which, what it needs and what it gains.
"""

from __future__ import annotations

from simtile.hubness import reference
from simtile.hubness._checks import NotFittedError, ShortListWarning
from simtile.hubness._methods import METHODS, PAPER_DEFAULTS
from simtile.hubness.metrics import (
    HubnessReport,
    OccurrenceCounter,
    RetrievalReport,
    hubness_report,
    ranks,
    ranks_in_lists,
    retrieval_report,
)
from simtile.hubness.reducer import HubnessReducer

__all__ = [
    "METHODS",
    "PAPER_DEFAULTS",
    "HubnessReducer",
    "HubnessReport",
    "NotFittedError",
    "OccurrenceCounter",
    "RetrievalReport",
    "ShortListWarning",
    "hubness_report",
    "ranks",
    "ranks_in_lists",
    "reference",
    "retrieval_report",
]
