"""InfoNCE whose too similar candidates are not counted as negatives, over one to four blocks of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._normalize import unit
from simtile._pairs import Pairs, Scale, as_ids_pair, check_choice, check_like, check_matrix
from simtile.kernels.reference_torch import merge_lse, softplus
from simtile.targets import row_dot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.functional import PlanName, ProcessGroup, Reduction

Block: TypeAlias = Literal["query_key", "query_query", "key_query", "key_key"]
MarginStrategy: TypeAlias = Literal["absolute", "relative"]
BLOCKS: tuple[Block, ...] = ("query_key", "query_query", "key_query", "key_key")


def filtered_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    guide: tuple[Tensor, Tensor] | None = None,
    margin: float | None = 0.0,
    margin_strategy: MarginStrategy = "absolute",
    blocks: Sequence[Block] = ("query_key",),
    temperature: Scale = 0.05,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """InfoNCE without false negatives: a candidate about as similar as the positive is not pushed away.

    loss_i = log(1 + exp(L_i - s_i)), L_i the log-sum-exp over the kept candidates of all blocks. With g the cosines of
    the guide, or of the embeddings themselves, a candidate j is left out where g_ij > g_ii - margin ("absolute") or
    g_ij > g_ii - margin·|g_ii| ("relative"). The threshold is a constant; the own pair always stays.

    Parameters
    ----------
    query : Tensor (M, D)      row i is paired with row i of ``key``
    key : Tensor (N, D), N >= M      rows M..N-1 serve as extra negatives
    guide : (Tensor (M, E), Tensor (N, E))      frozen features of queries and keys whose cosines decide, as in
        GISTEmbed; None: the embeddings decide themselves
    margin : float or None      0 as in GISTEmbed; -0.1 without a guide is Qwen3-Embedding's filter; None: no filter
    margin_strategy : {"absolute", "relative"}
    blocks : of {"query_key", "query_query", "key_query", "key_key"}      what L_i runs over, besides keys: the other
        queries, the queries that key i sees, and the other keys; "query_key" is always among them. The first, second
        and fourth are GISTEmbed's and Qwen3-Embedding's, all four the improved contrastive loss of GTE
    temperature : float or one-element Tensor
    query_ids, key_ids : integer Tensor (M,), (N,)      rows of equal ids are left out of every block
    normalize, weight, reduction, plan, process_group      as in :func:`info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    3u for the keys when reduced, 4u for each further block; a guide adds its own product to every pass. GISTEmbed:
    Solatorio 2024, arXiv:2402.16829. Qwen3-Embedding: Zhang et al. 2025, arXiv:2506.05176. GTE: Li et al. 2023,
    arXiv:2308.03281.
    """
    batch = checked_batch(
        query, key, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group,
    )  # fmt: skip
    check_choice("margin_strategy", margin_strategy, ("absolute", "relative"))
    for block in blocks:
        check_choice("blocks", block, BLOCKS)
    if "query_key" not in blocks or len(set(blocks)) != len(blocks):
        raise ValueError(f"blocks: 'query_key' and others, each once, got {tuple(blocks)}")
    M = query.shape[0]
    query_ids, key_ids = as_ids_pair("query_ids", query_ids, "key_ids", key_ids, query, key)
    own_guide = guide is None and normalize  # then the scores themselves are compared, without a product of their own
    left, right = (query, key) if own_guide else _guide(query, key, guide)
    limit: Tensor | None = None
    if margin is not None:
        limit = batch.own_products().detach() if own_guide else row_dot(left, right[:M])
        limit = limit - margin * (limit.abs() if margin_strategy == "relative" else 1.0)
        if own_guide:
            limit = limit * (batch.scale.detach() if isinstance(batch.scale, Tensor) else batch.scale)

    def kept(x: _Side, y: _Side) -> Pairs:
        pairs = Pairs(x.ids, y.ids, diagonal="skip", threshold=limit)
        return pairs if limit is None or own_guide else pairs._replace(guide_x=x.guide, guide_y=y.guide)

    rows = (batch.query, batch.key) if len(blocks) > 1 else (query, key)  # only further blocks read them
    queries, keys = _Side(rows[0], query_ids, left), _Side(rows[1], key_ids, right)
    partners = _Side(rows[1][:M], None if key_ids is None else key_ids[:M], right[:M])
    sides = {
        "query_query": (queries, queries), "key_query": (partners, queries), "key_key": (partners, partners),
    }  # fmt: skip
    own = batch.own()
    # softplus(logaddexp(L, R) - s) = softplus(L - t) + softplus(R - s) with t = logaddexp(R, s): the largest block, of
    # the keys, makes its gradients with the loss.
    rest: Tensor | None = None
    for block in blocks:
        if block != "query_key":
            x, y = sides[block]
            part, _, _ = batch.lse(x.rows, y.rows, kept(x, y))
            rest = part if rest is None else merge_lse(rest, part)
    target = own if rest is None else merge_lse(rest, own)
    rest = None if rest is None else softplus(rest - own)
    return batch.all_nll(kept(queries, keys), target, link="softplus", rest=rest)


class _Side(NamedTuple):
    """Rows of a block of scores."""

    rows: Tensor
    ids: Tensor | None
    guide: Tensor


def _guide(query: Tensor, key: Tensor, guide: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """(M, E), (N, E) unit features whose cosines decide, constants."""
    if guide is None:
        left, right = query, key
    else:
        if not isinstance(guide, tuple) or len(guide) != 2:
            raise TypeError(f"guide: a pair of tensors or None, got {type(guide).__name__}")
        left, right = guide
        check_matrix("guide[0]", left)
        check_like("guide[1]", right, "guide[0]", left)
        for i, (part, rows) in enumerate(((left, query.shape[0]), (right, key.shape[0]))):
            if part.shape[0] != rows:
                raise ValueError(f"guide[{i}]: {rows} rows, got {part.shape[0]}")
    return unit(left.detach()), unit(right.detach())
