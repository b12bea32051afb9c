"""One model for several tasks: batches that hold one task each, and checkpoints merged by how far they moved.

Zhang et al. 2025, CoDiEmb, arXiv:2508.11442.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["TaskBatches", "delta_merge"]


class TaskBatches:
    """Batches of a dataset made of several tasks' examples, each batch from a single task and of the task's own size.

    A batch sampler for ``torch.utils.data.DataLoader(batch_sampler=...)`` over the tasks' datasets one after the other
    (``ConcatDataset``). In one step all ranks work on the same task, on different examples: negatives gathered from the
    others are negatives of this task, and a loss for one task never meets another's gradient in a step.

    Parameters
    ----------
    sizes : sequence of int      examples of each task
    batch_size : int or sequence of int      of a rank's batch, for all tasks or each
    rank, world_size : int      this process and how many there are
    seed : int

    Raises
    ------
    ValueError      naming the argument

    Notes
    -----
    An epoch visits every task's examples once in random order, tasks mixed in proportion to their batches; what does
    not fill a batch of all ranks is left for another epoch's order. Call :meth:`set_epoch` before each, on every rank
    alike.

    Examples
    --------
    >>> sampler = TaskBatches([6, 4], [3, 2])
    >>> sorted(len(batch) for batch in sampler)
    [2, 2, 3, 3]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int | Sequence[int],
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        batch_sizes = [batch_size] * len(sizes) if isinstance(batch_size, int) else list(batch_size)
        if not sizes or min(sizes) < 0:
            raise ValueError(f"sizes: at least one task, none negative, got {list(sizes)}")
        if len(batch_sizes) != len(sizes) or min(batch_sizes) < 1:
            raise ValueError(f"batch_size: at least 1, for all or each of the {len(sizes)} tasks, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: from 0 to below world_size, {world_size}, got {rank}")
        self.sizes, self.batch_sizes = list(sizes), batch_sizes
        self.rank, self.world_size, self.seed, self.epoch = rank, world_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order; the same for the same epoch and seed."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return sum(self._steps())

    def __iter__(self) -> Iterator[list[int]]:
        for task, batch in self.tagged():
            del task
            yield batch

    def tagged(self) -> Iterator[tuple[int, list[int]]]:
        """(task, batch) in the order of iteration, for the choice of a loss."""
        rng = np.random.default_rng((self.seed, self.epoch))
        starts = np.cumsum([0, *self.sizes[:-1]])
        shuffled = [start + rng.permutation(size) for start, size in zip(starts, self.sizes, strict=True)]
        tasks = rng.permutation(np.repeat(np.arange(len(self.sizes)), self._steps()))
        taken = [0] * len(self.sizes)
        for task in tasks.tolist():
            size = self.batch_sizes[task]
            first = (taken[task] * self.world_size + self.rank) * size
            taken[task] += 1
            yield task, shuffled[task][first : first + size].tolist()

    def _steps(self) -> list[int]:
        return [
            size // (batch * self.world_size) for size, batch in zip(self.sizes, self.batch_sizes, strict=True)
        ]  # fmt: skip


def delta_merge(
    base: Mapping[str, Tensor], checkpoints: Sequence[Mapping[str, Tensor]], *, power: float = 1.0
) -> dict[str, Tensor]:
    """One set of weights from several checkpoints of one start: parameter by parameter, who moved more counts more.

    merged = base + Σ_k w_k Δ_k,  Δ_k = checkpoint_k - base,  w_k = ‖Δ_k‖^power / Σ_l ‖Δ_l‖^power for each tensor

    Parameters
    ----------
    base : mapping of str to Tensor      the weights that all checkpoints started from (``state_dict``)
    checkpoints : sequence of such mappings      of the same names and shapes
    power : float      0 is the plain mean of the checkpoints, a model soup

    Returns
    -------
    dict of str to Tensor      in the base's dtypes; tensors that are no floats, counters for instance, are the base's

    Raises
    ------
    ValueError      no checkpoint, or names or shapes that differ

    Notes
    -----
    The paper's abstract: merging weights "by analyzing each parameter's deviation from its pre-trained initialization".
    Norms of whole tensors, and their first power, are this library's reading; its formula could not be checked. A
    checkpoint that left a tensor where it was has no say in it. Sums are made in at least float32.
    """
    if not checkpoints:
        raise ValueError("checkpoints: at least one, got none")
    for checkpoint in checkpoints:
        if set(checkpoint) != set(base):
            odd = sorted(set(checkpoint) ^ set(base))
            raise ValueError(f"checkpoints: the names of base; {', '.join(map(repr, odd[:3]))} are in one only")
    return {name: _merged(name, start, [part[name] for part in checkpoints], power) for name, start in base.items()}


@torch.no_grad()
def _merged(name: str, start: Tensor, moved: list[Tensor], power: float) -> Tensor:
    if any(part.shape != start.shape for part in moved):
        raise ValueError(f"checkpoints: {name!r} of shape {tuple(start.shape)} in all")
    if not start.dtype.is_floating_point:
        return start.clone()
    wide = torch.promote_types(start.dtype, torch.float32)
    deltas = [part.to(start.device, wide) - start.to(wide) for part in moved]
    lengths = torch.stack([delta.norm() for delta in deltas])
    longest = lengths.max()
    if longest == 0:
        return start.clone()
    shares = (lengths / longest).pow(power)  # pow(0, 0) = 1: a soup counts those that did not move
    shares = shares / shares.sum()
    merged = start.to(wide, copy=True)
    for share, delta in zip(shares.tolist(), deltas, strict=True):
        merged.add_(delta, alpha=share)
    return merged.to(start.dtype)
