"""What every loss starts from: checked matrices and the way their row losses are computed and reduced."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from simtile._losses.stored import STORED_PAIRS, Stored
from simtile._nll import link_loss, nll
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_scalar, as_vector, check_choice, check_like, check_matrix, traced
from simtile._plan import PLANS, choose
from simtile._pool import LOCAL, Pool, pool_of
from simtile._reductions import REDUCTIONS
from simtile.targets import row_dot


class Sides(NamedTuple):
    """Queries and keys."""

    raw: tuple[Tensor, Tensor]
    query: Tensor  # (M, D), normalised, if asked for
    key: Tensor  # (N, D)


class SidesOfStored:
    """The same, normalised when first asked for: what makes and reads stored scores does so on its own."""

    def __init__(self, query: Tensor, key: Tensor, normalize: bool) -> None:
        self.raw, self.normalize = (query, key), normalize

    @functools.cached_property
    def query(self) -> Tensor:
        """(M, D)."""
        return unit(self.raw[0]) if self.normalize else self.raw[0]

    @functools.cached_property
    def key(self) -> Tensor:
        """(N, D), the same object as the query if that was given for both."""
        if self.raw[1] is self.raw[0]:
            return self.query
        return unit(self.raw[1]) if self.normalize else self.raw[1]


class Batch(NamedTuple):
    """Queries and keys, checked."""

    sides: Sides | SidesOfStored
    scale: Scale
    weight: Tensor | None  # (M,), a constant
    reduction: str
    plan: str
    pool: Pool
    stored: Stored | None = None
    """The scores of query and key, where the batch is small enough to keep them."""

    @property
    def query(self) -> Tensor:
        """(M, D) normalised, if asked for."""
        return self.sides.query

    @property
    def key(self) -> Tensor:
        """(N, D) normalised, if asked for."""
        return self.sides.key

    @property
    def tiles_plan(self) -> str:
        """The plan of terms that cannot make gradients in the forward pass, as "chunked" asks of those that can."""
        return "recompute" if self.plan == "chunked" else self.plan

    @property
    def sinkhorn_plan(self) -> str:
        """The plan of an assignment, which has no gradient that scores could be kept for."""
        return self.plan if self.plan in ("auto", "dense") else "recompute"

    def own(self) -> Tensor:
        """(M,) the score of each query's own key."""
        return self.own_products() * self.scale if self.stored is None else self.stored.own

    def own_products(self) -> Tensor:
        """(M,) the inner product of each query and its own key: its cosine, if rows are normalised."""
        if self.stored is not None:
            return self.stored.own / self.scale
        return row_dot(self.query, self.key[: self.query.shape[0]])

    def all_lse(
        self, pairs: Pairs, *, power: float = 1.0, column: bool = False, positive: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """:meth:`lse` of queries and keys."""
        if self.stored is None:
            return self.lse(self.query, self.key, pairs, power=power, column=column, positive=positive)
        return *self.stored.lse(pairs, power=power, column=column), self.stored.own if positive else None

    def all_nll(self, pairs: Pairs, target: Tensor, *, link: str, rest: Tensor | None = None) -> Tensor:
        """:meth:`nll` of queries and keys; ``rest (M,)`` is added to the rows' losses."""
        if self.stored is not None:
            loss = self.stored.nll(pairs, target, link=link)
            return self.reduced(loss if rest is None else loss + rest)
        total = self.nll(self.query, self.key, pairs, target, link=link)
        return total if rest is None else total + self.reduced(rest)

    def lse(
        self, x: Tensor, y: Tensor, pairs: Pairs, *, power: float = 1.0, column: bool = False, positive: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-sum-exps of the rows and, if asked for, of the columns and own scores: :meth:`Pool.pair_lse`.

        ``power`` multiplies the scores.
        """
        factor = self.scale if power == 1.0 else self.scale * power
        row, columns, own = self.pool.pair_lse(
            x, y, factor, None, None, pairs, row=True, column=column, positive=positive,
            plan=choose(x, y, factor, one_sided=False, plan=self.tiles_plan, stashable=self.pool is LOCAL),
        )  # fmt: skip
        assert row is not None
        return row, columns, own

    def nll(self, x: Tensor, y: Tensor, pairs: Pairs, target: Tensor, *, link: str) -> Tensor:
        """Reduced losses of a term whose gradients can be made in the forward pass: :func:`simtile._nll.nll`."""
        if self.pool is not LOCAL:
            return self.reduced(link_loss(self.lse(x, y, pairs)[0], target, link))
        return nll(
            x, y, self.scale, None, None, pairs, target=target, weight=self.weight, link=link,
            reduction=self.reduction, plan=self.plan,
        )  # fmt: skip

    def reduced(self, loss: Tensor) -> Tensor:
        """The loss of the batch from losses of rows (M,)."""
        return self.pool.reduced(loss, self.weight, self.reduction)


def log_count(pool: Pool, y: Tensor, without: int, like: Tensor) -> Tensor | float:
    """Logarithm of the number of the pool's rows of y less ``without``, at least 1."""
    if pool is LOCAL:
        return math.log(max(y.shape[0] - without, 1))
    _, rows = pool.row_sum(y.detach()[:, :1])
    return (torch.zeros_like(like[:1].sum()) + rows - without).clamp_min(1.0).log().detach()


def checked_batch(
    query: Tensor, key: Tensor, temperature: Scale, *, normalize: bool, weight: Tensor | None, reduction: str,
    plan: str, process_group: object = None, names: tuple[str, str] = ("query", "key"), paired: bool = True,
) -> Batch:  # fmt: skip
    """Check what all losses take. ``paired``: row i of the one belongs to row i of the other, which may have more."""
    check_matrix(names[0], query)
    check_like(names[1], key, names[0], query)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("plan", plan, PLANS)
    M, N = query.shape[0], key.shape[0]
    if paired and N < M:
        raise ValueError(f"{names[1]}: at least as many rows as {names[0]}, {M}, got {N}")
    value = as_scalar("temperature", temperature, query, positive=True)
    scale = value.reciprocal() if isinstance(value, Tensor) else 1.0 / value
    weight = as_vector("weight", weight, M, query)
    pool = pool_of(process_group)
    weight = None if weight is None else weight.detach()
    # A query of weight 0 is padding and may hold anything: where that is promised, it has to be kept out of products.
    small = M * N <= STORED_PAIRS and weight is None and pool is LOCAL and not traced(query)
    if small and plan in ("auto", "dense") and choose(query, key, scale, one_sided=False, plan=plan) == "dense":
        stored = Stored(query, key, scale, normalize)
        return Batch(SidesOfStored(query, key, normalize), scale, weight, reduction, plan, pool, stored)
    raw = query, key
    if normalize:
        query = unit(query)
        key = query if raw[1] is raw[0] else unit(key)
    return Batch(Sides(raw, query, key), scale, weight, reduction, plan, pool)
