"""LLM-Embedder's stable distillation: ranked candidates of a query against all that rank lower, and all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simtile._losses.batch import checked_batch
from simtile._pairs import Pairs, Scale, check_like
from simtile.listwise._mle import list_order, lists_nll
from simtile.listwise._tail_lse import as_lists

if TYPE_CHECKING:
    from simtile.functional import PlanName, ProcessGroup, Reduction


def stable_distillation(
    query: Tensor,
    candidates: Tensor,
    reward: Tensor,
    *,
    temperature: Scale = 0.01,
    reward_temperature: float = 1.0,
    contrastive_weight: float = 0.0,
    sort: bool = True,
    normalize: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    plan: PlanName = "auto",
    process_group: ProcessGroup = None,
) -> Tensor:
    """A language model's rewards as targets: each candidate must win against those of less reward, and all others'.

    loss_i = Σ_r v_ir (LSE(all candidates but i's better ones) - s_ir),  v_i = softmax(reward_i / reward_temperature)

    Parameters
    ----------
    query : Tensor (M, D)
    candidates : Tensor (M, K, D)      K candidates of each query; those of other queries are negatives
    reward : Tensor (M, K)      what a teacher gives a candidate, a constant
    temperature : float or one-element Tensor      0.01 as in the authors' code
    reward_temperature : float
    contrastive_weight : float      added to the weight of a list's first candidate: the paper's in-batch contrastive
        term, 0.2 in the authors' code
    sort : bool      put each list in the order of its rewards; False: it is in order
    normalize, weight, reduction, plan, process_group      as in :func:`simtile.functional.info_nce`

    Returns
    -------
    Tensor () or (M,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The authors' code takes K cross-entropies of (M, M·K) scores, each with one more candidate masked. Here one
    log-sum-exp over the other queries' candidates, 4u of 2·M·(M·K)·D, is where a reverse cumulative log-sum-exp over
    the own ones starts: the same sums, O(M·K) memory. Zhang et al. 2023, arXiv:2310.07554.
    """
    if not isinstance(candidates, Tensor) or candidates.ndim != 3 or candidates.shape[0] != query.shape[0]:
        got = tuple(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
        raise ValueError(f"candidates: a Tensor (M, K, D) with M = {query.shape[0]}, got {got}")
    M, K, _ = candidates.shape
    if not isinstance(reward, Tensor) or reward.shape != (M, K):
        got = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
        raise ValueError(f"reward: a Tensor ({M}, {K}), got {got}")
    if not reward_temperature > 0:
        raise ValueError(f"reward_temperature: above 0, got {reward_temperature}")
    flat = candidates.flatten(0, 1)
    check_like("candidates", flat, "query", query)
    batch = checked_batch(
        query, flat, temperature, normalize=normalize, weight=weight, reduction=reduction, plan=plan,
        process_group=process_group, paired=False,
    )  # fmt: skip
    ids = batch.pool.new_ids(M, query)
    others, _, _ = batch.lse(batch.query, batch.key, Pairs(ids, ids.repeat_interleave(K)))
    own = batch.key.view(candidates.shape)
    dtype = others.dtype
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.bmm(own.to(dtype), batch.query.to(dtype).unsqueeze(2)).squeeze(2) * batch.scale
    reward = reward.detach().to(dtype)
    share = torch.softmax(reward / reward_temperature, 1).reshape(-1)
    lists = as_lists("scores", scores, None)
    if sort:
        order = list_order(lists, reward.reshape(-1))
        lists, share = lists._replace(scores=lists.scores[order]), share[order]
    if contrastive_weight != 0 and K:
        first = torch.zeros_like(share).view(M, K)
        first[:, 0] = contrastive_weight
        share = share + first.view(-1)
    return batch.reduced(lists_nll(lists, share, others))
