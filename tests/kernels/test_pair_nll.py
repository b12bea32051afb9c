"""Negative log-likelihood with its gradient made in the forward pass, in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jobs import DTYPES, SCALES, SHAPES, Dense, Job, dense_gradients, job, sum_floor
from torch import Tensor

from accuracy import assert_as_accurate, opposed_row, rounded, saturated_pairs
from simtile.kernels import pair_nll, reference_torch
from simtile.kernels.accumulate import Wanted
from simtile.kernels.pair_nll import Link, pair_nll_fwd

EVERYTHING = Wanted(True, True, True, True, True)


def check(given: Job, link: Link, *, own: bool = False, weight: Tensor | None = None, **execution: object) -> None:
    M = len(given.x)
    target = None if own else torch.linspace(-1.0, 1.0, M) * given.scale
    w = torch.ones(M) if weight is None else weight

    def losses(dense: Dense) -> Tensor:
        right = dense.all_scores.diagonal()[:M] if target is None else target.to(dense.scores.dtype)
        z = dense.lse(1) - right
        empty = torch.isneginf(z)
        z = z.masked_fill(empty, 0.0)
        return (reference_torch.softplus(z) if link == "softplus" else z).masked_fill(empty, 0.0)

    result = pair_nll_fwd(
        given.x, given.y, target, weight=weight, link=link, wanted=EVERYTHING, **given.options, **execution
    )
    exact, plain = Dense(given, torch.float64), Dense(Job(given.x.float(), given.y.float(), given.options))
    magnitude = max(given.scale, 1.0)
    assert_as_accurate(result.loss, losses(plain), losses(exact).detach().numpy(), magnitude=magnitude)
    alone = pair_nll_fwd(given.x, given.y, target, weight=weight, link=link, **given.options)
    assert torch.equal(alone.loss, result.loss)
    assert torch.equal(alone.target_grad, result.target_grad)
    assert alone.grads is None

    truth, naive = dense_gradients(given, lambda dense: (losses(dense) * w.to(dense.scores.dtype)).sum())
    assert result.grads is not None
    size = float(np.abs(truth[0]).max() * np.abs(given.x.double().numpy()).sum())
    for name, actual, bar, exactly in zip(result.grads._fields, result.grads, naive, truth, strict=True):
        if name not in ("x", "y"):
            actual = actual.to(given.x.dtype)  # sums of coefficients that are stored in the inputs' type
        # The rounding of a score is a relative error of its coefficient, also where coefficients cancel: with own
        # targets a bias of rows takes no part in the loss.
        bias = float(w.abs().max()) * magnitude
        least = {"scale": size, "x_bias": bias, "y_bias": bias}.get(name)
        assert_as_accurate(actual, bar, exactly, magnitude=least, floor=sum_floor(M, len(given.y)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    check(job(rng, M, N, D, dtype=dtype, scale=14.0), "lse")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_own_targets_under_both_links(link: Link, scale: float, rng: np.random.Generator) -> None:
    check(job(rng, 37, 70, 20, scale=scale, rules=("diagonal",)), link, own=True)


@pytest.mark.parametrize("rule", ["exclude", "only", "lists", "bias", "threshold"])
def test_every_rule(rule: str, rng: np.random.Generator) -> None:
    check(job(rng, 37, 70, 20, scale=14.0, rules=(rule,)), "softplus")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_a_row_opposed_to_everything(link: Link, scale: float, rng: np.random.Generator) -> None:
    x, y = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 37, 40, 24))
    check(Job(x, y, {"scale": torch.tensor(scale)}), link)


def test_blocks_of_rows_and_recomputation_agree(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows a block; and, where even those would be too few, blocks of recomputed scores."""
    given = job(rng, 50, 70, 12, scale=14.0, rules=("lists", "diagonal"))
    weight = torch.linspace(0.0, 1.0, 50)
    check(given, "softplus", own=True, weight=weight, workspace_bytes=12000)
    monkeypatch.setattr(pair_nll, "FEWEST_ROWS", 1)
    check(given, "softplus", own=True, weight=weight, workspace_bytes=12000)


def test_a_row_of_weight_zero_adds_nothing_even_if_its_target_is_nan(rng: np.random.Generator) -> None:
    given = job(rng, 10, 12, 8, scale=14.0)
    target, weight = torch.zeros(10), torch.ones(10)
    target[3], weight[3] = float("nan"), 0.0
    result = pair_nll_fwd(given.x, given.y, target, weight=weight, link="softplus", wanted=Wanted(), **given.options)
    assert result.target_grad[3] == 0.0
    assert result.grads is not None and not result.grads.x[3].any()
    assert torch.isfinite(result.grads.y).all()


def test_saturated_pairs_keep_their_digits(rng: np.random.Generator) -> None:
    """Losses near 1e-13: ``p - 1`` has no correct digit left in float32."""
    x, y = (rounded(part, torch.float32)[0] for part in saturated_pairs(rng, 40, 24))
    given = Job(x, y, {"scale": torch.tensor(60.0), "skip_diagonal": True})
    result = pair_nll_fwd(x, y, None, link="softplus", wanted=Wanted(), **given.options)
    exact = Dense(given, torch.float64)
    z = exact.lse(1) - exact.all_scores.diagonal()
    loss = reference_torch.softplus(z)
    truth = exact.gradients(loss.sum())[0].numpy()
    # The rounding of a score of 60, 4e-6, is a relative error of the loss and of its gradient.
    np.testing.assert_allclose(result.loss.numpy(), loss.detach().numpy(), rtol=3e-5)
    assert result.grads is not None
    assert np.abs(result.grads.x.numpy() - truth).max() < 3e-5 * np.abs(truth).max()
