"""Layers that shape an embedding space: an upgrade that old vectors can be compared with, a fixed projection head."""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

__all__ = ["OrthogonalLayer", "ReweightingHead"]


class OrthogonalLayer(nn.Module):
    """A learnt rotation of features, after padding with zeros: OCA's way to a backward-compatible upgrade.

    h = Q [φ(x), 0], QᵀQ = 1. Inner products of h are those of φ, so the new space loses nothing, while the first
    coordinates h[:, :d_old] can be aligned with an old model's vectors, by :func:`simtile.functional.info_nce` or a
    cosine: a gallery of old vectors, padded with zeros, then answers new queries and needs no new encoding.

    Parameters
    ----------
    features : int      columns of φ
    width : int      columns of h, at least ``features``; default the same

    Raises
    ------
    ValueError      width below features

    Notes
    -----
    Q is kept orthogonal by ``torch.nn.utils.parametrizations.orthogonal``. Ricci et al. 2024, arXiv:2408.08793, from
    its abstract: additional dimensions, an orthogonal transformation for compatibility.

    Examples
    --------
    >>> layer = OrthogonalLayer(3, 5)
    >>> x = torch.eye(3)
    >>> torch.allclose(layer(x) @ layer(x).T, x @ x.T, atol=1e-6)
    True
    """

    def __init__(self, features: int, width: int | None = None) -> None:
        super().__init__()
        width = features if width is None else width
        if width < features:
            raise ValueError(f"width: at least features, {features}, got {width}")
        self.features, self.width = features, width
        self.rotation = nn.utils.parametrizations.orthogonal(nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from (B, features)."""
        rotated: Tensor = self.rotation(nn.functional.pad(x, (0, self.width - self.features)))
        return rotated

    def extra_repr(self) -> str:
        """What distinguishes this layer when it is printed."""
        return f"features={self.features}, width={self.width}"


class ReweightingHead(nn.Module):
    """A projection head without parameters: coordinate i is divided by kappa^i. Only training sees it.

    What a projection head does in the linear analysis of Xue et al. 2024, arXiv:2403.11391: training equalises the
    coordinates behind it, so that those before it keep features of unequal strength, some of which a task may need.

    Parameters
    ----------
    width : int
    kappa : float > 0      1 is no head

    Raises
    ------
    ValueError      kappa not above 0

    Examples
    --------
    >>> ReweightingHead(3, 2.0)(torch.ones(1, 3))
    tensor([[1.0000, 0.5000, 0.2500]])
    """

    factors: Tensor

    def __init__(self, width: int, kappa: float) -> None:
        super().__init__()
        if not kappa > 0:
            raise ValueError(f"kappa: above 0, got {kappa}")
        self.kappa = kappa
        self.register_buffer("factors", kappa ** -torch.arange(width, dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to the same."""
        return x * self.factors.to(x.dtype)

    def extra_repr(self) -> str:
        """What distinguishes this layer when it is printed."""
        return f"width={self.factors.shape[0]}, kappa={self.kappa:g}"
