"""The tensor side of multiple negatives ranking: one softmax over up to four blocks of in-batch candidates.

    loss_i = log Z_i − s_i        s_i = scale · <q_i, d_i>

Z_i sums e^score over the candidates of query q_i and its document d_i, block by block:

    query_to_doc       <q_i, d_j>  all documents, the hard negatives of all queries among them
    query_to_query     <q_i, q_j>  j ≠ i
    doc_to_query       <d_i, q_j>  all queries: the pair is a candidate a second time
    doc_to_doc         <d_i, d_j>  but for documents of the same query

The pair itself is kept out of every block and added back: with L the log-sum-exp of the rest and m = 1 or 2 its copies,
loss_i = log m + softplus(L_i − s_i − log m). A block's log-sum-exp never stores its scores, and blocks merge.

**Hardness weighting** adds strength · stop_gradient(<q, d>) to the score of a negative (arXiv:2503.04812, eq. 5). Such
a score has the value (scale + strength) · <q, d> and, by q, the derivative scale · d: it is a score of the larger scale
β = scale + strength whose two vectors pass on only scale / β of their gradients. So it stays in the tile engine.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from simtile._normalize import unit
from simtile._pairs import loss_dtype
from simtile.functional import info_nce, merge_lse, pair_lse, pair_nll
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from collections.abc import Sequence


class Options(NamedTuple):
    """The options of ``MultipleNegativesRankingLoss`` that are left once it has its embeddings."""

    scale: float
    normalize: bool
    directions: frozenset[str]
    joint: bool
    """One softmax over all directions, or the mean of one softmax each."""
    hardness_mode: str | None
    hardness_strength: float

    def weighting(self, kinds: int) -> str | None:
        """The hardness mode, None where it changes nothing: with ``kinds`` 1 there are no hard negatives."""
        if self.hardness_strength == 0 or (self.hardness_mode == "hard_negatives" and kinds == 1):
            return None
        return self.hardness_mode

    def is_info_nce(self, kinds: int, alone: bool) -> bool:
        """Whether the loss is that of :func:`info_nce`, one-sided or, for a process that is ``alone``, symmetric."""
        one_sided = len(self.directions) == 1
        return self.weighting(kinds) is None and (one_sided or (alone and not self.joint))


def ranking_loss(queries: Tensor, docs: Sequence[Tensor], size: int, options: Options) -> Tensor:
    """The mean loss of the first ``size`` queries.

    Parameters
    ----------
    queries : Tensor (N, D), N >= size      those of other processes behind this process's own, which alone will do
        unless a direction looks for candidates among the queries
    docs : sequence of Tensor (N, D)      docs[0][i] is the positive of query i, docs[1:][i] are its hard negatives

    Notes
    -----
    query_to_doc alone, or with doc_to_query per direction in one process: the passes of :func:`info_nce`. Otherwise 3u
    for query_to_doc and 4u for every further block; query_to_doc and doc_to_query of one process share one pass.
    """
    mode = options.weighting(len(docs))
    candidates = torch.cat(list(docs)) if len(docs) > 1 else docs[0]
    alone = docs[0].shape[0] == size
    if options.is_info_nce(len(docs), alone):
        return info_nce(
            queries[:size], candidates, temperature=1 / options.scale, symmetric=len(options.directions) == 2,
            normalize=options.normalize,
        )  # fmt: skip
    if options.normalize:
        queries, docs = unit(queries), [unit(part) for part in docs]
        candidates = torch.cat(docs) if len(docs) > 1 else docs[0]

    batch = _Batch(queries[:size], docs[0][:size], queries, candidates, [part[:size] for part in docs[1:]], alone)
    own = row_dot(batch.query, batch.positive) * options.scale
    anchor, private = _anchor_block(batch, mode, options)
    if not options.joint:
        forward = _nll(anchor, own, private)
        if len(options.directions) == 1:
            return forward
        return (forward + _nll(_Block(batch.positive, queries, options.scale, {"skip_diagonal": True}), own, [])) / 2
    return _joint(batch, anchor, own, private, options)


class _Batch(NamedTuple):
    query: Tensor  # (B, D) this process's
    positive: Tensor  # (B, D) their documents
    queries: Tensor  # (N, D) all processes'
    candidates: Tensor  # (N · kinds, D) all documents: positives, then each kind of negatives
    negatives: list[Tensor]  # (B, D) each: this process's hard negatives
    alone: bool
    """There is no other process."""

    def other_queries_documents(self) -> dict[str, Any]:
        """What leaves out the documents of a row's own query."""
        if not self.negatives:
            return {"skip_diagonal": True}
        kinds = 1 + len(self.negatives)
        numbers = torch.arange(self.candidates.shape[0] // kinds, device=self.query.device)
        return {"x_ids": numbers[: self.query.shape[0]], "y_ids": numbers.repeat(kinds)}


class _Block(NamedTuple):
    """Candidates of all rows: scores scale · <x_i, y_j>, but for the pairs that ``mask`` takes out."""

    x: Tensor
    y: Tensor
    scale: float
    mask: dict[str, Any]

    def lse(self) -> Tensor:
        row, _ = pair_lse(self.x, self.y, scale=self.scale, **self.mask)
        assert row is not None
        return row


def _anchor_block(batch: _Batch, mode: str | None, options: Options) -> tuple[_Block, list[Tensor]]:
    """query_to_doc without the pair: the block that the engine sums, and scores (B, K) that are summed beside it."""
    query, candidates, scale = batch.query, batch.candidates, options.scale
    if mode is None:
        return _Block(query, candidates, scale, {"skip_diagonal": True}), []
    private: list[Tensor] = []
    mask: dict[str, Any] = {"skip_diagonal": True}
    if mode != "all_negatives":  # a query's own hard negatives are weighted unlike the others
        mask = batch.other_queries_documents()
        cosines = [row_dot(query, part) for part in batch.negatives]
        if mode == "hard_negatives":
            private = [scale * part + options.hardness_strength * part.detach() for part in cosines]
            return _Block(query, candidates, scale, mask), private
        private = [scale * part for part in cosines]
    harder = scale + options.hardness_strength
    share = scale / harder
    return _Block(_damped(query, share), _damped(candidates, share), harder, mask), private


def _joint(batch: _Batch, anchor: _Block, own: Tensor, private: list[Tensor], options: Options) -> Tensor:
    """One softmax over the blocks of all directions."""
    directions, scale = options.directions, options.scale
    right, constant = own, 0.0
    rest = list(private)
    if "query_to_query" in directions:
        rest.append(_Block(batch.query, batch.queries, scale, {"skip_diagonal": True}).lse())
    if "doc_to_doc" in directions:
        rest.append(_Block(batch.positive, batch.candidates, scale, batch.other_queries_documents()).lse())
    if "doc_to_query" in directions:
        constant = math.log(2)
        right = own + constant
        if batch.alone and anchor.scale == scale:
            # One pass has the queries in its rows and the documents in its first columns.
            row, column = pair_lse(anchor.x, anchor.y, scale=scale, direction="both", **anchor.mask)
            assert row is not None and column is not None
            others = functools.reduce(merge_lse, [row, column[: own.shape[0]], *rest])
            return softplus(others - right).mean() + constant
        rest.append(_Block(batch.positive, batch.queries, scale, {"skip_diagonal": True}).lse())
    return _nll(anchor, right, rest) + constant


def _nll(block: _Block, right: Tensor, rest: list[Tensor]) -> Tensor:
    """Mean of softplus(log-sum-exp of the block and the rest − right), the block's gradients made in the forward pass.

    softplus(logaddexp(L, R) − s) = softplus(L − t) + softplus(R − s) with t = logaddexp(R, s).
    """
    target, beside = right, None
    if rest:
        others = functools.reduce(merge_lse, rest)
        target, beside = merge_lse(others, right), softplus(others - right).mean()
    loss = pair_nll(block.x, block.y, target, link="softplus", scale=block.scale, **block.mask)
    return loss if beside is None else loss + beside


def row_dot(x: Tensor, y: Tensor) -> Tensor:
    """(M,) <x_i, y_i> of two matrices (M, D), in the loss's dtype."""
    dtype = loss_dtype(x)
    return (x.to(dtype) * y.to(dtype)).sum(1)


def _damped(x: Tensor, share: float) -> Tensor:
    """x, bit for bit, that passes ``share`` of its gradient on."""
    return x.detach().lerp(x, share)
