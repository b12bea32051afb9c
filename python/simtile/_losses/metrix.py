"""Contrastive loss over pairs of labels, and over mixtures of a positive with every negative, from scores alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu

from simtile._losses.batch import checked_batch
from simtile._losses.mixtures import beta_draws
from simtile._pairs import as_ids, loss_dtype
from simtile._plan import WORKSPACE_BYTES
from simtile._reduce import by_rows
from simtile.targets import row_dot


def metrix(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.5,
    mixed_weight: float = 0.4,
    alpha: float = 2.0,
    share: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Metrix over the contrastive loss: what lies between a positive and a negative is partly both.

    clean + mixed_weight · mixed, d the Euclidean distance of unit rows. clean: mean of d over pairs of a label, plus
    mean of [margin - d]₊ over all others. mixed: with v = λ p + (1 - λ) n, normalised, for each anchor's first positive
    p and every negative n, mean of λ d(a, v) plus mean of (1 - λ) [margin - d(a, v)]₊. Means are over losses above 0.

    Parameters
    ----------
    embeddings : Tensor (N, D)      normalised
    labels : integer Tensor (N,)
    margin, mixed_weight : float      0.5 and 0.4 as in the authors' code
    alpha : float      λ ~ Beta(alpha, alpha), one draw for the batch; 2 as in their code
    share : float in [0, 1]      λ, instead of drawing it
    generator : torch.Generator      for the draw

    Returns
    -------
    Tensor ()      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The distance to a mixture follows from three scores, of a few anchors at a time and again in the backward pass: no
    (N, N) matrix, and no mixture. Venkataramanan et al. 2022, arXiv:2106.04990. The authors alternate at random with
    mixtures of an anchor and its negatives, for anchors without a positive; these are left out.
    """
    batch = checked_batch(
        embeddings, embeddings, 1.0, normalize=True, weight=None, reduction="mean", plan="auto",
        names=("embeddings", "embeddings"),
    )  # fmt: skip
    z, N = batch.query, embeddings.shape[0]
    label = as_ids("labels", labels, N, embeddings)
    if share is None:
        share = float(beta_draws((1,), alpha, alpha, generator))
    if not 0 <= share <= 1:
        raise ValueError(f"share: a number from 0 to 1, got {share}")
    step = max(WORKSPACE_BYTES // (12 * loss_dtype(z).itemsize * max(N, 1)), 1)
    partner = _first_positive(label)
    *sums, counts = by_rows(lambda rows: _hinges(z, rows, label, partner[rows], share, margin), N, step)
    totals, number = [part.sum(0) for part in sums], counts.sum(0).clamp_min(1)
    total: Tensor = (torch.stack(totals) / number * z.new_tensor([1, 1, mixed_weight, mixed_weight])).sum()
    return total


def _hinges(
    z: Tensor, rows: slice, label: Tensor, partner: Tensor, share: float, margin: float
) -> tuple[Tensor, ...]:  # fmt: skip
    """Of some anchors: (c,) sums of the clean positive, clean negative, mixed positive and mixed negative losses, and
    (c, 4) how many of each are above 0.
    """
    dtype = loss_dtype(z)
    anchor, positive = z[rows].to(dtype), z[partner.clamp_min(0)].to(dtype)
    with torch.autocast(z.device.type, enabled=False):
        s, cross = anchor @ z.to(dtype).T, positive @ z.to(dtype).T
    places = torch.arange(z.shape[0], device=z.device)
    same = label[rows, None] == label
    apart = _distance(s)
    length = (share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cross).clamp_min(torch.finfo(dtype).eps).sqrt()
    mixed = _distance((share * row_dot(anchor, positive)[:, None] + (1 - share) * s) / length)
    negative = ~same & (partner >= 0)[:, None]
    losses = [
        apart.masked_fill(~same | (places[rows, None] == places), 0.0),
        relu(margin - apart).masked_fill(same, 0.0),
        share * mixed.masked_fill(~negative, 0.0),
        (1 - share) * relu(margin - mixed).masked_fill(~negative, 0.0),
    ]
    return *[part.sum(1) for part in losses], torch.stack([(part > 0).sum(1) for part in losses], 1)


def _distance(cosine: Tensor) -> Tensor:
    """Euclidean distance of unit rows; below an ulp under 1 the slope of the root would be infinite."""
    return (2 - 2 * cosine).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()


def _first_positive(label: Tensor) -> Tensor:
    """(N,) the first other row of each row's label, -1 where there is none."""
    N = label.shape[0]
    places = torch.arange(N, device=label.device)
    order = torch.argsort(label, stable=True)
    ordered = label[order]
    first = torch.searchsorted(ordered, label)  # where the label begins in the order
    candidate = torch.where(order[first] == places, first + 1, first).clamp_max(max(N - 1, 0))
    found = order[candidate]
    return torch.where((label[found] == label) & (found != places), found, -1)
