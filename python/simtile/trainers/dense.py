"""The trainers' losses as plain torch writes them, with the whole matrix of scores: what ``--dense`` trains with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(query: Tensor, key: Tensor, ids: Tensor, temperature: Tensor) -> Tensor:
    """Both directions; a pair of equal ids that is not the own one does not count."""
    s = F.normalize(query) @ F.normalize(key).T / temperature
    own = torch.arange(s.shape[0], device=s.device)
    same = ids[:, None] == ids
    same.fill_diagonal_(False)
    s = s.masked_fill(same, -torch.inf)
    return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2


def sigmoid_loss(query: Tensor, key: Tensor, ids: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every pair a decision, equal ids positive."""
    z = (F.normalize(query) @ F.normalize(key).T * scale + bias) * (2.0 * (ids[:, None] == ids) - 1.0)
    return -F.logsigmoid(z).sum() / query.shape[0]


def nt_xent(view_a: Tensor, view_b: Tensor, temperature: float) -> Tensor:
    """2B views among themselves, each without itself."""
    views = F.normalize(torch.cat([view_a, view_b]))
    s = views @ views.T / temperature
    s.fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, torch.arange(s.shape[0], device=s.device).roll(view_a.shape[0]))
