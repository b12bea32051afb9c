"""Drop-ins for pytorch-metric-learning 2.9: ``NTXentLoss`` and ``SupConLoss`` without the scores of all pairs.

    from simtile.integrations.metric_learning import NTXentLoss        or        simtile.patch("metric_learning")

They extend the originals and replace only ``compute_loss``: miners, reducers, regularizers, statistics, references,
``CrossBatchMemory`` and ``DistributedLossWrapper`` go on as before. With labels alone the pairs need no list: negatives
are all others of another label, which the tile engine sums, and positives come class by class. An ``indices_tuple`` is
the list of pairs that it is, at a memory of its length. Losses of 16-bit embeddings are float32.

The original ``NTXentLoss`` adds the smallest normal number to a probability before its logarithm, which caps a pair's
loss (at 87.3 in float32) and takes its gradient; here it keeps both.

Not fused: distances other than ``CosineSimilarity`` and ``DotProductSimilarity``, with one warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from simtile._extras import missing_extra

try:
    from pytorch_metric_learning import losses as original
    from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
    from pytorch_metric_learning.reducers import MeanReducer
    from pytorch_metric_learning.utils import common_functions
    from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._pair_lists import increasing, listed_lse, listed_scores, segment_lse
from simtile.functional import merge_lse, pair_lse, pair_softplus
from simtile.integrations._autocast import as_in_a_product
from simtile.integrations._patch import Patch
from simtile.integrations._warn import warn_once
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NTXentLoss", "SupConLoss"]

LISTED_PAIRS = 1 << 19
"""Above so many positive pairs of labels, about 16 MiB of lists, a mean over them is taken without listing them."""

_LossDict = dict[str, dict[str, Any]]


class _OverPairs:
    """``compute_loss`` of both losses: what they share is which pairs there are and where the result is zero."""

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> _LossDict:
        """The losses that the reducer gets, with what they are losses of."""
        loss: Any = self
        if not _fused(loss):
            dense: _LossDict = super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)  # type: ignore[misc]
            return dense
        common_functions.labels_or_indices_tuple_required(labels, indices_tuple)
        classes = None if labels is None or ref_labels is None else _Classes.of(labels, ref_labels)
        pairs: _Classes | _Listed | None = classes
        if pairs is None or indices_tuple is not None:
            a1, p, a2, n = convert_to_pairs(indices_tuple, labels, ref_labels)
            pairs = _Listed(a1, p, a2, n, classes)
        positives, negatives = pairs.counts()
        if min(positives, negatives) == 0 or max(positives, negatives) <= 1:
            zero: _LossDict = loss.zero_losses()
            return zero
        x, y = _compared(loss.distance, embeddings, ref_emb)
        return {"loss": self._losses(x, y, 1 / loss.temperature, pairs)}

    def _losses(self, x: Tensor, y: Tensor, scale: float, pairs: _Classes | _Listed) -> dict[str, Any]:
        raise NotImplementedError


class NTXentLoss(_OverPairs, original.NTXentLoss):
    """``NTXentLoss``: softplus(log-sum-exp of the anchor's negatives − s_ap) for each positive pair (a, p)."""

    def _losses(self, x: Tensor, y: Tensor, scale: float, pairs: _Classes | _Listed) -> dict[str, Any]:
        if isinstance(pairs, _Listed):
            negative = pairs.negative_lse(x, y, scale)
            anchors, positives = pairs.a1, pairs.p
        else:
            negative = pairs.negative_lse(x, y, scale)
            count, _ = pairs.counts()
            if count > LISTED_PAIRS and type(self.reducer) is MeanReducer and not self.reducer.collect_stats:
                total = pair_softplus(
                    x, y, scale=-scale, x_bias=negative, x_ids=pairs.x_ids, y_ids=pairs.y_ids, ids_mode="only",
                    skip_diagonal=pairs.itself, reduction="sum",
                )  # fmt: skip
                return {"losses": total / count, "indices": None, "reduction_type": "already_reduced"}
            anchors, positives = pairs.positive_pairs()
        losses = softplus(negative[anchors] - scale * listed_scores(x, y, anchors, positives))
        return {"losses": losses, "indices": (anchors, positives), "reduction_type": "pos_pair"}


class SupConLoss(_OverPairs, original.SupConLoss):
    """``SupConLoss``: log-sum-exp of an anchor's pairs − mean score of its positives, 0 where there are none.

    The mean is linear in the scores, so with labels alone it takes one sum of rows per class.
    """

    def _losses(self, x: Tensor, y: Tensor, scale: float, pairs: _Classes | _Listed) -> dict[str, Any]:
        if isinstance(pairs, _Listed):
            lse, sums, positives = pairs.once(y.shape[0]).anchor_terms(x, y, scale)
        else:
            row, _ = pair_lse(x, y, scale=scale, skip_diagonal=pairs.itself)
            assert row is not None
            others = pairs.sums(y.to(row.dtype))
            if pairs.itself:
                others = others - y.to(row.dtype)
            lse, sums, positives = row, scale * (x.to(row.dtype) * others).sum(1), pairs.positives
        has = positives > 0
        losses = torch.where(has, lse.masked_fill(~has, 0.0) - sums / positives.clamp_min(1), 0.0)
        anchors = torch.arange(x.shape[0], device=x.device)
        return {"losses": losses, "indices": anchors, "reduction_type": "element"}


class _Listed(NamedTuple):
    """Pairs as an ``indices_tuple`` lists them; what is listed twice counts twice."""

    a1: Tensor  # (P,) anchors
    p: Tensor  # (P,) their positives
    a2: Tensor  # (Q,) anchors
    n: Tensor  # (Q,) their negatives
    classes: _Classes | None
    """What the labels say, where there are any."""

    def counts(self) -> tuple[int, int]:
        """How many positive and negative pairs there are."""
        return len(self.a1), len(self.a2)

    def negative_lse(self, x: Tensor, y: Tensor, scale: float) -> Tensor:
        """(M,) log-sum-exp of an anchor's negatives."""
        if self.classes is not None and self.classes.negatives_are(self.a2, self.n):
            return self.classes.negative_lse(x, y, scale)
        return listed_lse(x, y, scale, self.a2, self.n)

    def once(self, N: int) -> _Listed:
        """Each pair once, in order, as in a mask."""
        positive, a1, p = _distinct(self.a1, self.p, N)
        negative, a2, n = _distinct(self.a2, self.n, N)
        places = torch.searchsorted(negative, positive).clamp_max(len(negative) - 1)
        assert not (negative[places] == positive).any(), "Each pair should be either be positive or negative"
        return _Listed(a1, p, a2, n, self.classes)

    def anchor_terms(self, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """(M,) log-sum-exp of an anchor's pairs, sum of its positives' scores, number of its positives."""
        M = x.shape[0]
        scores = scale * listed_scores(x, y, self.a1, self.p)
        lse = merge_lse(self.negative_lse(x, y, scale), segment_lse(scores, self.a1, M))
        return lse, scores.new_zeros(M).index_add(0, self.a1, scores), torch.bincount(self.a1, minlength=M)


class _Classes(NamedTuple):
    """What labels say about the pairs of anchors (M,) and references (N,)."""

    x_ids: Tensor  # (M,)
    y_ids: Tensor  # (N,)
    itself: bool
    """The references are the anchors, and none is its own positive."""
    order: Tensor  # (N,) references sorted by label
    first: Tensor  # (M,) where an anchor's label begins in this order
    same: Tensor  # (M,) how many references have an anchor's label

    @classmethod
    def of(cls, labels: Tensor, ref_labels: Tensor) -> Self:
        """Labels of any dtype; that the references are the anchors is told by the same object, as in the library."""
        x_ids, y_ids = _as_integers(labels, ref_labels)
        ordered, order = torch.sort(y_ids, stable=True)
        first = torch.searchsorted(ordered, x_ids)
        same = torch.searchsorted(ordered, x_ids, right=True) - first
        return cls(x_ids, y_ids, ref_labels is labels, order, first, same)

    @property
    def positives(self) -> Tensor:
        """(M,) how many positives an anchor has."""
        return self.same - 1 if self.itself else self.same

    def counts(self) -> tuple[int, int]:
        """How many positive and negative pairs there are."""
        same = int(self.same.sum())
        M, N = self.x_ids.shape[0], self.y_ids.shape[0]
        return same - M if self.itself else same, M * N - same

    def negative_lse(self, x: Tensor, y: Tensor, scale: float) -> Tensor:
        """(M,) log-sum-exp of an anchor's negatives."""
        row, _ = pair_lse(x, y, scale=scale, x_ids=self.x_ids, y_ids=self.y_ids)
        assert row is not None
        return row

    def negatives_are(self, anchors: Tensor, others: Tensor) -> bool:
        """Whether a list is that of all negatives, as ``CrossBatchMemory`` makes it without a miner."""
        if len(anchors) != self.counts()[1] or bool((self.x_ids[anchors] == self.y_ids[others]).any()):
            return False
        return increasing(anchors * self.y_ids.shape[0] + others, strictly=True)

    def positive_pairs(self) -> tuple[Tensor, Tensor]:
        """(P,) anchors and (P,) their positives, ordered by both."""
        anchors = torch.repeat_interleave(self.same)
        before = self.same.cumsum(0) - self.same
        place = torch.arange(anchors.shape[0], device=anchors.device) - before[anchors]
        others = self.order[self.first[anchors] + place]
        if self.itself:
            kept = anchors != others
            anchors, others = anchors[kept], others[kept]
        return anchors, others

    def sums(self, y: Tensor) -> Tensor:
        """(M, D) sum of the references (N, D) with an anchor's label."""
        ordered = self.y_ids[self.order]
        sums = torch.zeros_like(y).index_add(0, torch.searchsorted(ordered, self.y_ids), y)
        return sums[self.first.clamp_max(y.shape[0] - 1)] * (self.same > 0).to(y.dtype)[:, None]


def _fused(loss: Any) -> bool:
    """Whether the distance is an inner product; a subclass may compute anything."""
    distance = loss.distance
    if type(distance) in (CosineSimilarity, DotProductSimilarity) and distance.power == 1:
        return True
    warn_once(
        f"distance: {type(distance).__name__} (power {getattr(distance, 'power', 1)}) is no inner product known to "
        f"simtile, {type(loss).__name__} computes it as pytorch-metric-learning does, with all distances in memory",
    )
    return False


def _compared(distance: Any, embeddings: Tensor, ref_emb: Tensor) -> tuple[Tensor, Tensor]:
    """What the distance multiplies; its statistics are collected as in its own ``forward``."""
    distance.reset_stats()
    distance.check_shapes(embeddings, ref_emb)
    x: Tensor = distance.maybe_normalize(embeddings)
    y: Tensor = x if ref_emb is embeddings else distance.maybe_normalize(ref_emb)
    distance.set_default_stats(embeddings, ref_emb, x, y)
    return as_in_a_product(x), as_in_a_product(y)


def _as_integers(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as int64 that are equal where they are."""
    if not (labels.is_floating_point() or ref_labels.is_floating_point()):
        return labels.long(), ref_labels.long()
    both = torch.unique(torch.cat([labels, ref_labels]), return_inverse=True)[1]
    return both[: labels.shape[0]], both[labels.shape[0] :]


def _distinct(rows: Tensor, columns: Tensor, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair once: as numbers in order, their rows and their columns."""
    numbers = rows * N + columns
    if increasing(numbers, strictly=True):  # as from torch.where
        return numbers, rows, columns
    numbers = torch.unique(numbers)
    return numbers, numbers // N, numbers % N


PATCH = Patch(
    packages=("pytorch_metric_learning",),
    classes={original.NTXentLoss: NTXentLoss, original.SupConLoss: SupConLoss},
)
