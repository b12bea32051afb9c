"""The tensor side of GISTEmbed: in-batch candidates that a guide model takes for further positives are left out.

    loss_i = log Σ_c e^(s_ic) − s_i        s = cosine / temperature, s_i that of anchor i and its positive
    c stays if  g_ic <= g_i − margin       g = cosine of the guide's embeddings ("relative": margin · |g_i|)

Candidates of anchor a_i and positive p_i: a_i with all positives (its own always stays), a_i with all anchors, p_i with
all positives, a_i with all hard negatives. All candidates of a_i are one block of pairs, those of p_i another; the
guide's cosines are compared in the tile that the score is made in. Solatorio 2024, arXiv:2402.16829.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from simtile._normalize import unit
from simtile.functional import merge_lse, pair_lse, pair_nll
from simtile.integrations._ranking import row_dot
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from collections.abc import Sequence

TIE_ULPS = 4
"""Guide cosines that differ by less are equal: a copy of the positive is exactly as similar and stays, as in the
original, which adds up every pair's products in one order. A tile's cosine is off by up to 3 ulp of 1."""


class Guided(NamedTuple):
    """The options of ``GISTEmbedLoss`` that are left once it has its embeddings."""

    temperature: float
    margin_strategy: str
    margin: float
    contrast_anchors: bool
    contrast_positives: bool


def guided_loss(
    anchors: Tensor, docs: Sequence[Tensor], guide_anchors: Tensor, guide_docs: Sequence[Tensor], options: Guided
) -> Tensor:
    """The mean loss of this process's anchors.

    Parameters
    ----------
    anchors : Tensor (B, D)
    docs : sequence of Tensor (N, D), N >= B      docs[0][i] is the positive of anchor i; docs[1:] are hard negatives.
        Rows of other processes stand behind this process's own
    guide_anchors, guide_docs      the guide's embeddings of the same texts, constants

    Notes
    -----
    3u for the candidates of the anchors, 4u for those of the positives, and half as much again for the guide's tiles.
    """
    size, scale = anchors.shape[0], 1 / options.temperature
    anchors, docs = unit(anchors), [unit(part) for part in docs]
    guide_anchors, guide_docs = _constant(guide_anchors), [_constant(part) for part in guide_docs]
    positives, guide_positives = docs[0], guide_docs[0]

    similar = row_dot(guide_anchors.double(), guide_positives[:size].double())
    margin = options.margin * similar.abs() if options.margin_strategy == "relative" else options.margin
    threshold = similar - margin + TIE_ULPS * torch.finfo(guide_anchors.dtype).eps

    own = row_dot(anchors, positives[:size]) * scale
    target, beside = own, None
    if options.contrast_positives:
        others, _ = pair_lse(
            positives[:size], positives, scale=scale, threshold=threshold,
            guide=(guide_positives[:size], guide_positives),
        )  # fmt: skip
        assert others is not None
        target, beside = merge_lse(others, own), softplus(others - own).mean()
    candidates, guide_candidates = list(docs), list(guide_docs)
    if options.contrast_anchors:
        candidates.append(anchors)
        guide_candidates.append(guide_anchors)
    loss = pair_nll(
        anchors, torch.cat(candidates), target, link="softplus", scale=scale, skip_diagonal=True, threshold=threshold,
        guide=(guide_anchors, torch.cat(guide_candidates)),
    )  # fmt: skip
    return loss if beside is None else loss + beside


def _constant(guide: Tensor) -> Tensor:
    """Unit rows in at least float32: a threshold on 16-bit cosines would be a coarse one."""
    return unit(guide.detach().to(torch.promote_types(guide.dtype, torch.float32)))
