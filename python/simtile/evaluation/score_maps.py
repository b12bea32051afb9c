"""Pixels against texts: score maps, and how much of an attention lies where it should.

    map[b, k, h, w] = cos(pixel[b, :, h, w], text[k])        mass_i = Σ_{j in region_i} p_ij,  p_i = softmax_j(s_ij)

The maps feed a decoder and are trained by a cross-entropy per pixel, whose temperature is 0.07 [1]. The mass of an
attention in a region, of which region losses are made [2], is a quotient of two sums of exponentials: the map itself is
not needed.

[1] Rao et al. 2022, DenseCLIP, arXiv:2112.01518. [2] FaR (Fuse-and-Refine), arXiv:2504.03292.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._normalize import unit
from simtile.functional import info_nce, pair_lse

if TYPE_CHECKING:
    from simtile._pairs import CSR

__all__ = ["masked_mass", "score_map", "score_map_loss"]


def score_map(pixels: Tensor, text: Tensor) -> Tensor:
    """Cosines of every pixel with every text.

    Parameters
    ----------
    pixels : Tensor (B, C, H, W)
    text : Tensor (K, C), or (B, K, C) for texts of each image

    Returns
    -------
    Tensor (B, K, H, W)

    Raises
    ------
    ValueError      shapes that do not fit

    Examples
    --------
    >>> score_map(torch.eye(2).view(1, 2, 2, 1), torch.eye(2)).flatten(2)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    _check(pixels, text)
    flat = unit(pixels.flatten(2).mT)  # (B, HW, C)
    found: Tensor = (flat @ unit(text).mT).mT.unflatten(2, pixels.shape[2:])
    return found


def score_map_loss(pixels: Tensor, text: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Mean cross-entropy over pixels of softmax(score map / temperature), without the map.

    Parameters
    ----------
    pixels : Tensor (B, C, H, W)
    text : Tensor (K, C)      the same for all images; with texts of each image take this per image
    labels : integer Tensor (B, H, W)      in 0..K - 1; a negative label leaves its pixel out

    Raises
    ------
    TypeError, ValueError      naming the argument; no pixel left
    """
    _check(pixels, text)
    if text.ndim != 2:
        raise ValueError(f"text: shape (K, C), got {tuple(text.shape)}")
    if labels.shape != (pixels.shape[0], *pixels.shape[2:]):
        raise ValueError(f"labels: shape {(pixels.shape[0], *pixels.shape[2:])}, got {tuple(labels.shape)}")
    kept = labels.flatten() >= 0
    if not kept.any():
        raise ValueError("labels: at least one pixel with a label, got none")
    rows = pixels.flatten(2).mT.flatten(0, 1)
    return info_nce(rows[kept], text, targets=labels.flatten()[kept], temperature=temperature)


def masked_mass(query: Tensor, key: Tensor, region: Tensor | CSR, *, scale: float = 1.0) -> Tensor:
    """Share of each query's attention that falls on a region of keys, without the attention map.

    Parameters
    ----------
    query : Tensor (M, D)
    key : Tensor (N, D)      pixels or patches
    region : bool Tensor (N,), or CSR (indptr (M + 1,), indices)      one region for all, or each query's own, as the
        keys that lie *outside* of it
    scale : float      attention is softmax(scale·<query, key>)

    Returns
    -------
    Tensor (M,)      in [0, 1], differentiable; 0 for an empty region

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    exp(L_region - L_all) of two :func:`simtile.functional.pair_lse`, O(M + N) memory.

    Examples
    --------
    >>> masked_mass(torch.zeros(1, 2), torch.eye(2), torch.tensor([True, False]))
    tensor([0.5000])
    """
    if isinstance(region, Tensor):
        if region.shape != key.shape[:1] or region.dtype != torch.bool:
            raise ValueError(f"region: bool ({key.shape[0]},), got {region.dtype} of shape {tuple(region.shape)}")
        outside = torch.zeros_like(region, dtype=torch.promote_types(key.dtype, torch.float32))
        inside, _ = pair_lse(query, key, scale=scale, y_bias=outside.masked_fill(~region, -torch.inf))
    else:
        inside, _ = pair_lse(query, key, scale=scale, exclude=region)
    everywhere, _ = pair_lse(query, key, scale=scale)
    assert inside is not None and everywhere is not None
    return (inside - everywhere).exp()


def _check(pixels: Tensor, text: Tensor) -> None:
    if pixels.ndim != 4:
        raise ValueError(f"pixels: shape (B, C, H, W), got {tuple(pixels.shape)}")
    B, C = pixels.shape[:2]
    if text.ndim not in (2, 3) or text.shape[-1] != C or (text.ndim == 3 and text.shape[0] != B):
        raise ValueError(f"text: shape (K, {C}) or ({B}, K, {C}), got {tuple(text.shape)}")
