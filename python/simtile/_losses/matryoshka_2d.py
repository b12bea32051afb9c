"""Matryoshka embeddings in two dimensions: cut after any of some coordinates, and after any layer of the encoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.matryoshka import matryoshka_info_nce
from simtile._pairs import Scale, as_vector, check_like, check_matrix, loss_dtype
from simtile._reductions import reduced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.functional import Reduction


def matryoshka_2d(
    query_layers: Sequence[Tensor],
    key_layers: Sequence[Tensor],
    dims: Sequence[int],
    *,
    layer_weights: Sequence[float] | None = None,
    kl_weight: float = 1.0,
    kl_temperature: float = 0.3,
    weights: Sequence[float] | None = None,
    temperature: Scale = 0.05,
    symmetric: bool = False,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """2D Matryoshka (ESE): Matryoshka InfoNCE of several layers, and each layer drawn to the last one.

    loss = MIN(last) + (1/n) Σ_l v_l MIN(layer l) + kl_weight · τ Σ_l KL(softmax(last/τ) ‖ softmax(layer l/τ))

    MIN is :func:`matryoshka_info_nce` over ``dims``; the n earlier layers are those given, all or a sample of one, as
    the paper takes. KL runs over the coordinates of an embedding, for each query and key of a pair, and pulls on the
    earlier layer only.

    Parameters
    ----------
    query_layers, key_layers : sequences of Tensor (M, D), (N, D)      embeddings of the same rows from one layer each,
        the last layer last
    dims : sequence of int      the prefixes' lengths
    layer_weights : sequence of float      v_l of the earlier layers; default 1 / (1 + ln l), l = 1, 2, ..., as in the
        authors' code, which fits where all layers are given
    kl_weight, kl_temperature : float      1 and 0.3 as in sentence-transformers; the authors' code has a τ of 1
    weights, temperature, symmetric, query_ids, key_ids, weight, reduction      as in :func:`matryoshka_info_nce`

    Returns
    -------
    Tensor ()  or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    Work and memory of :func:`matryoshka_info_nce` a layer, for all prefixes together, and O(M·D) for the KL. Li et al.
    2024, 2D Matryoshka Sentence Embeddings, arXiv:2402.14776. The later version's compression by principal components
    is left out.
    """
    if len(query_layers) == 0 or len(query_layers) != len(key_layers):
        raise ValueError(f"key_layers: one for each of query_layers, {len(query_layers)}, got {len(key_layers)}")
    last = query_layers[-1], key_layers[-1]
    earlier = list(zip(query_layers[:-1], key_layers[:-1], strict=True))
    shares = [1 / (1 + math.log(n)) for n in range(1, len(earlier) + 1)] if layer_weights is None else layer_weights
    if len(shares) != len(earlier):
        raise ValueError(f"layer_weights: one for each of the {len(earlier)} earlier layers, got {len(shares)}")
    if not kl_temperature > 0:
        raise ValueError(f"kl_temperature: a number above 0, got {kl_temperature}")

    def nested(query: Tensor, key: Tensor) -> Tensor:
        return matryoshka_info_nce(
            query, key, dims, weights=weights, temperature=temperature, symmetric=symmetric, query_ids=query_ids,
            key_ids=key_ids, weight=weight, reduction=reduction,
        )  # fmt: skip

    total = nested(*last)
    rows = as_vector("weight", weight, last[0].shape[0], last[0])
    for share, layer in zip(shares, earlier, strict=True):
        for name, part, final in zip(("query_layers", "key_layers"), layer, last, strict=True):
            check_matrix(name, part)
            check_like(name, part, f"{name}[-1]", final)
            if part.shape[0] != final.shape[0]:
                raise ValueError(f"{name}: {final.shape[0]} rows each, got {part.shape[0]}")
        total = total + share / len(earlier) * nested(*layer)
        if kl_weight != 0:
            query, key = (_divergence(layer[side], last[side], kl_temperature, len(last[0])) for side in (0, 1))
            total = total + kl_weight * reduced((query + key) / 2, rows, reduction)
    return total


def _divergence(part: Tensor, final: Tensor, temperature: float, rows: int) -> Tensor:
    """(rows,) τ · KL(softmax(final/τ) ‖ softmax(part/τ)) of the first rows; final is a constant."""
    dtype = loss_dtype(part)
    log_q = torch.log_softmax(part[:rows].to(dtype) / temperature, 1)
    log_p = torch.log_softmax(final[:rows].detach().to(dtype) / temperature, 1)
    return temperature * (log_p.exp() * (log_p - log_q)).sum(1)
