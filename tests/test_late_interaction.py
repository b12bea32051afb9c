"""MaxSim against the whole tensor of token pairs, for sets of any lengths, in bounded memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from accuracy import assert_as_accurate
from loss_checks import LargestTensor, drawn
from plain_torch import gradients
from simtile import late_interaction
from simtile.cur import MaxSimScorer
from simtile.late_interaction import maxsim, maxsim_info_nce
from simtile.losses import MaxSimLoss

LENGTHS = {
    "ragged": ([3, 1, 5, 2], [4, 1, 1, 9, 2, 6]), "one-token-queries": ([1, 1, 1], [4, 4, 4]), "single": ([2], [3]),
    "one-token-documents": ([3, 2], [1] * 7), "no-document": ([2, 2], []), "no-query": ([], [2, 2]),
}  # fmt: skip


def sets(rng, lengths, D=5):
    (tokens,) = drawn(rng, (sum(lengths), D))
    return tokens.requires_grad_(), torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)


def whole(x, y, x_indptr, y_indptr, mean=False):
    """From all token pairs."""
    s = x @ y.T
    rows = []
    for a, b in itertools.pairwise(x_indptr):
        best = [s[a:b, c:d].max(1).values for c, d in itertools.pairwise(y_indptr)]
        rows.append(torch.stack([part.mean() if mean else part.sum() for part in best]) if best else s.new_empty(0))
    found = torch.stack(rows) if rows else s.new_empty(0, len(y_indptr) - 1)
    return found + 0 * s.sum()  # in the graph, though there be no pair


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("small", [False, True], ids=["one-chunk", "a-set-a-chunk"])
def test_equals_the_maxima_of_the_whole_tensor(rng, monkeypatch, lengths, aggregate, small):
    if small:
        monkeypatch.setattr(late_interaction, "_DOCUMENT_TOKENS", 1)
        monkeypatch.setattr(late_interaction, "WORKSPACE_BYTES", 64)
    (x, x_indptr), (y, y_indptr) = (sets(rng, part) for part in lengths)
    found = maxsim(x, y, query_indptr=x_indptr, document_indptr=y_indptr, aggregate=aggregate)
    want = whole(x, y, x_indptr, y_indptr, aggregate == "mean")
    torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    weight = torch.from_numpy(rng.normal(size=tuple(found.shape)))
    mine, truth = (gradients((part * weight).sum(), [x, y]) for part in (found, want))
    torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-13)


def test_sets_of_equal_size_need_no_lists(rng):
    x, y = drawn(rng, (4, 3, 5), (6, 7, 5))
    want = maxsim(
        x.flatten(0, 1), y.flatten(0, 1), query_indptr=torch.arange(5) * 3, document_indptr=torch.arange(7) * 7
    )
    assert torch.equal(maxsim(x, y), want)
    assert torch.equal(maxsim(x, y.flatten(0, 1), document_indptr=torch.arange(7) * 7), want)


def test_gradcheck_and_no_second_derivative(rng):
    (x, x_indptr), (y, y_indptr) = sets(rng, [2, 3], 3), sets(rng, [1, 4], 3)

    def scores(x, y):
        return maxsim(x, y, query_indptr=x_indptr, document_indptr=y_indptr)

    assert torch.autograd.gradcheck(scores, [x, y])
    (by_query,) = torch.autograd.grad(scores(x, y).sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        by_query.sum().backward()


def test_the_first_of_equal_matches_gets_the_gradient():
    x, y = torch.ones(1, 2, 2), torch.ones(2, 3, 2, requires_grad=True)
    maxsim(x, y).sum().backward()
    assert y.grad[:, 1:].abs().sum() == 0 and (y.grad[:, 0] == 2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_errors_are_those_of_plain_torch(rng, dtype):
    x, y = (part.to(dtype) for part in drawn(rng, (5, 6, 32), (9, 11, 32)))
    results = []
    for wide, mine in ((dtype, True), (dtype, False), (torch.float64, False)):
        a, b = (part.to(wide).requires_grad_() for part in (x, y))
        s = maxsim(a, b) if mine else torch.einsum("qtd,nud->qntu", a, b).amax(3).sum(2)
        results.append([s.detach(), *gradients((s * torch.linspace(-1, 1, 9)).sum(), [a, b])])
    for got, naive, truth in zip(*results, strict=True):
        assert_as_accurate(got, naive, truth.numpy())
    assert results[0][0].dtype == torch.float32 and results[0][1].dtype == dtype


def test_it_never_holds_all_token_pairs_nor_a_best_match_of_each():
    """256 queries of 32 tokens and 256 documents of up to 48: 80M token pairs, 2M best matches, 65,536 scores."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(24, 49, (256,), generator=generator)
    x = torch.randn(256, 32, 8, generator=generator).requires_grad_()
    y = torch.randn(int(lengths.sum()), 8, generator=generator).requires_grad_()
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    with LargestTensor() as largest:
        maxsim_info_nce(x, y, document_indptr=indptr).backward()
    assert 0 < largest.elements * 4 <= 8 << 20


def test_no_gradient_is_made_for_a_frozen_side(rng):
    (x, x_indptr), (y, y_indptr) = sets(rng, [2, 3]), sets(rng, [4, 1])
    scores = maxsim(x.detach(), y, query_indptr=x_indptr, document_indptr=y_indptr)
    scores.sum().backward()
    assert x.grad is None and y.grad is not None
    assert not maxsim(x.detach(), y.detach(), query_indptr=x_indptr, document_indptr=y_indptr).requires_grad


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_cross_entropy_over_documents(rng, symmetric):
    x, y = (normalize(part, dim=2).requires_grad_() for part in drawn(rng, (5, 3, 4), (5, 6, 4)))
    s = torch.einsum("qtd,nud->qntu", x, y).amax(3).mean(2) / 0.1
    own = torch.arange(5)
    want = (cross_entropy(s, own) + cross_entropy(s.T, own)) / 2 if symmetric else cross_entropy(s, own)
    how = {"temperature": 0.1, "aggregate": "mean", "symmetric": symmetric}
    torch.testing.assert_close(maxsim_info_nce(x, y, **how), want, rtol=1e-12, atol=0)
    torch.testing.assert_close(MaxSimLoss(**how)(x, y), want, rtol=1e-12, atol=0)
    learning = MaxSimLoss(learn_temperature=True)
    learning(x, y).backward()
    assert learning.log_scale.grad != 0


def test_gradcheck_of_the_loss(rng):
    inputs = [part.requires_grad_() for part in drawn(rng, (3, 2, 3), (3, 4, 3))]
    inputs.append(torch.tensor(0.5, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(lambda x, y, t: maxsim_info_nce(x, y, temperature=t, symmetric=True), inputs)


def test_one_token_a_query_and_a_target_of_several_is_sprc(rng):
    """Its code: the maximum over a target's 32 tokens, divided by the temperature, cross-entropy over the batch."""
    fused, target = (normalize(part, dim=-1) for part in drawn(rng, (6, 8), (6, 32, 8)))
    s = torch.matmul(fused[:, None, None], target.permute(0, 2, 1)).squeeze().max(-1).values / 0.07
    want = cross_entropy(s, torch.arange(6))
    torch.testing.assert_close(maxsim_info_nce(fused[:, None], target, temperature=0.07), want, rtol=1e-12, atol=0)


def test_it_is_the_scorer_of_cross_encoder_search(rng):
    x, y = drawn(rng, (2, 3, 4), (5, 6, 4))
    scorer = MaxSimScorer(version="test")
    for q in range(2):
        want = scorer.score([(x[q].numpy(), part.numpy()) for part in y])
        np.testing.assert_allclose(maxsim(x, y)[q], want, rtol=1e-12)


def test_autocast_does_not_round_the_products(rng):
    x, y = (part.float() for part in drawn(rng, (3, 4, 16), (5, 6, 16)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(maxsim(x, y), maxsim(x, y).float())
        under = maxsim(x, y)
    assert torch.equal(under, maxsim(x, y))


def test_wrong_arguments_are_named():
    x = torch.ones(2, 3, 4)
    for call, message in (
        (lambda: maxsim(x[0], x), r"query: a Tensor \(sets, tokens, D\) unless query_indptr is given, got \(3, 4\)"),
        (lambda: maxsim(x, x[..., :2]), "document: as many columns as query, 4"),
        (
            lambda: maxsim(x, x[0], document_indptr=torch.tensor([0, 1, 1, 3])),
            "document_indptr: rising from 0 to the 3",
        ),
        (lambda: maxsim(x, x, aggregate="max"), "aggregate: one of 'sum', 'mean'"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
