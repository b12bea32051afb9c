"""InfoNCE: R − T over the operations of :mod:`simtile.functional`.

The positive pair is kept out of its row's log-sum-exp L and added back: loss = log(1 + exp(L − s⁺)), whose coefficient
sigmoid(L − s⁺) keeps its relative accuracy as the loss goes to 0. Each further set of candidates is one more
log-sum-exp: softplus(logaddexp(L, R) − s⁺) = softplus(L − t) + softplus(R − s⁺) with t = logaddexp(R, s⁺), so that
private negatives ride along as another target of the fused operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from simtile import _dense_info_nce, _ops
from simtile._normalize import unit
from simtile._pairs import (
    Pairs,
    Scale,
    as_ids,
    as_ids_pair,
    as_scalar,
    as_vector,
    check_choice,
    check_like,
    check_matrix,
    traced,
)
from simtile._plan import PLANS, choose
from simtile._pool import LOCAL, Pool, pool_of
from simtile._reductions import REDUCTIONS, reduced, row_weights, without_padding
from simtile.kernels.reference_torch import logsumexp, merge_lse, softplus
from simtile.targets import candidate_mean, row_dot

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


class _Batch(NamedTuple):
    """What InfoNCE works on, checked."""

    query: Tensor  # (M, D)
    key: Tensor  # (N, D)
    scale: Scale
    query_ids: Tensor | None
    key_ids: Tensor | None
    targets: Tensor | None  # (M,)
    negatives: Tensor | None  # (K, D)
    row_negatives: Tensor | None  # (M, K', D)
    smoothing: float
    plan: str

    @property
    def plain(self) -> bool:
        """Nothing but pairs, perhaps with ids."""
        return self.targets is None and self.negatives is None and self.row_negatives is None and self.smoothing == 0

    def normalized(self) -> _Batch:
        """The same with rows of unit length."""
        return self._replace(
            query=unit(self.query),
            key=unit(self.key),
            negatives=None if self.negatives is None else unit(self.negatives),
            row_negatives=None if self.row_negatives is None else unit(self.row_negatives),
        )

    def positive_keys(self) -> Tensor:
        """(M, D) the key of each query's pair."""
        return self.key[: self.query.shape[0]] if self.targets is None else self.key.index_select(0, self.targets)

    def positive_ids(self) -> Tensor | None:
        """(M,) their ids."""
        if self.key_ids is None:
            return None
        return self.key_ids[: self.query.shape[0]] if self.targets is None else self.key_ids[self.targets]


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: Scale = 0.07,
    symmetric: bool = False,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    targets: Tensor | None = None,
    negatives: Tensor | None = None,
    row_negatives: Tensor | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """InfoNCE with in-batch negatives, without the (M, N) logits.

    Also known as NT-Xent, multiple negatives ranking loss, and with ``symmetric`` CLIP's loss. Query i must find its
    key among all keys: loss_i = log(1 + exp(L_i - s_i)), with s_i the score <query, key> / temperature of the pair and
    L_i the log-sum-exp of the scores of all other candidates.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M      rows M..N-1 serve as extra negatives
    temperature : float or one-element Tensor      0.07 as in CLIP; a tensor gets its gradient and is not looked at
    symmetric : bool      the mean of both directions: key i must also find query i among all queries
    normalize : bool      divide all rows by their length: scores are cosines
    query_ids, key_ids : integer Tensor (M,), (N,)      a key with its query's id is a false negative and left out, and
        so is a query in the other direction; the pair itself always stays
    targets : integer Tensor (M,)      query i is paired with ``key[targets[i]]``; then N may be below M
    negatives : Tensor (K, D)      further candidates for every query, a queue for example; they have no ids
    row_negatives : Tensor (M, K', D)      private negatives of each query
    weight : Tensor (M,)      multiplies the pairs' losses, a constant without a gradient. It takes no candidate out.
        One-sided, a query of weight 0 is padding and may hold anything
    label_smoothing : float in [0, 1]      as in ``torch.nn.functional.cross_entropy``, over the kept candidates
    reduction : {"mean", "sum", "none"}      Σ w·loss / Σ w, Σ w·loss, or w·loss (M,)
    plan : {"auto", "dense", "chunked", "recompute", "stash"}      see :func:`explain`
    process_group : ProcessGroup, DeviceMesh or Ranks      the keys of all its ranks are candidates, see
        :mod:`simtile.distributed`; ``negatives`` are then the same on every rank, other options this rank's own

    Returns
    -------
    Tensor ()  or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument: among others if D differs, N < M without targets, temperature <= 0

    Notes
    -----
    3u one-sided (gradients are made in the forward pass), 4u for ``symmetric`` or ``reduction="none"``, u = 2·M·N·D
    FLOP. Extra memory O(M + N) floats, a workspace of 16 MiB and panels of query and key; ``row_negatives`` and
    ``label_smoothing`` add O(M·K'·D) and O((M + N)·D). A queue without a gradient is merged into a symmetric loss,
    otherwise appended to the keys. van den Oord et al. 2018, arXiv:1807.03748, eq. 4; Radford et al. 2021,
    arXiv:2103.00020.

    Examples
    --------
    >>> info_nce(torch.eye(3), torch.eye(3), temperature=0.5)
    tensor(0.2395)
    """
    batch = _checked_batch(
        query, key, temperature, query_ids, key_ids, targets, negatives, row_negatives, weight,
        label_smoothing, plan, symmetric,
    )  # fmt: skip
    check_choice("reduction", reduction, REDUCTIONS)
    pool = pool_of(process_group)
    weight = as_vector("weight", weight, query.shape[0], query)
    weight = weight.detach() if weight is not None else None
    local = pool is LOCAL
    one_sided = local and not symmetric and reduction != "none"
    chosen = choose(query, key, batch.scale, one_sided=one_sided, plan=plan, stashable=local)
    if (
        local
        and chosen == "dense"
        and reduction != "none"
        and batch.plain
        and query.dtype != torch.float16
        and not traced(query)
    ):
        share = None
        if weight is not None or reduction == "sum":
            share = row_weights(query, torch.ones_like(query[:, 0]) if weight is None else weight, reduction)
        ids = None if batch.query_ids is None or batch.key_ids is None else (batch.query_ids, batch.key_ids)
        return _dense_info_nce.info_nce(
            batch.query, key, batch.scale, share, ids, symmetric=symmetric, normalize=normalize
        )
    if normalize:
        batch = batch.normalized()
    if one_sided and chosen in ("dense", "chunked"):
        return _fused(batch, row_weights(query, weight, reduction), chosen)
    return pool.reduced(_by_row(batch, chosen, symmetric, pool), weight, reduction)


def _fused(batch: _Batch, weight: Tensor | None, plan: str) -> Tensor:
    """One-sided and reduced: the gradients are made with the loss."""
    query, scale = batch.query, batch.scale
    key, key_ids = _with_negatives(batch)
    pairs = _other_pairs(batch, key_ids)
    if batch.targets is None and batch.row_negatives is None and batch.smoothing == 0:
        return _ops.pair_nll(
            query, key, scale, None, None, pairs, target=None, weight=weight, link="softplus", plan=plan
        )

    own = row_dot(query, batch.positive_keys()) * scale
    target, rest = None, None
    if batch.row_negatives is not None:
        private = _private_scores(batch)
        lse = logsumexp(private, 1)
        target, rest = merge_lse(lse, own), softplus(lse - own)
    elif batch.targets is not None:
        target = own
    total = _ops.pair_nll(
        query, key, scale, None, None, pairs, target=target, weight=weight, link="softplus", plan=plan
    )
    if batch.smoothing > 0:
        linear = batch.smoothing * (own - _mean_over_keys(batch, own, LOCAL))
        rest = linear if rest is None else rest + linear
    return total if rest is None else total + reduced(rest, weight, "sum")


def _by_row(batch: _Batch, plan: str, symmetric: bool, pool: Pool) -> Tensor:
    """(M,) losses, from log-sum-exps that are computed again for their gradients."""
    query, scale, M = batch.query, batch.scale, batch.query.shape[0]
    # A queue has no term of its own in the other direction: without a gradient, 3u of it merged beat 4u appended. Every
    # rank has the whole queue, so that it never travels.
    merged = batch.negatives is not None and (pool is not LOCAL or (symmetric and not batch.negatives.requires_grad))
    key, key_ids = (batch.key, batch.key_ids) if merged else _with_negatives(batch)
    with_own = batch.targets is None
    row, column, own = pool.pair_lse(
        query, key, scale, None, None, _other_pairs(batch, key_ids),
        row=True, column=symmetric and with_own, positive=with_own, plan=plan,
    )  # fmt: skip
    if batch.targets is not None:
        pairs = Pairs(batch.query_ids, batch.positive_ids(), diagonal="skip")
        _, column, own = pool.pair_lse(
            query, batch.positive_keys(), scale, None, None, pairs,
            row=False, column=symmetric, positive=True, plan=plan,
        )  # fmt: skip
    assert row is not None and own is not None
    if merged and batch.negatives is not None:
        queue, _, _ = _ops.pair_lse(
            query, batch.negatives, scale, None, None, Pairs(), row=True, column=False, positive=False, plan=plan
        )  # fmt: skip
        assert queue is not None
        row = merge_lse(row, queue)
    if batch.row_negatives is not None:
        row = merge_lse(row, logsumexp(_private_scores(batch), 1))
    loss = softplus(row - own)
    if batch.smoothing > 0:
        loss = loss + batch.smoothing * (own - _mean_over_keys(batch, own, pool))
    if not symmetric:
        return loss
    assert column is not None
    loss = loss + softplus(column[:M] - own)
    if batch.smoothing > 0:
        mean = candidate_mean(
            batch.positive_keys(),
            query,
            own,
            scale,
            batch.positive_ids(),
            batch.query_ids,
            batch.query_ids,
            pool,
        )
        loss = loss + batch.smoothing * (own - mean)
    return loss / 2


def _checked_batch(
    query: Tensor, key: Tensor, temperature: Scale, query_ids: Tensor | None, key_ids: Tensor | None,
    targets: Tensor | None, negatives: Tensor | None, row_negatives: Tensor | None, weight: Tensor | None,
    smoothing: float, plan: str, symmetric: bool,
) -> _Batch:  # fmt: skip
    check_matrix("query", query)
    check_like("key", key, "query", query)
    check_choice("plan", plan, PLANS)
    M, N = query.shape[0], key.shape[0]
    if targets is None and N < M:
        raise ValueError(f"key: at least as many rows as query, {M}, unless targets are given; got {N}")
    if targets is not None:
        targets = as_ids("targets", targets, M, query)
    if negatives is not None:
        check_like("negatives", negatives, "query", query)
    if row_negatives is not None:
        if not isinstance(row_negatives, Tensor) or row_negatives.ndim != 3 or row_negatives.shape[0] != M:
            got = tuple(row_negatives.shape) if isinstance(row_negatives, Tensor) else type(row_negatives).__name__
            raise ValueError(f"row_negatives: a Tensor (M, K, D) with M = {M}, got {got}")
        check_like("row_negatives", row_negatives[0] if M else row_negatives.flatten(0, 1), "query", query)
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)):
        raise TypeError(f"label_smoothing: a number from 0 to 1, got {type(smoothing).__name__}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing: a number from 0 to 1, got {smoothing}")
    if not isinstance(symmetric, bool):
        raise TypeError(f"symmetric: True or False, got {type(symmetric).__name__}")
    value = as_scalar("temperature", temperature, query, positive=True)
    scale = value.reciprocal() if isinstance(value, Tensor) else 1.0 / value
    query_ids, key_ids = as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key)
    if weight is not None and not symmetric:
        query = without_padding(query, as_vector("weight", weight, M, query).detach())  # type: ignore[union-attr]
    return _Batch(
        query, key, scale, query_ids, key_ids, targets, negatives, row_negatives, float(smoothing), plan
    )  # fmt: skip


def _with_negatives(batch: _Batch) -> tuple[Tensor, Tensor | None]:
    """Keys and negatives in one matrix, the negatives with an id that no query has."""
    if batch.negatives is None:
        return batch.key, batch.key_ids
    key = torch.cat([batch.key, batch.negatives])
    if batch.query_ids is None or batch.key_ids is None:
        return key, None
    nobody = batch.query_ids.min() - 1 if batch.query_ids.shape[0] else batch.query_ids.new_zeros(())
    return key, torch.cat([batch.key_ids, nobody.expand(batch.negatives.shape[0])])


def _other_pairs(batch: _Batch, key_ids: Tensor | None) -> Pairs:
    """All pairs but each query's own, and those of equal ids."""
    if batch.targets is None:
        return Pairs(batch.query_ids, key_ids, diagonal="skip")
    indptr = torch.arange(batch.query.shape[0] + 1, device=batch.query.device)
    return Pairs(batch.query_ids, key_ids, indptr=indptr, indices=batch.targets)


def _private_scores(batch: _Batch) -> Tensor:
    """(M, K') the scores of each query's private negatives."""
    assert batch.row_negatives is not None
    return row_dot(batch.query.unsqueeze(1), batch.row_negatives) * batch.scale


def _mean_over_keys(batch: _Batch, own: Tensor, pool: Pool) -> Tensor:
    """(M,) mean score of a query's candidates: kept keys, its pair among them, and all negatives."""
    mine = _private_scores(batch) if batch.row_negatives is not None else None
    return candidate_mean(
        batch.query, batch.key, own, batch.scale, batch.query_ids, batch.key_ids, batch.positive_ids(), pool,
        more=batch.negatives, more_scores=mine,
    )  # fmt: skip
