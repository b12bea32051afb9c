"""InfoNCE on several prefixes of the coordinates at once (Matryoshka representations)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.info_nce import info_nce
from simtile._nested import check_dims, nested_nll, nested_scores
from simtile._pairs import (
    Pairs,
    Scale,
    as_ids_pair,
    as_scalar,
    as_vector,
    check_choice,
    check_like,
    check_matrix,
    loss_dtype,
)
from simtile._reductions import REDUCTIONS, reduced, row_weights, without_padding
from simtile.kernels.reference_torch import softplus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.functional import ProcessGroup, Reduction


def matryoshka_info_nce(
    query: Tensor,
    key: Tensor,
    dims: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    temperature: Scale = 0.07,
    symmetric: bool = False,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    process_group: ProcessGroup = None,
) -> Tensor:
    """Σ_k weights[k] times InfoNCE of the first dims[k] coordinates, all from one sweep over the coordinates.

    Embeddings trained so can be cut to any of these lengths. What sentence-transformers computes as MatryoshkaLoss
    around MultipleNegativesRankingLoss, a product a prefix, costs one product here.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M      rows M..N-1 serve as extra negatives
    dims : sequence of int      the prefixes' lengths, 1 to D, in any order
    weights : sequence of float      one a prefix, default 1 each
    temperature, symmetric, query_ids, key_ids, weight, reduction, process_group      as in :func:`info_nce`
    normalize : bool      divide every prefix by its own length, as the paper's retrieval does

    Returns
    -------
    Tensor ()  or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u one-sided on the CPU, where gradients are made in the forward pass, otherwise 4u, u = 2·M·N·D FLOP, for all
    prefixes together. Extra memory O(K·(M + N)) floats, panels of query and key, and on the CPU 16 MiB of coefficients
    a prefix. Plain torch (float64, other devices) takes one prefix after the other, and so does a process group: then
    Σ_k dims[k] / D times as much, and the prefixes' rows are kept for the backward pass. Kusupati et al. 2022,
    arXiv:2205.13147, eq. 1.

    Examples
    --------
    >>> matryoshka_info_nce(torch.eye(4), torch.eye(4), [2, 4], temperature=0.5)
    tensor(1.2043)
    """
    check_matrix("query", query)
    check_like("key", key, "query", query)
    M, N, D = query.shape[0], key.shape[0], query.shape[1]
    if N < M:
        raise ValueError(f"key: at least as many rows as query, {M}, got {N}")
    ends = check_dims(dims, D)
    shares = [1.0] * len(ends) if weights is None else [float(w) for w in weights]
    if len(shares) != len(ends):
        raise ValueError(f"weights: one for each of the {len(ends)} dims, got {len(shares)}")
    check_choice("reduction", reduction, REDUCTIONS)
    value = as_scalar("temperature", temperature, query, positive=True)
    scale = value.reciprocal() if isinstance(value, Tensor) else 1.0 / value
    if process_group is not None:
        parts = [
            share
            * info_nce(
                query[:, :end], key[:, :end], temperature=temperature, symmetric=symmetric, normalize=normalize,
                query_ids=query_ids, key_ids=key_ids, weight=weight, reduction=reduction, process_group=process_group,
            )
            for end, share in zip(ends, shares, strict=True)
        ]  # fmt: skip
        return torch.stack(parts).sum(0)
    query_ids, key_ids = as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key)
    weight = as_vector("weight", weight, M, query)
    if weight is not None:
        weight = weight.detach()
        query = query if symmetric else without_padding(query, weight)

    order = sorted(range(len(ends)), key=ends.__getitem__)
    ends = [ends[k] for k in order]
    share = torch.tensor([shares[k] for k in order], dtype=loss_dtype(query), device=query.device)
    pairs = Pairs(query_ids, key_ids, diagonal="skip")
    if not symmetric and reduction != "none":
        rows = row_weights(query, weight, reduction)
        rows = query.new_ones(M, dtype=loss_dtype(query)) if rows is None else rows
        total = nested_nll(query, key, ends, scale, pairs, share[:, None] * rows, normalize=normalize)
        if total is not None:
            return total
    row, column, own = nested_scores(
        query, key, ends, scale, pairs, normalize=normalize, row=True, column=symmetric, own=True
    )
    assert row is not None and own is not None
    loss = softplus(row - own)
    if column is not None:
        loss = (loss + softplus(column[:, :M] - own)) / 2
    return reduced((share[:, None] * loss).sum(0), weight, reduction)
