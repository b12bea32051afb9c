"""Dense correspondence: where each source position goes, without the (HW)² correlation volume.

    C[i, j] = relu(cos(f_i, g_j))        o_i = Σ_j softmax_j(C[i, j] / τ) · xy_j        soft-argmax

The volume of two feature maps is the cost that aggregation networks refine [1]; its soft-argmax is an expectation, and
an expectation of positive values is a difference of log-sum-exps, log o = LSE_j(C/τ + log xy_j) - LSE_j(C/τ). So three
reductions in chunks, of 1 and of the two coordinates, replace the volume, in the backward pass too.

[1] Hong et al. 2024, Unifying feature and cost aggregation (UFC), arXiv:2403.11120.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._normalize import unit
from simtile._pairs import loss_dtype
from simtile.functional import pair_reduce

__all__ = ["correlation_volume", "soft_argmax"]


def correlation_volume(source: Tensor, target: Tensor) -> Tensor:
    """relu of the cosines of all positions, (H, W, H', W'), of feature maps (C, H, W) and (C, H', W')."""
    _check(source, target)
    cosines = unit(source.flatten(1).T) @ unit(target.flatten(1).T).T
    return cosines.relu().view(*source.shape[1:], *target.shape[1:])


def soft_argmax(source: Tensor, target: Tensor, *, temperature: float = 0.02, chunk: int | None = None) -> Tensor:
    """Expected position in the target of every source position.

    Parameters
    ----------
    source, target : Tensor (C, H, W), (C, H', W')      feature maps
    temperature : float      0.02, usual for correlations in [0, 1]
    chunk : int      source positions at a time, see :func:`simtile.functional.pair_reduce`

    Returns
    -------
    Tensor (H, W, 2)      (row, column), in 0..H' - 1 and 0..W' - 1; differentiable by both maps; float32, or float64
        for float64 maps

    Raises
    ------
    ValueError      naming the argument

    Examples
    --------
    >>> x = torch.eye(4).view(4, 2, 2)
    >>> soft_argmax(x, x.flip(2))[0, 0].round()  # a mirrored image
    tensor([0., 1.])
    """
    _check(source, target)
    if not temperature > 0:
        raise ValueError(f"temperature: above 0, got {temperature}")
    x, y = unit(source.flatten(1).T), unit(target.flatten(1).T)
    height, width = target.shape[1:]
    # Not in the inputs' dtype: bfloat16 cannot count beyond 256.
    sides = (torch.arange(side, dtype=loss_dtype(x), device=x.device) for side in (height, width))
    places = torch.cartesian_prod(*sides)
    # From 1 to 2, where a relative error is an absolute one and the logarithm is defined.
    spans = places.new_tensor([max(side - 1, 1) for side in (height, width)])
    levels = (1 + places / spans).log()

    def lse(level: Tensor | None) -> Tensor:
        def score(s: Tensor, i: Tensor, j: Tensor) -> Tensor:
            sharp = s.relu() / temperature
            return sharp if level is None else sharp + level

        return pair_reduce(x, y, score, "lse", chunk=chunk)

    total = lse(None)
    expected = torch.stack([(lse(level) - total).exp() - 1 for level in levels.T], dim=1) * spans
    return expected.view(*source.shape[1:], 2)


def _check(source: Tensor, target: Tensor) -> None:
    for name, part in (("source", source), ("target", target)):
        if part.ndim != 3 or not part.shape[1] * part.shape[2]:
            raise ValueError(f"{name}: shape (C, H, W) with a position at least, got {tuple(part.shape)}")
    if target.shape[0] != source.shape[0]:
        raise ValueError(f"target: {source.shape[0]} channels, got {target.shape[0]}")
