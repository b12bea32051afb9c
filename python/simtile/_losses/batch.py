"""What every loss starts from: checked matrices and the way their row losses are computed and reduced."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from simtile._nll import link_loss, nll
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_scalar, as_vector, check_choice, check_like, check_matrix
from simtile._plan import PLANS, choose
from simtile._pool import LOCAL, Pool, pool_of
from simtile._reductions import REDUCTIONS


class Batch(NamedTuple):
    """Queries and keys, checked and, if asked for, normalised."""

    query: Tensor  # (M, D)
    key: Tensor  # (N, D)
    scale: Scale
    weight: Tensor | None  # (M,), a constant
    reduction: str
    plan: str
    pool: Pool

    @property
    def tiles_plan(self) -> str:
        """The plan of terms that cannot make gradients in the forward pass, as "chunked" asks of those that can."""
        return "recompute" if self.plan == "chunked" else self.plan

    @property
    def sinkhorn_plan(self) -> str:
        """The plan of an assignment, which has no gradient that scores could be kept for."""
        return self.plan if self.plan in ("auto", "dense") else "recompute"

    def lse(
        self, x: Tensor, y: Tensor, pairs: Pairs, *, scale: Scale | None = None, column: bool = False,
        positive: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """Log-sum-exps of the rows and, if asked for, of the columns and own scores: :meth:`Pool.pair_lse`."""
        factor = self.scale if scale is None else scale
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
    if normalize:
        same = key is query
        query = unit(query)
        key = query if same else unit(key)
    return Batch(
        query, key, scale, None if weight is None else weight.detach(), reduction, plan, pool_of(process_group)
    )
