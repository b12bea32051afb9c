"""Test-time augmentation: which views of an item to trust, and how sure they are together.

    H(s) = log Σ_k e^{s_k} - Σ_k p_k s_k,  p = softmax(s)        the entropy of a view's prediction
    kept: of the views nearest to the original, those with the least H
    marginal = H(log mean_v p_v)        what test-time prompt tuning minimises

Feng et al. 2023, DiffTPT, arXiv:2308.06038, after Shu et al. 2022, TPT, arXiv:2209.07511. As in the authors' code views
are compared with the original by the cosine of logits; the nearest 0.8 of them and the original stay, and of these the
0.3 with the least entropy.
"""

from __future__ import annotations

import math

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

__all__ = ["entropy", "marginal_entropy", "select_views"]


def entropy(logits: Tensor) -> Tensor:
    """Entropy (…) in nats of softmax(logits (…, K)): log-sum-exp minus the mean logit under the softmax.

    Examples
    --------
    >>> entropy(torch.zeros(4))
    tensor(1.3863)
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    p = shifted.softmax(-1)
    return shifted.logsumexp(-1) - (p * shifted.masked_fill(p == 0, 0.0)).sum(-1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction of views (…, V, K), (…); its gradient reaches the logits."""
    if logits.ndim < 2:
        raise ValueError(f"logits: shape (…, V, K), got {tuple(logits.shape)}")
    return entropy(logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2]))


def select_views(logits: Tensor, *, similar: float = 0.8, confident: float = 0.3) -> Tensor:
    """The numbers of the views to keep, the surest first.

    Parameters
    ----------
    logits : Tensor (V, K)      of one item's views; view 0 is the original
    similar : float in [0, 1]      share of the other views that stay for being near to the original
    confident : float in (0, 1]      share of those and the original that are kept

    Returns
    -------
    integer Tensor (at least 1,)      both shares are rounded down, as in the authors' code, where they may leave none

    Raises
    ------
    ValueError      naming the argument
    """
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"logits: shape (V, K) with a view at least, got {tuple(logits.shape)}")
    if not (0 <= similar <= 1 and 0 < confident <= 1):
        raise ValueError(f"similar, confident: shares, got {similar} and {confident}")
    with torch.no_grad():
        nearness = torch.nn.functional.cosine_similarity(logits[1:], logits[:1])
        near = nearness.argsort(descending=True, stable=True)[: int(len(nearness) * similar)] + 1
        near = torch.cat([near.new_zeros(1), near])
        surest = entropy(logits[near]).argsort(stable=True)
        return near[surest[: max(1, int(len(near) * confident))]]
