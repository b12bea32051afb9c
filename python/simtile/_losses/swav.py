"""Sinkhorn assignments that never store the plan, and the losses that predict them from another view.

    plan_ij = exp(s_ij / ε + u_i + v_j)      rows sum to r_i, columns to c_j

A row of the plan that sums to one is the softmax over s_i / ε + v: an inner product with one more coordinate, that of
[x_i / ε, 1] and [y_j, v_j]. So the cross-entropy under it is a log-sum-exp minus an attention's target, R − T, and all
that Sinkhorn has to leave behind is v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from simtile import _ops
from simtile._losses.batch import checked_batch
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_vector, check_choice, check_like, check_matrix, loss_dtype
from simtile._plan import choose
from simtile._sinkhorn import column_potential
from simtile.kernels.reference_torch import logsumexp
from simtile.targets import attended, row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, Reduction

_Potential = Callable[[Tensor], Tensor]


class Potentials(NamedTuple):
    """Log potentials: the plan is ``exp(x @ y.T / epsilon + row[:, None] + column)``."""

    row: Tensor  # (M,)
    column: Tensor  # (N,)


@torch.no_grad()
def sinkhorn(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    row_mass: Tensor | None = None,
    column_mass: Tensor | None = None,
    plan: str = "auto",
) -> Potentials:
    """Log potentials of entropic optimal transport with scores <x_i, y_j>, without the (M, N) plan.

    Rows sum to their mass after any number of iterations, columns in the limit.

    Parameters
    ----------
    x : Tensor (M, D)      for SwAV unit features of samples
    y : Tensor (N, D)      unit prototypes
    epsilon : float      temperature; 0.05 as in SwAV
    iterations : int      each one pass for the columns and one for the rows; 3 as in SwAV
    row_mass : Tensor (M,)      positive; default 1 each, so that a row is a distribution over the columns
    column_mass : Tensor (N,)      positive, with the rows' sum; default all equal
    plan : {"auto", "dense", "recompute"}      see :func:`simtile.functional.explain`

    Returns
    -------
    Potentials (row (M,), column (N,))      float32, or float64 for float64 inputs; zeros where a side is empty

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Logarithms throughout: exp(1 / 0.05) = 4.9e8 overflows float16, and a row of large scores any type. On tiles 2u an
    iteration and O(M + N) memory. No gradient. Cuturi 2013, arXiv:1306.0895; Caron et al. 2020, arXiv:2006.09882.

    Examples
    --------
    >>> x = torch.eye(2)
    >>> row, column = sinkhorn(x, x, epsilon=1.0)
    >>> (x @ x.T + row[:, None] + column).exp()
    tensor([[0.7311, 0.2689],
            [0.2689, 0.7311]])
    """
    check_matrix("x", x)
    check_like("y", y, "x", x)
    check_choice("plan", plan, ("auto", "dense", "recompute"))
    _check_sinkhorn(epsilon, iterations)
    M, N = x.shape[0], y.shape[0]
    row_mass = as_vector("row_mass", row_mass, M, x)
    column_mass = as_vector("column_mass", column_mass, N, x)
    dtype = loss_dtype(x)
    if M == 0 or N == 0:
        return Potentials(x.new_zeros(M, dtype=dtype), x.new_zeros(N, dtype=dtype))
    log_rows = x.new_zeros(M, dtype=dtype) if row_mass is None else row_mass.log()
    total = logsumexp(log_rows, 0)
    log_columns = (total - x.new_tensor(N, dtype=dtype).log()).expand(N) if column_mass is None else column_mass.log()
    to_columns, to_rows = _half_steps(x, y, 1.0 / epsilon, log_rows, log_columns, plan)
    column = column_potential(to_columns, to_rows, x.new_zeros(M, dtype=dtype), iterations)
    return Potentials(to_rows(column), column)


def swav(
    views: Sequence[Tensor],
    prototypes: Tensor,
    *,
    assigning: int = 2,
    queues: Sequence[Tensor] | None = None,
    temperature: Scale = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
) -> Tensor:
    """SwAV's swapped prediction: a view's balanced assignment to prototypes is predicted from each other view.

    loss = mean over assigning views a and other views b of -Σ_j q_aj log softmax_j(<z_b, c_j> / temperature), q_a the
    Sinkhorn assignment of view a, a constant.

    Parameters
    ----------
    views : sequence of Tensor (B, D), at least 2      row i of all are views of item i; SwAV's multi-crop has many
    prototypes : Tensor (K, D)      learnt
    assigning : int      this many views, the first ones, are assigned; 2 in SwAV, the large crops
    queues : sequence of ``assigning`` Tensors (Q, D)      earlier features, which are assigned along with the batch so
        that few rows are spread over many prototypes; normalised rows, constants
    temperature : float or one-element Tensor      0.1 as in SwAV
    epsilon, iterations      see :func:`sinkhorn`; 0.05 and 3 as in SwAV
    normalize : bool      divide all rows, the prototypes too, by their length
    weight : Tensor (B,)      multiplies an item's loss, a constant without a gradient
    reduction : {"mean", "sum", "none"}      over items
    plan : {"auto", "dense", "chunked", "recompute"}      see :func:`simtile.functional.explain`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    With u = 2·B·K·D FLOP: 3u a view, 2u an assigned view, and (2·iterations - 1)·u for its assignment, queue rows
    included. Neither scores nor assignments are stored beyond a chunk. Caron et al. 2020, arXiv:2006.09882.
    """
    queues = _checked_views(views, queues, assigning)
    _check_sinkhorn(epsilon, iterations)
    batch = checked_batch(
        views[0], prototypes, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        names=("views[0]", "prototypes"), paired=False,
    )  # fmt: skip
    rows = [batch.query, *(unit(view) if normalize else view for view in views[1:])]
    codes = [
        attended(
            batch.key,
            *balanced_features(
                x, batch.key, epsilon, iterations, plan=batch.sinkhorn_plan, bank=None if queues is None else queues[a]
            ),
        )
        for a, x in enumerate(rows[:assigning])
    ]
    parts = []
    for v, x in enumerate(rows):
        others = [code for a, code in enumerate(codes) if a != v]
        if others:  # a single assigned view predicts nobody
            target = row_dot(x, torch.stack(others).mean(0)) * batch.scale
            share = len(others) / (assigning * (len(views) - 1))
            parts.append(batch.nll(x, batch.key, Pairs(), target, link="lse") * share)
    return torch.stack(parts).sum(0)


def balanced_features(
    x: Tensor, y: Tensor, epsilon: float, iterations: int, *, plan: str, bank: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(M, D + 1), (N, D + 1) whose inner products have x's Sinkhorn assignment to y as their softmax.

    Constants. ``bank`` is assigned along with x.
    """
    x, y = x.detach(), y.detach()
    full = x if bank is None else torch.cat([bank.detach().to(x.dtype), x])
    column = sinkhorn(full, y, epsilon=epsilon, iterations=iterations, plan=plan).column
    wide = x.to(column.dtype) / epsilon
    return torch.cat([wide, torch.ones_like(wide[:, :1])], 1), torch.cat([y.to(column.dtype), column[:, None]], 1)


def _half_steps(
    x: Tensor, y: Tensor, scale: float, log_rows: Tensor, log_columns: Tensor, plan: str
) -> tuple[_Potential, _Potential]:
    """(u to v, v to u), from stored scores or a pass over the pairs each."""
    chosen = choose(x, y, scale, one_sided=False, plan=plan, stashable=False)
    if chosen == "dense":
        with torch.autocast(x.device.type, enabled=False):
            s = x.to(log_rows.dtype) @ y.to(log_rows.dtype).T * scale
        return (
            lambda u: log_columns - torch.logsumexp(s + u[:, None], 0),
            lambda v: log_rows - torch.logsumexp(s + v, 1),
        )

    def sums(u: Tensor | None, v: Tensor | None) -> Tensor:
        row, column, _ = _ops.pair_lse(
            x, y, scale, u, v, Pairs(), row=u is None, column=v is None, positive=False, plan=chosen
        )
        found = row if u is None else column
        assert found is not None
        return found

    return lambda u: log_columns - sums(u, None), lambda v: log_rows - sums(None, v)


def _check_sinkhorn(epsilon: float, iterations: int) -> None:
    if not epsilon > 0:
        raise ValueError(f"epsilon: above 0, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations: at least 1, got {iterations}")


def _checked_views(views: Sequence[Tensor], queues: Sequence[Tensor] | None, assigning: int) -> Sequence[Tensor] | None:
    if isinstance(views, Tensor) or len(views) < 2:
        raise ValueError("views: a sequence of at least 2 tensors (B, D)")
    check_matrix("views[0]", views[0])
    for i, view in enumerate(views[1:], 1):
        check_like(f"views[{i}]", view, "views[0]", views[0])
        if view.shape[0] != views[0].shape[0]:
            raise ValueError(f"views[{i}]: {views[0].shape[0]} rows, got {view.shape[0]}")
    if not 1 <= assigning <= len(views):
        raise ValueError(f"assigning: from 1 to the number of views, {len(views)}, got {assigning}")
    if queues is None:
        return None
    if len(queues) != assigning:
        raise ValueError(f"queues: one for each of the {assigning} assigning views, got {len(queues)}")
    for i, queue in enumerate(queues):
        check_matrix(f"queues[{i}]", queue)
        if queue.shape[1] != views[0].shape[1]:
            raise ValueError(f"queues[{i}]: {views[0].shape[1]} columns, got {queue.shape[1]}")
    return queues
