"""Losses over all ranks of a process group: ``process_group=`` of :func:`simtile.functional.info_nce` and others.

Each rank passes its own rows, as many as it has. Row i of its query is paired with row i of its key; candidates are the
keys of all ranks. Every rank returns the loss of one process that holds all rows: the mean is over Σ M_r queries.
Gradients, of embeddings, temperature and biases, are W times this rank's share of that process's gradients, so that the
mean over W ranks, which DistributedDataParallel and FSDP take, is that process's gradient.

How rows travel (:class:`Ranks`):

* ring: W - 1 steps, each rank holds its neighbour's rows while it receives the next ones. Memory O(B_local * D)
  whatever W is; in the backward pass a shard's gradient travels with it.
* gather: every rank sends its rows to every other at once. Memory O(B * D), one exchange.
* auto, what a plain process group means: gather while the joined rows are few, else ring.

A pair's score is computed on one rank. The exchange's order is fixed, so results are deterministic for a given W, and
the reduced loss has the same bits on every rank. Each loss begins with an exchange of sizes, and ranks that disagree on
the width, dtype, options or inputs with gradients get a ValueError instead of waiting for each other.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch as _torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.distributed._pool import JoinedPool
from simtile.distributed._ranks import Ranks, all_rows, as_ranks, gather, ring

del _torch

__all__ = ["JoinedPool", "Ranks", "all_rows", "as_ranks", "gather", "ring"]
