"""Supervised contrastive regression with mixtures: hard negatives and hard positives, from scores alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._losses.mixtures import beta_draws
from simtile._pairs import Scale, as_vector
from simtile._plan import WORKSPACE_BYTES
from simtile._reduce import by_rows
from simtile._reductions import reduced
from simtile.kernels.reference_torch import logsumexp

if TYPE_CHECKING:
    from collections.abc import Callable

    from simtile.functional import Reduction


def supremix(
    embeddings: Tensor,
    labels: Tensor,
    *,
    window: float,
    temperature: Scale = 0.07,
    beta: tuple[float, float] = (2.0, 8.0),
    share: Tensor | None = None,
    generator: torch.Generator | None = None,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """SupReMix: SupCon for real-valued labels, where mixtures fill the gaps between the samples.

    loss_i = L_i - mean_p s_ip. Positives p: rows of the same label, and mixtures of a smaller and a greater label that
    meet at y_i, λ z_j + (1 - λ) z_k with λ = (y_k - y_i) / (y_k - y_j), both labels nearer than ``window``. Further
    candidates of the log-sum-exp L_i: all other rows, and mixtures α z_i + (1 - α) z_k with each row of another label.
    A candidate counts |y_i - y| + 1 times, y its label or the mixture's. Mixtures are not normalised and constants, so
    gradients reach them through the anchor only, as in the authors' code.

    Parameters
    ----------
    embeddings : Tensor (N, D)      anchors and candidates, two views of each item for example
    labels : floating Tensor (N,)
    window : float > 0      how far apart labels of an anchor and the parts of its mixed positives may be; in units of
        the labels, which the weights take as they are: scale them to where |y_i - y_k| = 1 is a step that matters
    temperature : float or one-element Tensor      0.07 as in the authors' code
    beta : (float, float)      α ~ Beta: (2, 8), (8, 2) or (5, 5) in the paper
    share : Tensor (N, N)      α of each pair, instead of drawing it, which stores none of them
    generator : torch.Generator      for the draw
    normalize, weight, reduction      as in :func:`simtile.functional.sup_con`: an anchor without positives has loss 0
        and does not count in the mean

    Returns
    -------
    Tensor () or (N,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    O(N³) exponentials for the mixed positives, within 16 MiB: a few anchors at a time, from N = 725 on a few smaller
    labels of an anchor at a time; again in the backward pass, where α is drawn again, too. As vectors the mixtures of
    64 pairs of views at D = 512 are 4 GiB. Wu et al. 2023, arXiv:2309.16633; the authors divide by the number of
    positives plus one.
    """
    batch = checked_batch(
        embeddings, embeddings, temperature, normalize=normalize, weight=weight, reduction=reduction, plan="auto",
        names=("embeddings", "embeddings"),
    )  # fmt: skip
    N = embeddings.shape[0]
    y = as_vector("labels", labels, N, embeddings)
    if y is None:
        raise TypeError("labels: a torch.Tensor, got None")
    if not window > 0:
        raise ValueError(f"window: a number above 0, got {window}")
    if share is not None and share.shape != (N, N):
        raise ValueError(f"share: shape ({N}, {N}), got {tuple(share.shape)}")
    y = y.detach()
    alpha = _drawn(N, beta, generator, like=y) if share is None else _given(share.detach().to(y.dtype))
    z = batch.query
    loss, count = row_losses(z, z.detach(), batch.scale, y, alpha, window)
    some = (count > 0).to(loss.dtype)
    return reduced(loss, some if batch.weight is None else some * batch.weight, reduction)


def row_losses(
    z: Tensor, parts: Tensor, scale: Scale, y: Tensor, alpha: Callable[[slice], Tensor], window: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(N,) losses of anchors z whose mixtures are made of ``parts``, and how many positives each anchor has.

    ``alpha(rows)`` gives the shares (c, N) of some anchors, the same ones each time.
    """
    N = y.shape[0]
    pairs = max(WORKSPACE_BYTES // (8 * y.itemsize * max(N, 1)), 1)  # (anchor, smaller label) at a time
    losses, counts = by_rows(
        lambda rows: _some_losses(z, parts, rows, scale, y, alpha(rows), window, pairs), N, max(pairs // max(N, 1), 1)
    )
    return losses, counts


def _some_losses(
    z: Tensor, parts: Tensor, rows: slice, scale: Scale, y: Tensor, alpha: Tensor, window: float, pairs: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(c,) losses of some anchors, and how many positives they have."""
    N, anchors = z.shape[0], z[rows].to(y.dtype)
    with torch.autocast(z.device.type, enabled=False):
        s = scale * (anchors @ z.to(y.dtype).T)
        fixed = scale * (anchors @ parts.to(y.dtype).T)  # scores with the mixtures' parts
    places = torch.arange(N, device=z.device)
    myself = places[rows, None] == places
    above = y[rows, None] - y  # (c, N) how far the anchor's label is above
    far = above.abs()

    others = (s + far.log1p()).masked_fill(myself, -torch.inf)
    own = fixed.gather(1, places[rows, None])
    toward = alpha * own + (1 - alpha) * fixed + ((1 - alpha) * far).log1p()
    toward = toward.masked_fill(far == 0, -torch.inf)

    def between(smaller: slice) -> tuple[Tensor, ...]:
        return _mixed_positives(fixed, above, window, smaller)

    step = max(pairs // max(len(anchors), 1), 1)
    mixed, total, number = between(slice(N)) if step >= N else by_rows(between, N, step)
    lse = logsumexp(torch.cat([others, toward, mixed.T], 1), 1)
    same = (far == 0) & ~myself
    count = same.sum(1) + number.sum(0)
    positive = (s * same).sum(1) + total.sum(0)
    return (lse - positive / count.clamp_min(1)).masked_fill(count == 0, 0.0), count


def _mixed_positives(s: Tensor, above: Tensor, window: float, smaller: slice) -> tuple[Tensor, ...]:
    """Of the scores (c, N) of c anchors, and some m rows j as the part of the smaller label: (m, c) log-sum-exps over
    the rows k of a greater one, sums of the same scores, and how many there are.
    """
    far = above.abs()
    near = (far > 0) & (far < window)
    first, to_first = s[:, smaller, None], far[:, smaller, None]
    there = (near & (above > 0))[:, smaller, None] & (near & (above < 0))[:, None]  # (c, m, N): y_j < y_i < y_k
    part = far[:, None] / (to_first + far[:, None]).clamp_min(torch.finfo(s.dtype).tiny)
    mixed = part * first + (1 - part) * s[:, None]
    lse = logsumexp(mixed.masked_fill(~there, -torch.inf), 2)
    return lse.T, mixed.masked_fill(~there, 0.0).sum(2).T, there.sum(2).T


def _given(share: Tensor) -> Callable[[slice], Tensor]:
    return lambda rows: share[rows]


def _drawn(
    N: int, beta: tuple[float, float], generator: torch.Generator | None, *, like: Tensor
) -> Callable[[slice], Tensor]:  # fmt: skip
    """Shares by row, each row from a seed of its own: the backward pass draws them again instead of keeping N²."""
    seeds = torch.randint(2**32, (N,), generator=generator).tolist()

    def alpha(rows: slice) -> Tensor:
        drawn = [beta_draws((N,), *beta, torch.Generator().manual_seed(seed)) for seed in seeds[rows]]
        return torch.stack(drawn).to(like) if drawn else like.new_zeros(0, N)

    return alpha
