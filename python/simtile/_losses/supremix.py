"""Supervised contrastive regression with mixtures: hard negatives and hard positives, from scores alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._losses.mixtures import beta_draws
from simtile._pairs import Scale, as_vector, loss_dtype
from simtile._plan import WORKSPACE_BYTES
from simtile._reduce import by_rows
from simtile._reductions import reduced
from simtile.kernels.reference_torch import logsumexp

if TYPE_CHECKING:
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
    share : Tensor (N, N)      α of each pair, instead of drawing it
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
    O(N³) exponentials for the mixed positives, a few anchors at a time within 16 MiB (or N² numbers, where those are
    more) and again in the backward pass. As vectors the mixtures of 64 pairs of views at D = 512 are 4 GiB. Wu et al.
    2023, arXiv:2309.16633; the authors divide by the number of positives plus one.
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
    if share is None:
        share = beta_draws((N, N), *beta, generator).to(embeddings.device)
    elif share.shape != (N, N):
        raise ValueError(f"share: shape ({N}, {N}), got {tuple(share.shape)}")
    alpha = share.detach().to(loss_dtype(embeddings))
    z, y = batch.query, y.detach()
    step = max(WORKSPACE_BYTES // (8 * y.itemsize * max(N, 1) ** 2), 1)
    loss, count = by_rows(lambda rows: _losses(z, rows, batch.scale, y, alpha[rows], window), N, step)
    some = (count > 0).to(loss.dtype)
    return reduced(loss, some if batch.weight is None else some * batch.weight, reduction)


def _losses(
    z: Tensor, rows: slice, scale: Scale, y: Tensor, alpha: Tensor, window: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(c,) losses of some rows, and how many positives they have."""
    anchors = z[rows]
    with torch.autocast(z.device.type, enabled=False):
        s = scale * (anchors.to(y.dtype) @ z.to(y.dtype).T)
        fixed = scale * (anchors.to(y.dtype) @ z.detach().to(y.dtype).T)  # scores with the mixtures' parts
    places = torch.arange(z.shape[0], device=z.device)
    myself = places[rows, None] == places
    above = y[rows, None] - y  # (c, N) how far the anchor's label is above
    far = above.abs()

    others = (s + far.log1p()).masked_fill(myself, -torch.inf)
    own = fixed.gather(1, places[rows, None])
    toward = alpha * own + (1 - alpha) * fixed + ((1 - alpha) * far).log1p()
    toward = toward.masked_fill(far == 0, -torch.inf)

    near = (far > 0) & (far < window)
    between = (near & (above > 0))[:, :, None] & (near & (above < 0))[:, None]  # (c, N, N): y_j < y_i < y_k
    part = far[:, None] / (far[:, :, None] + far[:, None]).clamp_min(torch.finfo(y.dtype).tiny)
    mixed = part * fixed[:, :, None] + (1 - part) * fixed[:, None]

    candidates = [others, toward, mixed.masked_fill(~between, -torch.inf).flatten(1)]
    lse = logsumexp(torch.cat(candidates, 1), 1)
    same = (far == 0) & ~myself
    count = same.sum(1) + between.sum((1, 2))
    positive = (s * same).sum(1) + mixed.masked_fill(~between, 0.0).sum((1, 2))
    none = count == 0
    return (lse - positive / count.clamp_min(1)).masked_fill(none, 0.0), count
