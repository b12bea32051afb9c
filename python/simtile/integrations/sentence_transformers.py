"""Drop-ins for sentence-transformers 6: in-batch losses without the scores of all pairs.

    from simtile.integrations.sentence_transformers import MultipleNegativesRankingLoss
    loss = MultipleNegativesRankingLoss(model)        # or simtile.patch("sentence_transformers"), and on as before

They extend the originals and replace only what follows the embeddings. Gathering among processes is left to
sentence-transformers, so ``gather_across_devices`` has the gradient that it has there. 16-bit embeddings are compared
in float32, as the originals do; those of the ranking losses in autocast's dtype under autocast, as in a product.

Not fused: a ``similarity_fct`` other than ``cos_sim`` and ``dot_score``, with one warning.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simtile._extras import missing_extra

try:
    from sentence_transformers.base.losses.merged_forward import embed_columns
    from sentence_transformers.sentence_transformer import losses as original
    from sentence_transformers.util import (
        all_gather_with_grad,
        batch_to_device,
        cos_sim,
        dot_score,
        get_rank,
        similarity_fct_name,
    )
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile.functional import matryoshka_info_nce
from simtile.integrations._autocast import as_in_a_product
from simtile.integrations._guided import Guided, guided_loss
from simtile.integrations._patch import Patch
from simtile.integrations._ranking import Options, ranking_loss
from simtile.integrations._warn import warn_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "GISTEmbedLoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
]


class MultipleNegativesRankingLoss(original.MultipleNegativesRankingLoss):
    """``MultipleNegativesRankingLoss`` with every direction, partition and hardness mode, in memory O(B·D)."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of [anchors, positives, negatives ...], each (B, D)."""
        if len(embeddings) < 2 or not _fused(self, embeddings):
            dense: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
            return dense
        return _ranking_loss(self, embeddings)


class CachedMultipleNegativesRankingLoss(original.CachedMultipleNegativesRankingLoss):
    """``CachedMultipleNegativesRankingLoss``; ``mini_batch_size`` is that of the encoder alone.

    The loss of the whole batch fits into memory here and needs no mini-batches of its own.
    """

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of each column's mini-batches of embeddings; ``with_backward`` leaves their gradients in them."""
        embeddings = [torch.cat(column) for column in reps]
        if not _fused(self, embeddings):
            dense: Tensor = super().calculate_loss(reps, labels, with_backward=with_backward)
            return dense
        return _with_backward(_ranking_loss(self, embeddings), with_backward)


class GISTEmbedLoss(original.GISTEmbedLoss):
    """``GISTEmbedLoss``: the guide's similarities are compared tile by tile beside the model's."""

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of two or three columns of features: anchors, positives, perhaps negatives."""
        features = list(sentence_features)
        # The guide writes into its features, and MatryoshkaLoss reads the model's again.
        guide_features = [dict(column) for column in features]
        embeddings = embed_columns(self.model, features)
        if len(embeddings) not in (2, 3):
            raise ValueError(f"Expected 2 or 3 embeddings, got {len(embeddings)}")
        with torch.no_grad():
            if self.must_retokenize:
                guide_features = [self._retokenized(column) for column in features]
            guide_embeddings = embed_columns(self.guide, guide_features)
        return _guided_loss(self, embeddings, guide_embeddings)

    def _retokenized(self, features: dict[str, Tensor]) -> Any:
        """Features of the same texts in the guide's tokens."""
        tokens: Any = features["input_ids"]
        if "cu_seq_lens_q" in features:  # one row of all texts, as flash attention takes them
            bounds = features["cu_seq_lens_q"].tolist()
            flat = tokens[0].tolist()
            tokens = [flat[start:end] for start, end in itertools.pairwise(bounds)]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return batch_to_device(self.guide.preprocess(texts), self.guide.device)


class CachedGISTEmbedLoss(original.CachedGISTEmbedLoss):
    """``CachedGISTEmbedLoss``; ``mini_batch_size`` is that of the encoders alone."""

    def calculate_loss(
        self, reps: list[list[Tensor]], reps_guided: list[list[Tensor]], *, with_backward: bool = False
    ) -> Tensor:
        """The loss of each column's mini-batches of embeddings; ``with_backward`` leaves their gradients in them."""
        if len(reps) != len(reps_guided):
            raise ValueError(f"reps_guided: as many columns as reps, {len(reps)}, got {len(reps_guided)}")
        embeddings, guides = ([torch.cat(column) for column in columns] for columns in (reps, reps_guided))
        return _with_backward(_guided_loss(self, embeddings, guides), with_backward)


class MatryoshkaLoss(original.MatryoshkaLoss):
    """``MatryoshkaLoss``; around our :class:`MultipleNegativesRankingLoss` all prefixes cost one sweep over the pairs.

    That is so for ``query_to_doc``, in one process also with ``doc_to_query`` per direction, without hardness
    weighting. Around anything else each prefix is a loss of its own, as in the original.
    """

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Σ_k weights[k] · the loss of the first dims[k] coordinates, each prefix divided by its length."""
        features = list(sentence_features)
        inner: Any = self.loss
        alone = not (type(inner) is MultipleNegativesRankingLoss and inner.gather_across_devices)
        nested = type(inner) is MultipleNegativesRankingLoss and inner.similarity_fct in (cos_sim, dot_score)
        if not nested or len(features) < 2 or not _options(inner).is_info_nce(len(features) - 1, alone):
            each: Tensor = super().forward(features, labels)
            return each
        chosen: Sequence[int] = range(len(self.matryoshka_dims))
        if 0 < self.n_dims_per_step < len(chosen):
            chosen = random.sample(chosen, self.n_dims_per_step)
        queries, docs, size = _compared(inner, embed_columns(inner.model, features))
        return matryoshka_info_nce(
            queries[:size],
            torch.cat(docs),
            [self.matryoshka_dims[index] for index in chosen],
            weights=[self.matryoshka_weights[index] for index in chosen],
            temperature=1 / inner.scale,
            symmetric=len(inner.directions) == 2,
        )


def _fused(loss: Any, embeddings: Sequence[Tensor]) -> bool:
    """Whether the similarity is one that the engine computes."""
    if loss.similarity_fct not in (cos_sim, dot_score):
        warn_once(
            f"simtile: similarity_fct={similarity_fct_name(loss.similarity_fct)} is neither cos_sim nor dot_score, so "
            f"{type(loss).__name__} computes all scores as in sentence-transformers"
        )
        return False
    return all(part.layout == torch.strided for part in embeddings)


def _ranking_loss(loss: Any, embeddings: Sequence[Tensor]) -> Tensor:
    return ranking_loss(*_compared(loss, embeddings), _options(loss))


def _compared(loss: Any, embeddings: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], int]:
    """Queries, documents by kind, and how many of each are this process's; gathered where the options ask for it."""
    autocast = torch.is_autocast_enabled(embeddings[0].device.type)
    queries, *docs = map(as_in_a_product if autocast else _wide, embeddings)
    size = queries.shape[0]
    if loss.gather_across_devices:
        docs = [_gathered(part) for part in docs]
        if not {"query_to_query", "doc_to_query"}.isdisjoint(loss.directions):
            queries = _gathered(queries)
    return queries, docs, size


def _options(loss: Any) -> Options:
    return Options(
        scale=float(loss.scale),
        normalize=loss.similarity_fct is cos_sim,
        directions=frozenset(loss.directions),
        joint=loss.partition_mode == "joint",
        hardness_mode=loss.hardness_mode,
        hardness_strength=float(loss.hardness_strength),
    )


def _guided_loss(loss: Any, embeddings: Sequence[Tensor], guides: Sequence[Tensor]) -> Tensor:
    anchors, *docs = (_wide(part) for part in embeddings)
    guide_anchors, *guide_docs = guides
    if loss.gather_across_devices:
        docs, guide_docs = [_gathered(part) for part in docs], [_gathered(part) for part in guide_docs]
    options = Guided(
        temperature=float(loss.temperature),
        margin_strategy=loss.margin_strategy,
        margin=float(loss.margin),
        contrast_anchors=loss.contrast_anchors,
        contrast_positives=loss.contrast_positives,
    )
    return guided_loss(anchors, docs, guide_anchors, guide_docs, options)


def _wide(embeddings: Tensor) -> Tensor:
    """At least float32."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def _gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, this process's in front: which candidate stands where has no meaning."""
    everyone: Tensor = all_gather_with_grad(rows)
    return everyone.roll(-get_rank() * rows.shape[0], 0)


def _with_backward(loss: Tensor, wanted: bool) -> Tensor:
    if wanted:
        loss.backward()
        return loss.detach()
    return loss


PATCH = Patch(
    packages=("sentence_transformers",),
    classes={
        original.CachedGISTEmbedLoss: CachedGISTEmbedLoss,
        original.CachedMultipleNegativesRankingLoss: CachedMultipleNegativesRankingLoss,
        original.GISTEmbedLoss: GISTEmbedLoss,
        original.MatryoshkaLoss: MatryoshkaLoss,
        original.MultipleNegativesRankingLoss: MultipleNegativesRankingLoss,
    },
)
