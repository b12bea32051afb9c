"""Batches without two items of one label: no false negatives, as far as labels can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simtile.corpus._checks import at_least_one
from simtile.search._arrays import as_count, as_integers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class DistinctLabelBatches:
    """Batches of item numbers in which every label occurs at most once; every item is in one batch of each pass.

    Made for ``DataLoader(data, batch_sampler=...)``, without torch itself.

    Parameters
    ----------
    labels : integers (N,)      pseudo-labels, such as ``kmeans(features, k).labels``
    batch_size : int      items in a batch at most
    seed : int      equal seeds give equal batches, pass by pass

    Attributes
    ----------
    epoch : int      the number of the next pass; may be set, to go on after an interruption or to agree between ranks

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    As few batches as there can be: max(N / batch_size, the largest label's count), rounded up. Their sizes differ by at
    most one, so that one label with many items makes all batches small. Items, sorted by label in a random order, are
    dealt to the batches in turn: a label that has no more items than there are batches never meets a batch twice.
    Chakraborty et al. 2020, G-SimCLR.

    Examples
    --------
    >>> batches = DistinctLabelBatches(np.array([0, 0, 1, 1, 2]), 3)
    >>> len(batches), sorted(len(batch) for batch in batches)
    (2, [2, 3])
    """

    def __init__(self, labels: NDArray[Any] | Tensor, batch_size: int, *, seed: int = 0) -> None:
        self.labels = as_integers("labels", labels)
        self.batch_size = at_least_one("batch_size", batch_size)
        self.seed, self.epoch = as_count("seed", seed), 0
        _, self._numbered, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        self._batches = max(-(-len(self.labels) // self.batch_size), int(counts.max(initial=0)))
        self._kinds = len(counts)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        shuffled = rng.permutation(len(self.labels))
        dealt = shuffled[np.argsort(rng.permutation(self._kinds)[self._numbered[shuffled]], kind="stable")]
        for number in rng.permutation(self._batches):
            yield rng.permutation(dealt[number :: self._batches]).tolist()
