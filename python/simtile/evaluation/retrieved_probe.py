"""Retrieval-augmented classification: what a pool says near each class's prompts trains a linear probe.

    pool_c = the best texts of the pool by <caption, p_c>        p_c: mean prompt of class c over its synonyms
    W = argmin  mean CE(scale·x Wᵀ, class) + weight_decay / 2·|W - P|²        from the zero-shot weights P
    classifier = alpha·W + (1 - alpha)·P        rows of unit length

Parashar et al. 2024, The Neglected Tails, arXiv:2401.12425 (REAL-Linear): captions of the pretraining set are ranked by
similarity to the prompts, a probe that starts from the prompts is trained on the images behind them, and both sets of
weights are averaged (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903). Here the probe is the minimum of a convex
function, kept near P by weight decay, where the authors take a fixed number of AdamW steps. As in their code the scale
is 100, alpha 0.5, and captions of negative similarity are left out.
"""

from __future__ import annotations

from typing import Any

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._normalize import unit
from simtile._pairs import check_like, check_matrix
from simtile.functional import info_nce
from simtile.hubness.cutoff import Ragged, cut
from simtile.search import ExactIndex
from simtile.search._arrays import as_matrix

__all__ = ["average_weights", "linear_probe", "retrieve_for_classes"]


def retrieve_for_classes(
    prompts: Any, captions: Any, *, per_class: int = 500, threshold: float = 0.0, num_threads: int | None = None
) -> Ragged:
    """The pool's items whose captions are nearest to each class's prompt.

    Parameters
    ----------
    prompts : array or CPU tensor (C, D)      one a class: the mean over its synonyms
    captions : array or CPU tensor (N, D)
    per_class : int      at most so many (500 in the paper; their code's default is 100)
    threshold : float      least cosine

    Returns
    -------
    Ragged      list c holds the ids and cosines of class c, best first; an item may serve several classes

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    pool = as_matrix("captions", captions)
    asked = as_matrix("prompts", prompts)
    if asked.shape[1] != pool.shape[1]:
        raise ValueError(f"prompts: {pool.shape[1]} columns, got {asked.shape[1]}")
    scores, ids = ExactIndex(pool, metric="cosine").search(asked, per_class, num_threads=num_threads)
    return cut(scores, ids, threshold)


def linear_probe(
    zero_shot: Tensor, features: Tensor, labels: Tensor, *, scale: float = 100.0, weight_decay: float = 1.0,
    steps: int = 100,
) -> Tensor:  # fmt: skip
    """Weights of a linear classifier of unit features that starts from the zero-shot weights and stays near them.

    Parameters
    ----------
    zero_shot : Tensor (C, D)      prompt embeddings, divided by their lengths
    features : Tensor (N, D)      likewise
    labels : integer Tensor (N,)      in 0..C - 1
    scale : float      of the cosines
    weight_decay : float      towards the zero-shot weights: 0 forgets where it started, infinity never leaves
    steps : int      of L-BFGS, at most

    Returns
    -------
    Tensor (C, D)

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    The (N, C) logits are not stored where they are large: :func:`simtile.functional.info_nce` with targets.
    """
    check_matrix("zero_shot", zero_shot)
    check_like("features", features, "zero_shot", zero_shot)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels: shape {tuple(features.shape[:1])}, got {tuple(labels.shape)}")
    for name, part in (("zero_shot", zero_shot), ("features", features)):
        if not part.isfinite().all():
            raise ValueError(f"{name}: finite values, got NaN or infinity")
    if not (scale > 0 and weight_decay >= 0):
        raise ValueError(f"scale, weight_decay: above 0 and at least 0, got {scale} and {weight_decay}")
    start, x = unit(zero_shot.detach()), unit(features.detach())
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = info_nce(x, weights, targets=labels, temperature=1 / scale, normalize=False)
        loss = fit + weight_decay / 2 * (weights - start).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def average_weights(zero_shot: Tensor, probe: Tensor, *, alpha: float = 0.5) -> Tensor:
    """alpha·probe + (1 - alpha)·zero_shot (C, D), rows divided by their lengths before.

    The authors' probe stays near unit length by itself, for it takes few small steps; this one need not.
    """
    check_matrix("zero_shot", zero_shot)
    check_like("probe", probe, "zero_shot", zero_shot)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: 0 to 1, got {alpha}")
    return alpha * unit(probe) + (1 - alpha) * unit(zero_shot)
