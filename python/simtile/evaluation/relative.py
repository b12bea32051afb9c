"""Relative representations: an item is its cosines to anchors, whatever space it was embedded in.

    r_i = [cos(e_i, a_1), .., cos(e_i, a_A)]        anchors a: embeddings of A known items, by the same encoder as e

Rotations, reflections and rescaling of a space change no cosine, so two encoders whose spaces differ by these alone
give the same r, and what was trained on one encoder's r works on the other's without training [1]. Optionally r is
made sharp: a softmax over the anchors, or the nearest anchors alone.

[1] Moschella et al. 2023, arXiv:2209.15430, eq. 2 and 3.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._normalize import unit
from simtile._pairs import check_like, check_matrix
from simtile.functional import TopK, pair_topk

__all__ = ["nearest_anchors", "relative"]


def relative(x: Tensor, anchors: Tensor, *, temperature: float | None = None, top_k: int | None = None) -> Tensor:
    """Similarities of items to anchors, differentiable by both.

    Parameters
    ----------
    x : Tensor (N, D)
    anchors : Tensor (A, D)      embeddings of the same A items in every space that is to be compared
    temperature : float      softmax(cosines / temperature) over the anchors; None: the cosines
    top_k : int      only so many nearest anchors of each item, all others 0; a softmax is then over these alone

    Returns
    -------
    Tensor (N, A)      in the inputs' dtype

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The result is all the memory there is. With many anchors :func:`nearest_anchors` keeps top_k numbers an item.

    Examples
    --------
    >>> relative(torch.tensor([[3.0, 4.0]]), torch.eye(2))
    tensor([[0.6000, 0.8000]])
    """
    check_matrix("x", x)
    check_like("anchors", anchors, "x", x)
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature: above 0, got {temperature}")
    if top_k is not None and not 1 <= top_k <= anchors.shape[0]:
        raise ValueError(f"top_k: 1 to {anchors.shape[0]}, got {top_k}")
    cosines = unit(x) @ unit(anchors).T
    if top_k is None:
        return cosines if temperature is None else torch.softmax(cosines / temperature, dim=1)
    kept = cosines.topk(top_k, dim=1).indices
    values = cosines.gather(1, kept)
    if temperature is not None:
        values = torch.softmax(values / temperature, dim=1)
    return torch.zeros_like(cosines).scatter(1, kept, values)


def nearest_anchors(x: Tensor, anchors: Tensor, k: int) -> TopK:
    """The k nearest anchors of each item, their cosines (N, k) and numbers (N, k), without the (N, A) matrix."""
    check_matrix("x", x)
    check_like("anchors", anchors, "x", x)
    return pair_topk(unit(x), unit(anchors), k)
