"""Row log-sum-exps of a matrix against itself (SimCLR, SupCon), from half of its pairs.

    s[i, j] = scale * <z[i], z[j]> = s[j, i]        row[i] = log Σ_(j != i) exp(s[i, j])

A pair of rows is computed once and counts for both, forward and backward: 2u where two different matrices take 4u.
Tiles do so in Rust and in Triton; stored scores and plain torch compute the whole.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from simtile import _ops
from simtile._first_order import apply, first_order
from simtile._ops import in_own_precision
from simtile._pairs import (
    Gradients,
    Pairs,
    Scale,
    Want,
    as_ids,
    as_scalar,
    check_choice,
    check_matrix,
    traced,
)
from simtile._plan import choose, engine_for


def self_lse(
    z: Tensor, *, scale: Scale = 1.0, ids: Tensor | None = None, ids_mode: str = "exclude", plan: str = "auto"
) -> Tensor:
    """Log-sum-exp of each row's scores against all other rows, from one half of the matrix of scores.

    ``pair_lse(z, z, x_ids=ids, y_ids=ids, skip_diagonal=True)`` at half its work.

    Parameters
    ----------
    z : Tensor (M, D)
    scale : float or one-element Tensor      a tensor gets its gradient
    ids : integer Tensor (M,)      pairs of equal ids are left out, or with ``ids_mode="only"`` the only ones kept
    ids_mode : {"exclude", "only"}
    plan : {"auto", "dense", "recompute"}

    Returns
    -------
    Tensor (M,)      float32, or float64 for float64 inputs; -inf, with zero gradient, where no other row is left

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    2u on tiles, u = 2·M·M·D FLOP. Extra memory as :func:`pair_lse`. What NT-Xent (Chen et al. 2020, arXiv:2002.05709)
    and SupCon (Khosla et al. 2020, arXiv:2004.11362) take of every view.

    Examples
    --------
    >>> self_lse(torch.eye(3))
    tensor([0.6931, 0.6931, 0.6931])
    """
    check_matrix("z", z)
    check_choice("plan", plan, ("auto", "dense", "recompute"))
    check_choice("ids_mode", ids_mode, ("exclude", "only"))
    if ids is not None:
        ids = as_ids("ids", ids, z.shape[0], z)
    elif ids_mode == "only":
        raise ValueError("ids_mode: 'only' needs ids, got None")
    factor = as_scalar("scale", scale, z)
    chosen = choose(z, z, factor, one_sided=False, plan=plan)
    pairs = Pairs(ids, ids, ids_mode, diagonal="skip")
    if chosen == "dense" or traced(z) or not hasattr(engine_for(z, z.shape[0], chosen), "self_lse"):
        plan = "recompute" if chosen == "stash" else chosen
        row, _, _ = _ops.pair_lse(z, z, factor, None, None, pairs, row=True, column=False, positive=False, plan=plan)
        assert row is not None
        return row
    found: Tensor = apply(_SelfLSE, z, factor, pairs)
    return found


class _SelfLSE(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Scale, pairs: Pairs) -> Tensor:
        engine: Any = engine_for(z, z.shape[0], "recompute")
        row: Tensor = in_own_precision(engine.self_lse)(z, scale, pairs)
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.pairs = pairs
        ctx.save_for_backward(z, scale if isinstance(scale, Tensor) else None, row)
        return row

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, row = ctx.saved_tensors
        factor = ctx.scale if scale is None else scale
        engine: Any = engine_for(z, z.shape[0], "recompute")
        want = Want(x=ctx.needs_input_grad[0], scale=ctx.needs_input_grad[1])
        found: Gradients = in_own_precision(engine.self_grad)(z, factor, ctx.pairs, row, grad, want)
        dz = None if found.x is None else found.x.to(z.dtype)
        return dz, None if found.scale is None or scale is None else found.scale.to(scale.dtype), None
