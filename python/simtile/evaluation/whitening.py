"""L2, PCA-whitening, L2, signed power: descriptors whose squared distances count every direction alike.

    z = Λ^{-1/2} Vᵀ (x / ‖x‖ - μ),  ẑ = z / ‖z‖,  f = sign(ẑ)·|ẑ|^p        V: main directions, Λ their variances

Razavian et al. 2014, arXiv:1403.6382: 500 components, p = 2. Jégou & Chum 2012 for whitening alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simtile.evaluation._rows import Float, as_rows, unit

__all__ = ["Whitener"]


class Whitener:
    """Fitted on one set of vectors, applied to any.

    Parameters
    ----------
    n_components : int      at most the rank of what it is fitted on
    power : float      above 0; 1 leaves the coordinates as they are

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> Whitener(4).fit(x)(x).shape
    (50, 4)
    """

    def __init__(self, n_components: int, *, power: float = 2.0) -> None:
        if n_components < 1:
            raise ValueError(f"n_components: at least 1, got {n_components}")
        if not power > 0:
            raise ValueError(f"power: above 0, got {power}")
        self.n_components, self.power = n_components, power

    def fit(self, x: Any) -> Whitener:
        """From rows (N, D). Raises ValueError if they vary in fewer than ``n_components`` directions."""
        rows = unit(as_rows("x", x))
        self.mean_ = rows.mean(axis=0)
        _, spread, axes = np.linalg.svd(rows - self.mean_, full_matrices=False)
        rank = int((spread > spread.max(initial=0.0) * max(rows.shape) * np.finfo(np.float64).eps).sum())
        if rank < self.n_components:
            raise ValueError(f"n_components: at most {rank}, the rank of x, got {self.n_components}")
        deviations = spread[: self.n_components] / np.sqrt(len(rows) - 1)
        self.axes_: Float = axes[: self.n_components] / deviations[:, None]
        return self

    def __call__(self, x: Any) -> Float:
        """(N, n_components) of rows (N, D)."""
        if not hasattr(self, "axes_"):
            raise ValueError("x: fit the Whitener first")
        rows = unit(as_rows("x", x, len(self.mean_)))
        white = unit((rows - self.mean_) @ self.axes_.T)
        return np.asarray(np.sign(white) * np.abs(white) ** self.power)
