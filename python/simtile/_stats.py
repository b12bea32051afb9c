"""What columns look like from a bank of rows: the statistics that hubness corrections are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import custom_op

from simtile._ops import in_own_precision
from simtile._pairs import check_like, check_matrix, loss_dtype, traced
from simtile._plan import engine_for
from simtile.kernels.reference_torch import merge_lse

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Stats:
    """Statistics of Ny vectors over a bank of ``count`` rows, float32 (float64 for float64 inputs)."""

    betas: tuple[float, ...]
    ks: tuple[int, ...]
    count: int
    lse: Tensor
    """(len(betas), Ny): log Σ_i exp(beta * s_ij)."""
    mean: Tensor
    """(Ny,)"""
    var: Tensor
    """(Ny,), of the population: divided by ``count``."""
    top: Tensor
    """(max(ks), Ny): the largest scores, descending, padded with -inf; what ``topk_mean`` is made of."""

    @property
    def topk_mean(self) -> Tensor:
        """(len(ks), Ny): the mean of the k largest scores. ValueError while the bank holds fewer than max(ks) rows."""
        if self.count < max(self.ks, default=0):
            raise ValueError(f"ks: at most the {self.count} rows of the bank, got {max(self.ks)}")
        means = [self.top[:k].mean(0) for k in self.ks]
        return torch.stack(means) if means else self.mean.new_empty((0, self.mean.shape[0]))


def pair_stats(
    bank: Tensor, y: Tensor, *, betas: Sequence[float] = (), ks: Sequence[int] = (), partial: bool = False
) -> Stats:
    """Statistics of <bank_i, y_j> over all rows i of a bank, for every row j of y; one pass, no gradient.

    Parameters
    ----------
    bank : Tensor (Nb, D)
    y : Tensor (Ny, D)      of the dtype and device of the bank
    betas : sequence of float      positive inverse temperatures of the log-sum-exps
    ks : sequence of int      how many of the largest scores are averaged, each at least 1
    partial : bool      the bank is a block of a larger one (:func:`merge_stats`) and may be shorter than a k

    Returns
    -------
    Stats      lse, topk_mean, mean, var; a bank without rows has lse -inf, mean and variance 0

    Raises
    ------
    TypeError, ValueError      naming the argument; on the CPU also for values that are not finite

    Notes
    -----
    Extra memory O((len(betas) + max(ks)) * Ny) and panels of the bank.

    Examples
    --------
    >>> pair_stats(torch.eye(3), torch.eye(3), ks=[2]).topk_mean
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    check_matrix("bank", bank)
    check_like("y", y, "bank", bank)
    slopes, counts = tuple(float(beta) for beta in betas), tuple(ks)
    if not all(0 < beta < math.inf for beta in slopes):
        raise ValueError(f"betas: finite numbers above 0, got {slopes}")
    if not all(isinstance(k, int) and not isinstance(k, bool) for k in counts):
        raise TypeError(f"ks: integers, got {counts}")
    most = max(counts, default=0)
    if min(counts, default=1) < 1 or (most > bank.shape[0] and not partial):
        raise ValueError(
            f"ks: at least 1 and, unless partial, at most the {bank.shape[0]} rows of the bank, got {counts}"
        )
    compute = torch.ops.simtile.pair_stats if traced(bank) else _forward
    return Stats(slopes, counts, bank.shape[0], *compute(bank.detach(), y.detach(), list(slopes), most))


def merge_stats(a: Stats, b: Stats) -> Stats:
    """Statistics of two disjoint blocks of a bank together: Chan, Golub & LeVeque 1979 for the variance.

    ValueError if they differ in ``betas``, ``ks`` or the number of vectors.
    """
    if (a.betas, a.ks, a.mean.shape) != (b.betas, b.ks, b.mean.shape):
        raise ValueError(
            f"b: betas, ks and the number of vectors of a, {a.betas}, {a.ks}, {a.mean.shape[0]}, "
            f"got {b.betas}, {b.ks}, {b.mean.shape[0]}"
        )
    count = a.count + b.count
    share_a, share_b = a.count / max(count, 1), b.count / max(count, 1)
    return Stats(
        a.betas,
        a.ks,
        count,
        lse=merge_lse(a.lse, b.lse),
        mean=share_a * a.mean + share_b * b.mean,
        var=share_a * a.var + share_b * b.var + share_a * share_b * (a.mean - b.mean) ** 2,
        top=torch.cat([a.top, b.top]).sort(0, descending=True).values[: a.top.shape[0]],
    )


@in_own_precision
def _forward(bank: Tensor, y: Tensor, betas: list[float], k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return engine_for(y, bank.shape[0], "recompute").stats(bank, y, betas, k)


@custom_op(
    "simtile::pair_stats",
    mutates_args=(),
    schema="(Tensor bank, Tensor y, float[] betas, int k) -> (Tensor lse, Tensor mean, Tensor var, Tensor top)",
)
def _pair_stats(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _forward(*inputs)


@_pair_stats.register_fake
def _(bank: Tensor, y: Tensor, betas: list[float], k: int) -> tuple[Tensor, ...]:
    shapes: list[tuple[Any, ...]] = [(len(betas), y.shape[0]), (y.shape[0],), (y.shape[0],), (k, y.shape[0])]
    return tuple(y.new_empty(shape, dtype=loss_dtype(y)) for shape in shapes)
