"""Hubness correction on torch tensors of any device: what an item's correction is, and the corrected best items.

    scale, bias = hub_stats(bank, gallery, method="nnn", k=128)
    scores, ids = biased_topk(queries, gallery, 10, scale, bias)

No gradients: the correction is a statistic, the search is a search.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

import numpy as np

from simtile.functional import TopK, pair_stats, pair_topk
from simtile.hubness._checks import settings_of
from simtile.hubness._methods import DUAL, GATED, SOFT, TOP, Method, correction
from simtile.hubness.reducer import HubnessReducer
from simtile.kernels.reference import Stats

AFFINE = (SOFT | TOP | {"distribution_normalization"}) - GATED - DUAL
"""Methods whose correction follows from one pass over one bank."""


@torch.no_grad()
def hub_stats(
    bank: Tensor, gallery: Tensor, *, method: Method = "inverted_softmax", **parameters: float
) -> tuple[Tensor, Tensor]:
    """Scale and bias of each item, in one pass over the bank.

    Parameters
    ----------
    bank : Tensor (B, D)      other queries
    gallery : Tensor (N, D)      of the dtype and device of the bank; both are taken as they are: normalise for cosines
    method : str      inverted_softmax, csls, nnn, distribution_normalization; for unit vectors local_scaling, nicdm
    **parameters      beta, k, alpha as in :class:`simtile.hubness.HubnessReducer`

    Returns
    -------
    (scale (N,), bias (N,))      float32: items rank by ``scale * <query, item> + bias``

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    :func:`simtile.functional.pair_stats` on the tensors' device; memory O(N (k + 1)).
    """
    if method not in AFFINE:
        raise ValueError(f"method: one of {', '.join(sorted(AFFINE))}, got {method!r}")
    settings = settings_of({**HubnessReducer(method).get_params(), **parameters})
    for name, x in (("bank", bank), ("gallery", gallery)):
        if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
            raise TypeError(f"{name}: a floating-point tensor (rows, D), got {type(x).__name__}")
    for what, wanted, got in (
        ("columns", gallery.shape[1], bank.shape[1]),
        ("dtype", gallery.dtype, bank.dtype),
        ("device", gallery.device, bank.device),
    ):
        if wanted != got:
            raise ValueError(f"bank: the {what} of the gallery, {wanted}, got {got}")
    if len(bank) < settings.least_bank:
        raise ValueError(f"bank: at least {settings.least_bank} rows, got {len(bank)}")
    betas = (settings.beta,) if method in SOFT else ()
    found = correction(settings, {"query": _stats(bank, gallery, betas, settings.depth)})
    scale = np.ones(len(gallery)) if found.scale is None else found.scale
    return tuple(torch.from_numpy(x).to(gallery.device, torch.float32) for x in (scale, found.biases[0]))  # type: ignore[return-value]


def _stats(bank: Tensor, gallery: Tensor, betas: tuple[float, ...], depth: int) -> Stats:
    found = pair_stats(bank, gallery, betas=betas, ks=(depth,) if depth else ())
    parts = (x.double().cpu().numpy() for x in (found.lse, found.mean, found.var, found.top))
    return Stats(betas, found.ks, len(bank), *parts)


@torch.no_grad()
def biased_topk(queries: Tensor, gallery: Tensor, k: int, scale: Tensor | None, bias: Tensor | None) -> TopK:
    """The k items with the largest scale * <query, item> + bias: ``functional.pair_topk`` without gradients.

    Parameters
    ----------
    queries : Tensor (M, D)
    gallery : Tensor (N, D)
    scale, bias : Tensor (N,) or None      as of :func:`hub_stats`

    Examples
    --------
    >>> items = torch.eye(2)
    >>> biased_topk(torch.tensor([[0.6, 0.5]]), items, 1, None, torch.tensor([-0.2, 0.0])).ids
    tensor([[1]])
    """
    return pair_topk(queries, gallery, k, y_scale=scale, y_bias=bias)
