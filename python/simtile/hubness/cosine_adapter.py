"""A small network that predicts each query's monotone map of scores, so that one threshold serves all queries.

    p(q, g) = f(s(q, g); θ(q))        θ(q) = MLP(q), f rising in s: results never change their order

Trained with binary cross-entropy on (query, score, relevant). arXiv:2408.04887.
"""

from __future__ import annotations

from typing import Literal

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise missing_extra(error) from None


class CosineAdapter(nn.Module):
    """Probability of relevance from a score, by a map that depends on the query.

    Parameters
    ----------
    dim : int      of the query embeddings
    shape : {"linear", "sqrt", "quadratic", "power"}      the logit is a·(g(s) - m) / d + b with g(s) = s, √s, s², s^c
        of s >= 0; a and c are positive by a softplus, so that the logit rises
    hidden : int      width of the one hidden layer

    Examples
    --------
    >>> adapter = CosineAdapter(4)
    >>> adapter(torch.ones(2, 4), torch.tensor([[0.9, 0.1], [0.8, 0.2]])).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, dim: int, *, shape: Literal["linear", "sqrt", "quadratic", "power"] = "linear", hidden: int = 64
    ) -> None:
        super().__init__()
        if shape not in ("linear", "sqrt", "quadratic", "power"):
            raise ValueError(f"shape: one of 'linear', 'sqrt', 'quadratic', 'power', got {shape!r}")
        self.shape = shape
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        # m and d. Cosines of one model often lie within a few hundredths: without them the net would have to find
        # slopes and offsets of a hundred before it could tell queries apart.
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(0.1))

    def logits(self, queries: Tensor, scores: Tensor) -> Tensor:
        """(M, k) logits of scores (M, k) of queries (M, dim)."""
        slope, offset, power = self.net(queries).unbind(dim=1)
        standard = (self._mapped(scores, power) - self.mean) / self.deviation
        result: Tensor = nn.functional.softplus(slope)[:, None] * standard + offset[:, None]
        return result

    def _mapped(self, scores: Tensor, power: Tensor) -> Tensor:
        """g (M, k) of scores (M, k) and powers (M,) before their softplus."""
        positive = scores.clamp_min(0.0)
        if self.shape == "linear":
            return scores
        if self.shape == "sqrt":
            return (positive + 1e-12).sqrt()  # a finite gradient at 0
        if self.shape == "quadratic":
            return positive.square()
        return (positive + 1e-12) ** (nn.functional.softplus(power)[:, None] + 0.1)

    def forward(self, queries: Tensor, scores: Tensor) -> Tensor:
        """(M, k) probabilities, in the order of the scores."""
        return torch.sigmoid(self.logits(queries, scores))

    def fit(
        self, queries: Tensor, scores: Tensor, relevant: Tensor, *, epochs: int = 50, batch: int = 256,
        lr: float = 1e-3, seed: int = 0,
    ) -> list[float]:  # fmt: skip
        """Train on queries (M, dim), scores (M, k) and relevance (M, k) in 0..1; returns the loss of each epoch.

        m and d become mean and standard deviation of g(scores).
        """
        if scores.shape != relevant.shape or len(queries) != len(scores):
            raise ValueError(
                f"queries, scores, relevant: (M, dim), (M, k), (M, k), got {tuple(queries.shape)}, "
                f"{tuple(scores.shape)}, {tuple(relevant.shape)}"
            )
        optimiser = torch.optim.Adam(self.parameters(), lr=lr)
        with torch.no_grad():
            mapped = self._mapped(scores, self.net(queries)[:, 2])
            self.mean.copy_(mapped.mean())
            self.deviation.copy_(mapped.std().clamp_min(1e-6))
        generator = torch.Generator().manual_seed(seed)
        history = []
        self.train()
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(queries), generator=generator).split(batch):
                optimiser.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(
                    self.logits(queries[rows], scores[rows]), relevant[rows].to(scores.dtype)
                )
                loss.backward()
                optimiser.step()
                total += loss.item() * len(rows)
            history.append(total / len(queries))
        self.eval()
        return history
