"""NT-Xent of SimCLR: InfoNCE of 2B views among themselves, each without itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import Batch, checked_batch
from simtile._losses.info_nce import info_nce
from simtile._losses.stored import StoredViews
from simtile._pairs import Pairs, Scale, as_ids, as_vector, check_choice, check_like, check_matrix, traced
from simtile._plan import choose
from simtile._pool import LOCAL, Pool, pool_of
from simtile._reductions import REDUCTIONS
from simtile._self_lse import self_lse
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


FEW_ITEMS = 32
"""Below, the fewer torch calls of InfoNCE's stored scores are faster than a product of the views with themselves."""


class Views:
    """Two views (B, D) of each item, stacked so that row i of ``x`` is paired with row i of ``y`` (2B, D).

    ``x`` = [a; b] and ``y`` = [b; a] hold the same rows. Equal ids mark the pairs that are no negatives: each view with
    itself and, through ``labels (B,)``, all views of items with the same label.
    """

    def __init__(self, view_a: Tensor, view_b: Tensor, labels: Tensor | None, pool: Pool) -> None:
        check_matrix("view_a", view_a)
        check_like("view_b", view_b, "view_a", view_a)
        B = view_a.shape[0]
        if view_b.shape[0] != B:
            raise ValueError(f"view_b: as many rows as view_a, {B}, got {view_b.shape[0]}")
        self.x, self.y = torch.cat([view_a, view_b]), torch.cat([view_b, view_a])
        if labels is None:
            self.x_ids = pool.new_ids(2 * B, view_a)
            self.y_ids = self.x_ids.roll(B)
        else:
            ids = as_ids("labels", labels, B, view_a)
            self.x_ids = self.y_ids = torch.cat([ids, ids])

    def batch(
        self, temperature: Scale, *, normalize: bool, weight: Tensor | None, reduction: str, plan: str,
        process_group: object = None,
    ) -> Batch:  # fmt: skip
        """All views, each paired with the other of its item."""
        batch = checked_batch(
            self.x, self.y, temperature, normalize=normalize, weight=self.weight(weight), reduction=reduction,
            plan=plan, process_group=process_group,
        )  # fmt: skip
        if batch.stored is None:
            return batch
        return batch._replace(stored=StoredViews(self.x, batch.scale, normalize))

    def weight(self, weight: Tensor | None) -> Tensor | None:
        """(2B,) an item's weight for both its views."""
        weight = as_vector("weight", weight, self.x.shape[0] // 2, self.x)
        return None if weight is None else torch.cat([weight, weight])

    def reduced(self, loss: Tensor, reduction: str) -> Tensor:
        """From what a loss of 2B rows returned: an item's loss is the mean, a sum counts each item once."""
        if reduction == "none":
            return loss.view(2, -1).mean(0)
        return loss / 2 if reduction == "sum" else loss


def nt_xent(
    view_a: Tensor,
    view_b: Tensor,
    *,
    temperature: Scale = 0.1,
    normalize: bool = True,
    labels: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """NT-Xent, the loss of SimCLR: each of the 2B views must find its partner among the 2B - 1 others.

    loss(i) = -log(exp(s_i,p(i)) / Σ_{k ≠ i} exp(s_ik)), s the scores <z_i, z_k> / temperature of all views z.

    Parameters
    ----------
    view_a, view_b : Tensor (B, D)      row i of both are views of item i
    temperature : float or one-element Tensor      0.1 as in the paper's ImageNet runs; a tensor gets its gradient
    normalize : bool      divide all rows by their length: scores are cosines
    labels : integer Tensor (B,)      items of one (pseudo-)label are no negatives of each other, as in G-SimCLR;
        they do not become positives: for that see :func:`sup_con`
    weight : Tensor (B,)      multiplies an item's loss, a constant without a gradient
    reduction : {"mean", "sum", "none"}      over items, each the mean of its two views: Σ w·loss / Σ w, Σ w·loss, (B,)
    plan : {"auto", "dense", "chunked", "recompute", "stash"}      see :func:`explain`
    process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (B,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    2u of 2·(2B)²·D FLOP on the CPU, where each pair of views is computed once (:func:`self_lse`); on a GPU, over a
    process group or with another plan as :func:`info_nce` of 2B queries, 3u when reduced. Memory O(B·D). Chen et al.
    2020, arXiv:2002.05709, eq. 1; G-SimCLR: Chakraborty et al. 2020, arXiv:2009.12007.

    Examples
    --------
    >>> nt_xent(torch.eye(3), torch.eye(3), temperature=0.5)
    tensor(0.4327)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    pool = pool_of(process_group)
    views = Views(view_a, view_b, labels, pool)
    how = {"temperature": temperature, "normalize": normalize, "reduction": reduction, "plan": plan}
    here = pool is LOCAL and view_a.device.type == "cpu" and not traced(view_a)
    if here and view_a.shape[0] >= FEW_ITEMS and plan in ("auto", "dense", "recompute"):
        batch = views.batch(weight=weight, **how)  # type: ignore[arg-type]
        if batch.stored is not None and labels is None:
            pairs = Pairs(views.x_ids, views.y_ids, diagonal="skip")
            return views.reduced(batch.all_nll(pairs, batch.own(), link="softplus"), reduction)
        if plan != "dense" and choose(views.x, views.x, 1.0, one_sided=False, plan=plan) != "dense":
            return views.reduced(batch.reduced(_against_itself(batch, labels)), reduction)
    loss = info_nce(
        views.x, views.y, query_ids=views.x_ids, key_ids=views.y_ids, weight=views.weight(weight),
        process_group=process_group, **how,  # type: ignore[arg-type]
    )  # fmt: skip
    return views.reduced(loss, reduction)


def _against_itself(batch: Batch, labels: Tensor | None) -> Tensor:
    """(2B,) losses of the views, from half of their pairs: both views of an item leave out the same ones."""
    B = batch.query.shape[0] // 2
    items = torch.arange(B, device=batch.query.device) if labels is None else labels
    others = self_lse(batch.query, scale=batch.scale, ids=torch.cat([items, items]), plan="recompute")
    return softplus(others - batch.own())
