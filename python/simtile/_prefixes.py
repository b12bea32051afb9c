"""The scores of rows with their own partners for several prefixes of the coordinates, and their gradients: O(M * D).

c_k[i] = <x[i, :d_k], y[i, :d_k]> / (|x[i, :d_k]| |y[i, :d_k]|)        (K, min(M, N))
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from simtile._normalize import SHORTEST
from simtile._pairs import Gradients, Scale, loss_dtype


def own_scores(x: Tensor, y: Tensor, dims: list[int], normalize: bool) -> tuple[Tensor, list[Tensor]]:
    """c (K, min(M, N)) of ascending prefixes, and the reciprocal norms (K, min(M, N)) of both sides."""
    rows = min(x.shape[0], y.shape[0])
    a, b = (part.detach()[:rows].to(loss_dtype(x)) for part in (x, y))
    scores = _prefix_sums(a * b, dims)
    if not normalize:
        return scores, [torch.ones_like(scores)] * 2
    inverse = [_prefix_sums(part.square(), dims).sqrt_().clamp_min_(SHORTEST).reciprocal_() for part in (a, b)]
    return scores * inverse[0] * inverse[1], inverse


def with_own_scores(
    found: Gradients, x: Tensor, y: Tensor, dims: list[int], scale: Scale, normalize: bool, grad: Tensor
) -> Gradients:
    """The gradients, and those of Σ grad * scale * c by x, y and the scale added to them."""
    c, inverse = own_scores(x, y, dims, normalize)
    rows = c.shape[1]
    weights = grad * inverse[0] * inverse[1] * scale
    added: list[Tensor | None] = []
    for total, own, other, norms in ((found.x, x, y, inverse[0]), (found.y, y, x, inverse[1])):
        if total is None:
            added.append(None)
            continue
        part = torch.zeros((rows, x.shape[1]), dtype=c.dtype, device=x.device)
        off = grad * c * scale * norms.square() if normalize else torch.zeros_like(c)
        # Coordinates belong to their own prefix and to all longer ones.
        sums = zip(itertools.accumulate(reversed(weights.unbind())), itertools.accumulate(reversed(off.unbind())),
                   strict=True)  # fmt: skip
        for (weight, less), (begin, end) in zip(sums, reversed(_ranges(dims)), strict=True):
            part[:, begin:end] = weight[:, None] * other[:rows, begin:end].to(c.dtype)
            part[:, begin:end] -= less[:, None] * own[:rows, begin:end].to(c.dtype)
        total = total.clone()
        total[:rows] += part.to(total.dtype)
        added.append(total)
    dscale = None if found.scale is None else found.scale + (grad * c).sum()
    return found._replace(x=added[0], y=added[1], scale=dscale)


def _ranges(dims: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise([0, *dims]))


def _prefix_sums(values: Tensor, dims: list[int]) -> Tensor:
    parts = [values[:, begin:end].sum(1) for begin, end in _ranges(dims)]
    return torch.stack(list(itertools.accumulate(parts)))  # torch.cumsum is refused in deterministic mode on CUDA
