"""Supervised contrastive learning: several positives a row, by label or by list.

With N_i the log-sum-exp over a row's negatives and Q_i that over its positives P(i),

    out   mean_p(log(e^N + Σ_q e^{s_q}) - s_p)  =  softplus(N - Q) + (Q - mean_p s_p)
    in    -log(mean_p e^{s_p} / (e^N + e^Q))    =  softplus(N - Q) + log|P|

The first term keeps its relative accuracy as negatives fade, for its coefficient is a sigmoid and never p - 1. The
second, how unequal the positives are, does so where the positives are few enough to be listed: for one positive it is
exactly 0. Where classes are large, "out" is the log-sum-exp over all minus a class mean, and "in" takes one more pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from simtile import targets
from simtile._first_order import apply, first_order
from simtile._losses.batch import Batch, checked_batch
from simtile._losses.margin import check_margin, lowered
from simtile._losses.stored import Stored, listed
from simtile._pair_lists import equal_pairs, listed_scores, segment_lse
from simtile._pairs import (
    Pairs,
    Scale,
    as_csr,
    as_ids,
    check_choice,
    csr_rows,
    traced,
)
from simtile._pool import LOCAL

if TYPE_CHECKING:
    from simtile._pairs import CSR
    from simtile.functional import PlanName, ProcessGroup, Reduction

LISTED_POSITIVES = 16
"""Up to this many positives a row, on average, gathering them is cheaper than a pass over all pairs."""


def sup_con(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    positives: CSR | None = None,
    temperature: Scale = 0.1,
    form: str = "out",
    margin: float = 0.0,
    margin_kind: str = "angular",
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """SupCon: all rows of an anchor's label are its positives, all others its negatives.

    "out", the paper's better form: loss_i = -mean_p log(exp(s_ip) / Σ_{a ≠ i} exp(s_ia)) over the positives p;
    "in": -log(mean_p exp(s_ip) / Σ_{a ≠ i} exp(s_ia)).

    Parameters
    ----------
    embeddings : Tensor (M, D)      anchors; among themselves, each without itself, unless ``keys`` are given
    labels : integer Tensor (M,)
    keys : Tensor (N, D)      what anchors are compared with instead, a memory bank for example
    key_labels : integer Tensor (N,)      their labels
    positives : (indptr (M + 1,), indices (nnz,))      instead of labels: a CSR list of each anchor's positive columns,
        without duplicates and without the anchor itself; everything else is negative
    temperature : float or one-element Tensor      0.1 as in the paper
    form : {"out", "in"}
    margin : float in [0, π)      positives compete with a lowered score, as in :func:`margin_info_nce`; wants unit
        rows. With a class's vectors or an image's captions as ``keys``: ArcFace, or MCIP's multi-caption ArcMargin
    margin_kind : {"angular", "additive"}      cos(θ + margin), ArcFace; or cos θ - margin, CosFace
    normalize : bool      divide all rows by their length: scores are cosines
    weight : Tensor (M,)      multiplies the anchors' losses, a constant without a gradient
    reduction : {"mean", "sum", "none"}      an anchor without positives has loss 0 and does not count in the mean
    plan : {"auto", "dense", "chunked", "recompute", "stash"}      see :func:`explain`
    process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u when reduced, and a gather of the positives while they are at most 16 a row on average. Beyond that "in" takes a
    further 4u; so do both forms on a GPU, where counting would wait for it, unless the positives come as a list. Extra
    memory O(M·D) and 16 MiB. With a margin the positives are always listed. Khosla et al. 2020, arXiv:2004.11362, eq. 2
    and 3; Deng et al. 2019, arXiv:1801.07698; Schall et al. 2024, arXiv:2409.01936.

    Examples
    --------
    >>> sup_con(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), temperature=1.0)
    tensor(0.5514)
    """
    batch = checked_batch(
        embeddings, embeddings if keys is None else keys, temperature, normalize=normalize, weight=weight,
        reduction=reduction, plan=plan, process_group=process_group, names=("embeddings", "keys"), paired=False,
    )  # fmt: skip
    check_choice("form", form, ("out", "in"))
    check_margin(margin, margin_kind)
    if margin and not (normalize and batch.pool is LOCAL):
        raise ValueError("margin: 0 unless rows are normalised and process_group is None")
    own = keys is None
    pairs = None if positives is not None else _labelled(batch, labels, key_labels, own)
    csr = None if positives is None else _checked_list(batch, labels, positives)
    if batch.stored is not None and not margin:
        found = _by_mask(batch.stored, pairs, csr, own)
    elif csr is not None:
        found = _by_list(batch, csr, own, margin, margin_kind)
    else:
        assert pairs is not None and pairs.x_ids is not None and pairs.y_ids is not None
        countable = batch.pool is LOCAL and embeddings.device.type == "cpu" and not traced(embeddings)
        few = None
        if countable or margin:
            most = None if margin else LISTED_POSITIVES
            few = equal_pairs(pairs.x_ids, pairs.y_ids, most=most, off_diagonal=own)
        if few is not None:
            found = _by_list(batch, few, own, margin, margin_kind)._replace(negatives=pairs)
        elif countable and form == "out":  # no weight 1/|P| is near 1 here
            target = _class_target(batch, pairs, own)
            everyone = Pairs(diagonal=pairs.diagonal)
            return _of_some(batch, target.total).nll(batch.query, batch.key, everyone, target.mean, link="lse")
        else:
            found = _by_class(batch, pairs, own)
    rest, lse = found.spread if form == "out" else found.number.clamp_min(1.0).log(), found.lse
    if not found.full:
        batch, none = _of_some(batch, found.number), found.number == 0
        rest, lse = rest.masked_fill(none, 0.0), lse.masked_fill(none, 0.0)
    return batch.all_nll(found.negatives, lse, link="softplus", rest=rest)


def _of_some(batch: Batch, number: Tensor) -> Batch:
    """The batch with weight 0 for rows that have no positives."""
    some = (number > 0).to(number.dtype)
    return batch._replace(weight=some if batch.weight is None else some * batch.weight)


class _Positives(NamedTuple):
    """What a row's positives come to."""

    number: Tensor  # (M,)
    lse: Tensor  # (M,) Q
    spread: Tensor  # (M,) Q - mean_p s_p
    negatives: Pairs
    full: bool = False
    """Known: each row has some."""


def _by_mask(stored: Stored, pairs: Pairs | None, positives: CSR | None, own: bool) -> _Positives:
    if positives is not None:
        pairs = Pairs(indptr=positives[0], indices=positives[1], diagonal="skip" if own else "keep")
        left_out = listed(*positives, *stored.s.shape).logical_not()
    else:
        assert pairs is not None
        mask = stored.left_out(pairs._replace(ids_mode="only"))
        assert mask is not None
        left_out = mask
    lse, spread, number, full = stored.spread(left_out)
    return _Positives(number, lse, spread, pairs, full)


def _by_list(batch: Batch, positives: CSR, own: bool, margin: float, margin_kind: str) -> _Positives:
    indptr, indices = positives
    M = batch.query.shape[0]
    rows = csr_rows(indptr, indices)
    scores = listed_scores(batch.query, batch.key, rows, indices)
    scores = (lowered(scores, margin, margin_kind) if margin else scores) * batch.scale
    count = indptr.diff().to(scores.dtype)
    negatives = Pairs(indptr=indptr, indices=indices, diagonal="skip" if own else "keep")
    share = count.clamp_min(1.0).reciprocal()[rows]
    return _Positives(count, segment_lse(scores, rows, M), apply(_Spread, scores, rows, share, M), negatives)


def _by_class(batch: Batch, pairs: Pairs, own: bool) -> _Positives:
    target = _class_target(batch, pairs, own)
    lse, _, _ = batch.all_lse(pairs._replace(ids_mode="only"))
    spread = lse.masked_fill(target.total == 0, 0.0) - target.mean
    return _Positives(target.total, lse, spread, pairs)


def _class_target(batch: Batch, pairs: Pairs, own: bool) -> targets.Target:
    assert pairs.x_ids is not None and pairs.y_ids is not None
    return targets.same_label(
        batch.query, batch.key, pairs.x_ids, pairs.y_ids, scale=batch.scale, skip_diagonal=own, pool=batch.pool
    )


def _labelled(batch: Batch, labels: Tensor | None, key_labels: Tensor | None, own: bool) -> Pairs:
    """The negatives: all pairs of different labels."""
    query, key = batch.sides.raw
    if labels is None:
        raise ValueError("labels: needed unless positives are given, got None")
    if own != (key_labels is None):
        raise ValueError("key_labels: needed together with keys, and only then")
    x_ids = as_ids("labels", labels, query.shape[0], query)
    y_ids = x_ids if key_labels is None else as_ids("key_labels", key_labels, key.shape[0], query)
    return Pairs(x_ids, y_ids, diagonal="skip" if own else "keep")


def _checked_list(batch: Batch, labels: Tensor | None, positives: CSR) -> CSR:
    if labels is not None:
        raise ValueError("positives: given instead of labels, got both")
    indptr, indices = as_csr(positives, batch.sides.raw[0].shape[0], batch.sides.raw[1].shape[0], batch.sides.raw[0])
    assert indptr is not None and indices is not None
    return indptr, indices


class _Spread(Function):
    """Q - Σ w s of the values (nnz,) of each row with weights that sum to 1; 0 for a row of none.

    Its gradient e^{s - Q} - w is formed before anything else is added to it: for a single value exactly 0.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, weight: Tensor, M: int) -> Tensor:
        lse = segment_lse(values, rows, M)
        ctx.save_for_backward((values - lse[rows]).exp_().sub_(weight), rows)
        return lse.masked_fill(torch.isneginf(lse), 0.0).index_add(0, rows, values * weight, alpha=-1)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        coefficient, rows = ctx.saved_tensors
        return coefficient * grad[rows], None, None, None
