"""Progressive weights: what the schedule gets and does, and the memory of a large batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from loss_checks import LargestTensor, drawn
from simtile.adaptive import easy_then_hard, progressive_info_nce
from simtile.functional import info_nce
from simtile.losses import ProgressiveInfoNCELoss


def dense_difficulty(q, k, hard, temperature):
    """log-sum-exp of a row's negatives minus its positive."""
    q, k, hard = normalize(q, dim=1), normalize(k, dim=1), normalize(hard, dim=2)
    s = q @ k.T / temperature
    own = s.diagonal()
    s = s.masked_fill(torch.eye(*s.shape, dtype=torch.bool), -torch.inf)
    return torch.logsumexp(torch.cat([s, torch.einsum("md,mkd->mk", q, hard) / temperature], 1), 1) - own


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_equals_its_equation_in_value_and_gradient(rng, progress):
    q, k, hard = (part.requires_grad_() for part in drawn(rng, (9, 4), (12, 4), (9, 5, 4)))
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    d = dense_difficulty(q, k, hard, temperature)
    w = torch.softmax((2 * progress - 1) * (d - d.mean()) / d.std(unbiased=False), 0).detach() * 9
    want = (w * torch.log1p(d.exp())).sum() / 9
    got = progressive_info_nce(q, k, progress=progress, row_negatives=hard, temperature=temperature)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=0)
    inputs = [q, k, hard, temperature]
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_gradcheck_under_a_fixed_schedule(rng):
    q, k = (part.requires_grad_() for part in drawn(rng, (4, 3), (5, 3)))
    fixed = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k: progressive_info_nce(q, k, progress=0.5, schedule=lambda *_: fixed, temperature=0.5), (q, k)
    )


def test_the_default_turns_from_easy_rows_to_hard_ones(rng):
    d = torch.linspace(-3, 3, 11)
    first, middle, last = (easy_then_hard(d, progress) for progress in (0.0, 0.5, 1.0))
    assert (first.diff() < 0).all() and (middle == 1).all() and (last.diff() > 0).all()
    for weights in (first, middle, last, easy_then_hard(torch.zeros(4), 0.0)):
        torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_halfway_it_is_info_nce_and_the_module_is_the_function(rng):
    q, k = drawn(rng, (8, 4), (8, 4))
    weight = torch.linspace(0, 1, 8, dtype=torch.float64)
    want = info_nce(q, k, temperature=0.1, weight=weight)
    torch.testing.assert_close(progressive_info_nce(q, k, progress=0.5, temperature=0.1, weight=weight), want)
    module = ProgressiveInfoNCELoss(0.1)
    assert torch.equal(module(q, k, progress=0.9), progressive_info_nce(q, k, progress=0.9, temperature=0.1))


def test_rows_are_told_apart_by_ids_and_no_matrix_of_all_pairs_is_made(rng):
    q, k = drawn(rng, (6, 4), (6, 4))
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    seen = []
    progressive_info_nce(
        q, k, progress=0.0, query_ids=ids, key_ids=ids, schedule=lambda d, _: seen.append(d) or torch.ones_like(d)
    )
    s = normalize(q, dim=1) @ normalize(k, dim=1).T / 0.01
    torch.testing.assert_close(seen[0], torch.logsumexp(s.masked_fill(ids[:, None] == ids, -torch.inf), 1) - s.diag())
    q, k = (part.float().requires_grad_() for part in drawn(rng, (2048, 8), (2048, 8)))
    with LargestTensor() as largest:
        progressive_info_nce(q, k, progress=0.2).backward()
    assert 0 < largest.elements <= 64 * 2048


def test_wrong_arguments_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="progress: a number from 0 to 1"):
        progressive_info_nce(x, x, progress=1.5)
    with pytest.raises(ValueError, match="schedule's weights: floating point, shape"):
        progressive_info_nce(x, x, progress=0.5, schedule=lambda d, _: d[:2])
    with pytest.raises(ValueError, match="row_negatives: a Tensor"):
        progressive_info_nce(x, x, progress=0.5, row_negatives=torch.ones(2, 1, 2))
