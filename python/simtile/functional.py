"""The operations and losses on torch tensors: differentiable, without the (M, N) matrix of scores.

    s[i, j] = scale * <x[i], y[j]> + x_bias[i] + y_bias[j]        x (M, D), y (N, D)

Conventions of every function here:

* float32, bfloat16 and float16 inputs give float32 losses and statistics, gradients summed in float32 and returned in
  the inputs' dtype, under autocast too; float64 inputs are computed in float64.
* Pairs are left out by equal ids (``x_ids``, ``y_ids``: integers, both or neither; ``ids_mode="only"`` keeps these
  alone), by a CSR list ``exclude = (indptr (M + 1,), indices)``, or as ``skip_diagonal``: the pairs (i, i). An empty
  row has log-sum-exp -inf and zero gradient.
* ``threshold`` (M,) leaves out the pairs of row i whose score is above ``threshold[i]``. With ``guide = (guide_x (M,
  G), guide_y (N, G))`` the inner product <guide_x[i], guide_y[j]>, whose tile is computed beside that of the scores,
  is compared instead (Solatorio 2024, GISTEmbed, arXiv:2402.16829). Both are constants without a gradient.
* ``plan`` is "auto", "dense", "chunked", "recompute" or "stash": see :func:`explain`. It changes time and memory, not
  the meaning. A stash is made for rows of about unit norm, and only while a known scale is at most 20.
* No gradient work is done under ``no_grad`` or for inputs without ``requires_grad``; inputs that hold NaN or infinity
  give NaN, never an exception. Results are deterministic. Second derivatives raise a RuntimeError.
* Each operation is also ``torch.ops.simtile.*``, which ``torch.compile(fullgraph=True)`` sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from simtile._extras import missing_extra

try:
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile import _library as _library, _ops
from simtile._in_batch import in_batch_accuracy, in_batch_rank
from simtile._losses.cmim import cmim
from simtile._losses.contrastive_gap import alignment, contrastive_gap_loss, uniformity
from simtile._losses.cwcl import cwcl
from simtile._losses.dcl import dcl
from simtile._losses.distillation import distillation_loss
from simtile._losses.filtered import filtered_info_nce
from simtile._losses.focal import focal_info_nce
from simtile._losses.gated import gate_entropy, gated_info_nce
from simtile._losses.hcl import hcl
from simtile._losses.info_nce import info_nce
from simtile._losses.margin import margin_info_nce
from simtile._losses.margin_mse import margin_mse
from simtile._losses.matryoshka import matryoshka_info_nce
from simtile._losses.matryoshka_2d import matryoshka_2d
from simtile._losses.meta_contrast import margin_regularizer, meta_contrast
from simtile._losses.mixtures import list_mixing, pair_mixing
from simtile._losses.multi_positive import multi_positive_info_nce
from simtile._losses.nt_xent import nt_xent
from simtile._losses.scores import score_info_nce, soft_repa
from simtile._losses.sigmoid_loss import sigmoid_loss
from simtile._losses.sup_con import sup_con
from simtile._nested import check_dims, nested_scores
from simtile._nll import nll
from simtile._pairs import (
    CSR,
    Scale,
    as_vector,
    check_choice,
    checked_pairs,
    transposed,
)
from simtile._plan import PLANS, Plan, choose, explain
from simtile._reduce import pair_reduce
from simtile._reductions import REDUCTIONS
from simtile._self_lse import self_lse
from simtile._stats import Stats, merge_stats, pair_stats
from simtile._topk import TopK, merge_topk, pair_topk
from simtile.kernels.reference_torch import merge_lse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    from simtile.distributed import Ranks

__all__ = [
    "Plan",
    "Stats",
    "TopK",
    "alignment",
    "cmim",
    "contrastive_gap_loss",
    "cwcl",
    "dcl",
    "distillation_loss",
    "explain",
    "filtered_info_nce",
    "focal_info_nce",
    "gate_entropy",
    "gated_info_nce",
    "hcl",
    "in_batch_accuracy",
    "in_batch_rank",
    "info_nce",
    "list_mixing",
    "margin_info_nce",
    "margin_mse",
    "margin_regularizer",
    "matryoshka_2d",
    "matryoshka_info_nce",
    "merge_lse",
    "merge_stats",
    "merge_topk",
    "meta_contrast",
    "multi_positive_info_nce",
    "nested_lse",
    "nt_xent",
    "pair_lse",
    "pair_mixing",
    "pair_nll",
    "pair_reduce",
    "pair_softplus",
    "pair_stats",
    "pair_topk",
    "score_info_nce",
    "self_lse",
    "sigmoid_loss",
    "soft_repa",
    "sup_con",
    "uniformity",
]

Direction: TypeAlias = Literal["row", "column", "both"]
IdsMode: TypeAlias = Literal["exclude", "only"]
Link: TypeAlias = Literal["lse", "softplus"]
PlanName: TypeAlias = Literal["auto", "dense", "chunked", "recompute", "stash"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
ProcessGroup: TypeAlias = "dist.ProcessGroup | DeviceMesh | Ranks | None"


def pair_lse(
    x: Tensor,
    y: Tensor,
    *,
    scale: Scale = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ids_mode: IdsMode = "exclude",
    exclude: CSR | None = None,
    skip_diagonal: bool = False,
    threshold: Tensor | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    direction: Direction = "row",
    plan: PlanName = "auto",
) -> tuple[Tensor | None, Tensor | None]:
    """Row and column log-sum-exp of the scores, both from one pass over the pairs.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)      of the dtype and device of x
    scale : float or one-element Tensor      a tensor gets its gradient
    x_bias, y_bias : Tensor (M,), (N,)      added to the scores; -inf leaves out a row or column; get their gradients
    x_ids, y_ids, ids_mode, exclude, skip_diagonal, threshold, guide      which pairs are left out: see the module
    direction : {"row", "column", "both"}
    plan : {"auto", "dense", "recompute", "stash"}

    Returns
    -------
    (row (M,) or None, column (N,) or None)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument, what was wanted and what came

    Notes
    -----
    Extra memory O(M + N), a workspace of 16 MiB and panels of x and y (:func:`explain`). Online softmax: Milakov &
    Gimelshein 2018, arXiv:1805.02867.

    Examples
    --------
    >>> x = torch.eye(2)
    >>> row, column = pair_lse(x, x)
    >>> row
    tensor([1.3133, 1.3133])
    """
    factor, x_bias, y_bias, pairs = checked_pairs(
        x, y, scale, x_bias, y_bias, x_ids, y_ids, ids_mode, exclude, skip_diagonal, threshold, guide
    )
    check_choice("plan", plan, PLANS)
    check_choice("direction", direction, ("row", "column", "both"))
    row, column, _ = _ops.pair_lse(
        x, y, factor, x_bias, y_bias, pairs,
        row=direction != "column", column=direction != "row", positive=False,
        plan=choose(x, y, factor, one_sided=False, plan=plan),
    )  # fmt: skip
    return row, column


def pair_nll(
    x: Tensor,
    y: Tensor,
    target: Tensor | None,
    *,
    weight: Tensor | None = None,
    link: Link = "lse",
    reduction: Reduction = "mean",
    scale: Scale = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ids_mode: IdsMode = "exclude",
    exclude: CSR | None = None,
    skip_diagonal: bool = False,
    threshold: Tensor | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    direction: Literal["row", "column"] = "row",
    plan: PlanName = "auto",
) -> Tensor:
    """Negative log-likelihood of target scores t against L, each row's log-sum-exp over its kept pairs.

    "lse": loss_i = L_i - t_i, for a target among the kept pairs (or left out on purpose, as in decoupled contrastive
    learning, arXiv:2110.06848). "softplus": loss_i = log(1 + exp(L_i - t_i)), for a target that was left out of L; it
    keeps its relative accuracy when the loss is nearly 0.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    target : Tensor (M,) or None      target scores, with their gradient; further log-sum-exp terms can be merged into
        them with link "softplus". None: the pair's own partner, t_i = s_ii (needs N >= M), which is then left out of L
    weight : Tensor (M,)      multiplies the row losses; a constant without a gradient. A row of weight 0 is padding: it
        may hold anything and adds exactly 0
    link : {"lse", "softplus"}
    reduction : {"mean", "sum", "none"}      Σ w·loss / Σ w, Σ w·loss, or w·loss (M,)
    direction : {"row", "column"}      "column" exchanges x and y: target, weight and the loss are (N,)
    plan : {"auto", "dense", "chunked", "recompute", "stash"}
        "chunked", for a reduced loss, makes the gradients in the forward pass
    scale, x_bias, y_bias, x_ids, y_ids, ids_mode, exclude, skip_diagonal, threshold, guide      as :func:`pair_lse`

    Returns
    -------
    Tensor ()  or (M,)      a row without any kept pair has loss 0

    Raises
    ------
    TypeError, ValueError      naming the argument; among them a plan that the reduction does not allow

    Notes
    -----
    Three passes over the pairs (3u) when reduced, four (4u) otherwise. Extra memory as :func:`pair_lse`, and the
    gradients themselves from the forward pass on.

    Examples
    --------
    >>> x = torch.eye(2)
    >>> pair_nll(x, x, None, link="softplus", scale=10.0)  # InfoNCE
    tensor(4.5399e-05)
    """
    factor, x_bias, y_bias, pairs = checked_pairs(
        x, y, scale, x_bias, y_bias, x_ids, y_ids, ids_mode, exclude, skip_diagonal or target is None, threshold,
        guide,
    )  # fmt: skip
    check_choice("plan", plan, PLANS)
    check_choice("link", link, ("lse", "softplus"))
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("direction", direction, ("row", "column"))
    if direction == "column":
        if threshold is not None:
            raise ValueError("threshold: belongs to the rows of x; for the columns take pair_lse(direction='column')")
        pairs = transposed(pairs, y.shape[0])
        x, y, x_bias, y_bias = y, x, y_bias, x_bias
    M, N = x.shape[0], y.shape[0]
    if target is None and N < M:
        raise ValueError(f"target: None takes each pair's own partner, which {M} rows do not have among {N}")
    target = as_vector("target", target, M, x)
    weight = as_vector("weight", weight, M, x)
    return nll(
        x, y, factor, x_bias, y_bias, pairs, target=target, weight=weight, link=link, reduction=reduction, plan=plan
    )


def pair_softplus(
    x: Tensor,
    y: Tensor,
    *,
    reduction: Reduction = "mean",
    scale: Scale = 1.0,
    x_bias: Tensor | None = None,
    y_bias: Tensor | None = None,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ids_mode: IdsMode = "exclude",
    exclude: CSR | None = None,
    skip_diagonal: bool = False,
    threshold: Tensor | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    plan: PlanName = "auto",
) -> Tensor:
    """Sum of softplus(s_ij) = log(1 + exp(s_ij)) over each row's kept pairs.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    reduction : {"mean", "sum", "none"}      the sum over all pairs divided by M, this sum, or the row sums (M,)
    plan : {"auto", "dense", "chunked", "recompute"}      "chunked" needs a reduced result
    scale, x_bias, y_bias, x_ids, y_ids, ids_mode, exclude, skip_diagonal, threshold, guide      as :func:`pair_lse`

    Returns
    -------
    Tensor () or (M,)      an empty row gives 0

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u when reduced: gradients are made in the forward pass. Extra memory as :func:`pair_nll`. The sum that the sigmoid
    loss is made of: Zhai et al. 2023, arXiv:2303.15343.
    """
    factor, x_bias, y_bias, pairs = checked_pairs(
        x, y, scale, x_bias, y_bias, x_ids, y_ids, ids_mode, exclude, skip_diagonal, threshold, guide
    )
    check_choice("plan", plan, PLANS)
    check_choice("reduction", reduction, REDUCTIONS)
    share = {"none": None, "sum": 1.0, "mean": 1.0 / max(x.shape[0], 1)}[reduction]
    chosen = choose(x, y, factor, one_sided=share is not None, plan=plan, stashable=False)
    return _ops.pair_softplus(x, y, factor, x_bias, y_bias, pairs, factor=share, plan=chosen)


def nested_lse(
    x: Tensor,
    y: Tensor,
    dims: Sequence[int],
    *,
    scale: Scale = 1.0,
    normalize: bool = True,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    ids_mode: IdsMode = "exclude",
    exclude: CSR | None = None,
    skip_diagonal: bool = False,
    direction: Direction = "row",
) -> tuple[Tensor | None, Tensor | None]:
    """:func:`pair_lse` on each prefix of the coordinates (Matryoshka), from one sweep over them.

    Parameters
    ----------
    x : Tensor (M, D)
    y : Tensor (N, D)
    dims : sequence of int      the prefixes' lengths, 1 to D, in any order
    scale : float or one-element Tensor      a tensor gets its gradient
    normalize : bool      divide every prefix by its own length, max(norm, 1e-12); part of the gradient
    x_ids, y_ids, ids_mode, exclude, skip_diagonal      which pairs are left out: see the module
    direction : {"row", "column", "both"}

    Returns
    -------
    (row (K, M) or None, column (K, N) or None)      in the order of ``dims``

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u for all prefixes together. Extra memory O(K·(M + N)), panels of x and y, and on the CPU 16 MiB a prefix. Plain
    torch (float64, other devices) takes one prefix after the other. Kusupati et al. 2022, arXiv:2205.13147.

    Examples
    --------
    >>> nested_lse(torch.eye(2), torch.eye(2), [1, 2])[0]
    tensor([[1.3133, 0.6931],
            [1.3133, 1.3133]])
    """
    factor, _, _, pairs = checked_pairs(
        x, y, scale, None, None, x_ids, y_ids, ids_mode, exclude, skip_diagonal, None, None
    )
    check_choice("direction", direction, ("row", "column", "both"))
    row, column, _ = nested_scores(
        x, y, check_dims(dims, x.shape[1]), factor, pairs, normalize=normalize,
        row=direction != "column", column=direction != "row", own=False,
    )  # fmt: skip
    return row, column
