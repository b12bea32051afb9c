"""Losses beside plain torch, and searches: run by .ci/smoke-test where there is the wheel, torch and NumPy alone."""

import sys

import numpy as np
import torch

import simtile
from simtile import functional as F
from simtile.losses import InfoNCELoss
from simtile.search import ExactIndex

torch.manual_seed(0)


def info_nce(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = query @ key.T / 0.07
    own = torch.arange(len(query))
    return (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2


def sigmoid(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = 10 * query @ key.T - 10
    return -torch.nn.functional.logsigmoid(scores * (2 * torch.eye(len(query)) - 1)).sum() / len(query)


PAIRS = {
    "info_nce": (lambda x, y: F.info_nce(x, y, symmetric=True, normalize=False), info_nce),
    "InfoNCELoss": (InfoNCELoss(symmetric=True, normalize=False), info_nce),
    "sigmoid_loss": (lambda x, y: F.sigmoid_loss(x, y, normalize=False), sigmoid),
}
for name, (ours, plain) in PAIRS.items():
    for M, dtype, most in ((40, torch.float32, 1e-5), (3000, torch.float32, 1e-5), (3000, torch.bfloat16, 3e-2)):
        x, y = (torch.nn.functional.normalize(torch.randn(M, 64), dim=1).to(dtype).requires_grad_() for _ in range(2))
        found = torch.autograd.grad(ours(x, y), (x, y))
        wanted = torch.autograd.grad(plain(x.float(), y.float()), (x, y))
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == dtype and (a.float() - b.float()).norm() < most * b.float().norm(), (name, M, dtype)
x = torch.randn(500, 32)
scores, ids = ExactIndex(x).search(x[:9], 3)
assert isinstance(ids, torch.Tensor) and torch.equal(ids, (x[:9] @ x.T).topk(3).indices)
value, places = F.pair_topk(x[:9], x, 3)
assert torch.equal(places, ids)
versions = f"simtile {simtile.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}"
print(f"{versions}, torch {torch.__version__}: ok")
