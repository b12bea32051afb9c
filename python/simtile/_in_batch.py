"""Retrieval metrics of a batch, without its scores."""

from __future__ import annotations

from torch import Tensor

from simtile._normalize import unit
from simtile._pairs import Pairs, as_ids_pair, check_like, check_matrix
from simtile._plan import engine_for


def in_batch_rank(
    query: Tensor,
    key: Tensor,
    *,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
) -> Tensor:
    """The place of each query's own key among all keys, 1 the best, without the (M, N) scores.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M
    normalize : bool      compare cosines instead of inner products
    query_ids, key_ids : integer Tensor (M,), (N,)      keys with the query's id do not compete with its own

    Returns
    -------
    Tensor (M,) int64      equal scores count against the own key, so that a collapsed model ranks last

    Raises
    ------
    TypeError, ValueError      naming the argument

    Examples
    --------
    >>> in_batch_rank(torch.eye(3), torch.eye(3))
    tensor([1, 1, 1])
    """
    check_matrix("query", query)
    check_like("key", key, "query", query)
    if key.shape[0] < query.shape[0]:
        raise ValueError(f"key: at least as many rows as query, {query.shape[0]}, got {key.shape[0]}")
    query_ids, key_ids = as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key)
    query, key = query.detach(), key.detach()
    if normalize:
        query, key = unit(query), unit(key)
    above, equal = engine_for(query, key.shape[0], "recompute").rank(
        query, key, 1.0, (None, None), Pairs(query_ids, key_ids, diagonal="skip"), None
    )
    return above + equal + 1


def in_batch_accuracy(
    query: Tensor,
    key: Tensor,
    *,
    top_k: int = 1,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
) -> Tensor:
    """The share of queries whose own key is among the ``top_k`` best of all keys: in-batch recall.

    Parameters, ties and errors as :func:`in_batch_rank`; ValueError if ``top_k < 1``. Returns a float32 Tensor ().
    """
    if top_k < 1:
        raise ValueError(f"top_k: at least 1, got {top_k}")
    rank = in_batch_rank(query, key, normalize=normalize, query_ids=query_ids, key_ids=key_ids)
    return (rank <= top_k).float().mean()
