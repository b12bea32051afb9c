"""Every loss as its equation in a few dense lines: the specification. Written for float64; autograd gives gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def rows_of(*parts: Tensor) -> list[Tensor]:
    """Unit rows."""
    return [normalize(part, dim=1) for part in parts]


def off_diagonal(s: Tensor) -> Tensor:
    """The scores with -inf in the place of the pairs (i, i)."""
    rows, columns = (torch.arange(n) for n in s.shape)
    return s.masked_fill(rows[:, None] == columns, -torch.inf)


def log_ratio(right: Tensor, others: Tensor) -> Tensor:
    """-log(e^right / (e^right + Σ e^others)) row by row; others (M, C)."""
    return torch.logsumexp(torch.cat([right[:, None], others], 1), 1) - right


def reduced(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    w = torch.ones_like(loss) if weight is None else weight.to(loss.dtype)
    return {"none": w * loss, "sum": (w * loss).sum(), "mean": (w * loss).sum() / w.sum()}[reduction]


def two_views(a: Tensor, b: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(2B,) scores of the partners, (2B, 2B) scores with -inf for the own view, and the same for the partner too."""
    z = torch.cat(rows_of(a, b))
    n = len(a)
    s = off_diagonal(z @ z.T / temperature)
    partner = torch.arange(2 * n).roll(n)
    positive = s[torch.arange(2 * n), partner]
    return positive, s, s.scatter(1, partner[:, None], -torch.inf)


def nt_xent(a: Tensor, b: Tensor, *, temperature=0.1, labels=None, weight=None, reduction="mean") -> Tensor:
    """SimCLR, arXiv:2002.05709, eq. 1."""
    positive, _, negatives = two_views(a, b, temperature)
    if labels is not None:
        labels = torch.cat([labels, labels])
        negatives = negatives.masked_fill(labels[:, None] == labels, -torch.inf)
    return reduced(log_ratio(positive, negatives).view(2, -1).mean(0), weight, reduction)


def sup_con(
    z: Tensor, positive: Tensor, *, keys=None, temperature=0.1, form="out", margin=0.0, additive=False, weight=None,
    reduction="mean",
):  # fmt: skip
    """arXiv:2004.11362, eq. 2 ("out") and 3 ("in"); ``positive (M, N)`` says which pairs are."""
    x, y = rows_of(z, z if keys is None else keys)
    s = x @ y.T
    if margin:
        turned = torch.cos(torch.arccos(s.clamp(-0.999999, 0.999999)) + margin)
        turned = torch.where(s > math.cos(math.pi - margin), turned, s - margin * math.sin(margin))
        s = torch.where(positive, s - margin if additive else turned, s)
    s = s / temperature
    if keys is None:
        s = off_diagonal(s)
    log_p = s - torch.logsumexp(s, 1, keepdim=True)
    count = positive.sum(1)
    if form == "out":
        loss = -log_p.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    else:
        loss = count.clamp_min(1).to(s.dtype).log() - torch.logsumexp(
            log_p.masked_fill(~positive, torch.finfo(s.dtype).min), 1
        )
    some = (count > 0).to(s.dtype)
    return reduced(loss.masked_fill(count == 0, 0.0), some if weight is None else some * weight, reduction)


def cwcl(q, k, features, *, key_features=None, temperature=0.07, symmetric=True, weight=None, reduction="mean"):
    """arXiv:2309.14580."""
    f, g = rows_of(features, features if key_features is None else key_features)
    q, k = rows_of(q, k)
    s = q @ k.T / temperature
    w = (1 + f[: len(q)].to(q.dtype) @ g.to(q.dtype).T) / 2
    loss = -(w * torch.log_softmax(s, 1)).sum(1) / w.sum(1)
    if symmetric:
        loss = (loss - torch.log_softmax(s, 0).diagonal()) / 2
    return reduced(loss, weight, reduction)


def filtered_info_nce(
    q, k, *, guide=None, margin=0.0, relative=False, blocks=("query_key",), ids=None, temperature=0.05, weight=None,
    reduction="mean",
):  # fmt: skip
    """GISTEmbed, arXiv:2402.16829; Qwen3-Embedding, arXiv:2506.05176; GTE, arXiv:2308.03281."""
    n = len(q)
    q, k = rows_of(q, k)
    a, b = (q.detach(), k.detach()) if guide is None else rows_of(*(part.to(q.dtype) for part in guide))
    own = (a * b[:n]).sum(1)
    sides = {
        "query_key": (q, k, a, b), "query_query": (q, q, a, a), "key_query": (k[:n], q, b[:n], a),
        "key_key": (k[:n], k[:n], b[:n], b[:n]),
    }  # fmt: skip
    others = []
    for block in blocks:
        x, y, gx, gy = sides[block]
        s = off_diagonal(x @ y.T / temperature)
        if margin is not None:
            s = s.masked_fill(gx @ gy.T > (own - margin * (own.abs() if relative else 1.0))[:, None], -torch.inf)
        if ids is not None:
            x_ids, y_ids = ({"q": ids[0], "k": ids[1][: x.shape[0]]}[side[0]] for side in block.split("_"))
            y_ids = ids[1] if block == "query_key" else y_ids
            s = s.masked_fill(x_ids[:, None] == y_ids, -torch.inf)
        others.append(s)
    return reduced(log_ratio((q * k[:n]).sum(1) / temperature, torch.cat(others, 1)), weight, reduction)


def uniformity(x, y=None, t=2.0):
    """Wang & Isola, arXiv:2005.10242: log mean_{i ≠ j} exp(-t ‖x_i - y_j‖²)."""
    x, y = rows_of(x, x if y is None else y)
    off = ~torch.eye(len(x), len(y), dtype=torch.bool)
    squared = ((x[:, None] - y[None]) ** 2).sum(-1)
    return (-t * squared[off]).exp().mean().log()


def contrastive_gap_loss(
    q, k, *, temperature=0.07, align=1.0, uniform=1.0, cross_uniform=1.0, weight=None, reduction="mean"
):  # fmt: skip
    """arXiv:2405.18570."""
    a, b = rows_of(q, k)
    s = a @ b.T / temperature
    loss = -(torch.log_softmax(s, 1).diagonal() + torch.log_softmax(s, 0).diagonal()) / 2
    loss = loss + align * ((a - b) ** 2).sum(1)
    even = uniform * (uniformity(q) + uniformity(k)) / 2 + cross_uniform * uniformity(q, k)
    return reduced(loss, weight, reduction) + even * (len(q) if reduction == "sum" else 1)


def cmim(q, k, *, temperature=0.1, weight=None, reduction="mean"):
    """arXiv:2509.21511."""
    q, k = rows_of(q, k)
    s = q @ k.T / temperature
    own = s.diagonal()
    mean = torch.logsumexp(off_diagonal(s), 1) - torch.tensor(len(k) - 1.0, dtype=s.dtype).log()
    return reduced(torch.logaddexp(own, mean) - own, weight, reduction)


def dcl(a, b, *, temperature=0.1, sigma=None, weight=None, reduction="mean"):
    """arXiv:2110.06848."""
    positive, _, negatives = two_views(a, b, temperature)
    w = 1.0
    if sigma is not None:
        cosine = (normalize(a) * normalize(b)).sum(1)
        w = (2 - (cosine / sigma).exp() / (cosine / sigma).exp().mean()).repeat(2)
    loss = torch.logsumexp(negatives, 1) - w * positive
    return reduced(loss.view(2, -1).mean(0), weight, reduction)


def hcl(a, b, *, tau_plus=0.1, beta=1.0, temperature=0.5, weight=None, reduction="mean"):
    """arXiv:2010.04592, as in the authors' code."""
    positive, _, negatives = two_views(a, b, temperature)
    number = 2 * len(a) - 2
    pos, neg = positive.exp(), negatives.exp()
    left = torch.isneginf(negatives)
    hard = (beta * negatives.masked_fill(left, 0.0)).exp().masked_fill(left, 0.0)
    r = (hard * neg).sum(1) / (hard.sum(1) / number)
    g = (r - tau_plus * number * pos) / (1 - tau_plus)
    floor = number * torch.exp(torch.as_tensor(-1 / temperature, dtype=g.dtype))
    loss = -(pos / (pos + torch.maximum(g, floor.expand_as(g)))).log()
    return reduced(loss.view(2, -1).mean(0), weight, reduction)


def margin_info_nce(
    q, k, *, margin=0.3, kind="additive", temperature=0.05, symmetric=True, ids=None, weight=None, reduction="mean"
):  # fmt: skip
    """CosFace, arXiv:1801.09414, eq. 4; ArcFace, arXiv:1801.07698, eq. 3."""
    q, k = rows_of(q, k)
    cosine = q @ k.T
    own = cosine.diagonal()
    moved = own - margin if kind == "additive" else torch.cos(torch.acos(own) + margin)
    if kind == "angular":
        moved = torch.where(own > -math.cos(margin), moved, own - margin * math.sin(margin))
    s = off_diagonal(cosine / temperature)
    if ids is not None:
        s = s.masked_fill(ids[0][:, None] == ids[1], -torch.inf)
    loss = log_ratio(moved / temperature, s)
    if symmetric:
        loss = (loss + log_ratio(moved / temperature, s[:, : len(q)].T)) / 2
    return reduced(loss, weight, reduction)


def distillation_loss(
    q, k, p, r, *, temperature=0.07, teacher_temperature=0.07, sinkhorn_iterations=0, symmetric=True, weight=None,
    reduction="mean",
):  # fmt: skip
    """CLIP-KD, arXiv:2307.12732, as a cross-entropy; with a balanced teacher one term of SwALIP, arXiv:2305.08675."""
    q, k = rows_of(q, k)
    p, r = rows_of(p.to(q.dtype), r.to(q.dtype))

    def cross_entropy(s, t):
        plain = torch.softmax(t / teacher_temperature, 1)
        w = sinkhorn_assignment(t, teacher_temperature, sinkhorn_iterations) if sinkhorn_iterations else plain
        return -(w * torch.log_softmax(s, 1)).sum(1)

    loss = cross_entropy(q @ k.T / temperature, p @ r.T)
    if symmetric:
        loss = (loss + cross_entropy(k @ q.T / temperature, r @ p.T)) / 2
    return reduced(loss, weight, reduction)


def focal_info_nce(q, k, hard=None, *, gamma=0.5, mixing=None, temperature=0.01, weight=None, reduction="mean"):
    """KaLM-Embedding-V2, arXiv:2506.20923; the mixtures as vectors."""
    q, k = rows_of(q, k)
    others = [off_diagonal(q @ k.T / temperature)]
    if hard is not None:
        hard = normalize(hard, dim=2)
        others.append(torch.einsum("md,mkd->mk", q, hard) / temperature)
    if mixing is not None:
        mixed = normalize(torch.einsum("msk,mkd->msd", mixing.to(q.dtype), hard), dim=2)
        others.append(torch.einsum("md,msd->ms", q, mixed) / temperature)
    nll = log_ratio((q * k[: len(q)]).sum(1) / temperature, torch.cat(others, 1))
    return reduced((1 - (-nll).exp()) ** gamma * nll, weight, reduction)


def sinkhorn_assignment(s: Tensor, epsilon: float, rounds: int) -> Tensor:
    """Rows of exp(s / epsilon) after so many rounds: columns to equal sums, then rows to 1; SwAV's public code."""
    q = torch.exp(s / epsilon)
    for _ in range(rounds):
        q = q / q.sum(0) * (q.shape[0] / q.shape[1])
        q = q / q.sum(1, keepdim=True)
    return q


def swav(*views, assigning=2, queues=None, temperature=0.1, epsilon=0.05, iterations=3, weight=None, reduction="mean"):
    """SwAV, arXiv:2006.09882, as in its public code; the prototypes are the last of ``views``."""
    *views, c = rows_of(*views)
    loss = 0.0
    for a in range(assigning):
        with torch.no_grad():
            bank = views[a] if queues is None else torch.cat([queues[a].to(c.dtype), views[a]])
            q = sinkhorn_assignment(bank @ c.T, epsilon, iterations)[-len(views[a]) :]
        for b in set(range(len(views))) - {a}:
            loss = loss - (q * torch.log_softmax(views[b] @ c.T / temperature, 1)).sum(1)
    return reduced(loss / (assigning * (len(views) - 1)), weight, reduction)


def clip_rocket(query, key, *crops, temperature=0.07, crop_temperature=0.1, label_smoothing=0.1):
    """arXiv:2305.08675, as in its public code; ``crops`` first those of the query, then as many of the key."""

    def clip(x, y, temperature, smoothing):
        x, y = rows_of(x, y)
        s, own = x @ y.T / temperature, torch.arange(len(x))
        entropy = torch.nn.functional.cross_entropy
        return (entropy(s, own, label_smoothing=smoothing) + entropy(s.T, own, label_smoothing=smoothing)) / 2

    n = len(crops) // 2
    loss = clip(query, key, temperature, 0.0)
    if n:
        pairs = [clip(a, b, crop_temperature, label_smoothing) for a in crops[:n] for b in crops[n:]]
        loss = (loss + n * sum(pairs) / n**2) / (1 + n)
    return loss


def barlow_twins(a: Tensor, b: Tensor, *, redundancy=5e-3) -> Tensor:
    """arXiv:2103.03230, as in its public code: batch normalisation without weights, then the correlations."""
    a, b = (torch.nn.functional.batch_norm(part, None, None, training=True) for part in (a, b))
    c = a.T @ b / len(a)
    off = c - torch.diag(c.diagonal())
    return (c.diagonal() - 1).square().sum() + redundancy * off.square().sum()


def gated_info_nce(x, y, gate, labels, partners, key_labels, *, temperature=0.1, weight=None, reduction="mean"):
    """arXiv:2410.18200, as in its public code, every key gated for every row: (M, N, D)."""
    x, y = rows_of(x, y)
    s = torch.einsum("md,mnd->mn", x * gate, y * gate[:, None]) / temperature
    positive = partners[:, None] == key_labels
    negative = ~positive & (labels[:, None] != key_labels)
    others = torch.logsumexp(s.masked_fill(~negative, -torch.inf), 1, keepdim=True)
    losses = torch.nn.functional.softplus(others.nan_to_num(neginf=-1e30) - s, threshold=1e9)
    count = positive.sum(1)
    loss = (losses * positive).sum(1) / count.clamp_min(1)
    some = (count > 0).to(loss.dtype)
    return reduced(loss, some if weight is None else some * weight, reduction)
