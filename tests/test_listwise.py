"""List-wise losses against the authors' loops, and what they are at the ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn.functional import cross_entropy, normalize

from accuracy import assert_as_accurate
from loss_checks import LargestTensor, assert_gradcheck, drawn
from plain_torch import gradients
from simtile.listwise import (
    list_mle,
    pearson_loss,
    pro_loss,
    rank_kl_loss,
    stable_distillation,
    sts_loss,
    tail_lse,
    wasserstein_loss,
)

RAGGED = [[3, 1, 7], [1], [0, 4, 0, 2], [0, 0], [64, 33], [200]]


def ragged(rng, lengths):
    (scores,) = drawn(rng, (sum(lengths),))
    return 3 * scores, torch.tensor([0, *np.cumsum(lengths)])


def looped(scores, indptr, background=None, exclusive=False):
    """Item by item."""
    found = []
    for g in range(len(indptr) - 1):
        own = scores[indptr[g] : indptr[g + 1]]
        more = scores.new_empty(0) if background is None else background[g : g + 1]
        found += [torch.logsumexp(torch.cat([own[r + exclusive :], more]), 0) for r in range(len(own))]
    return torch.stack(found) if found else scores[:0]


@pytest.mark.parametrize("lengths", RAGGED, ids=str)
@pytest.mark.parametrize("with_background", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_tail_is_the_log_sum_exp_of_what_follows(rng, lengths, with_background, exclusive):
    scores, indptr = ragged(rng, lengths)
    (background,) = drawn(rng, (len(lengths),))
    inputs = [scores.requires_grad_(), *([background.requires_grad_()] if with_background else [])]
    found = tail_lse(scores, indptr, background=background if with_background else None, exclusive=exclusive)
    want = looped(scores, indptr, background if with_background else None, exclusive)
    torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    kept, weight = ~want.isneginf(), torch.linspace(-1, 2, len(want), dtype=torch.float64)
    for mine, truth in zip(*(gradients((part * weight)[kept].sum(), inputs) for part in (found, want)), strict=True):
        torch.testing.assert_close(mine, truth.nan_to_num(0.0), rtol=1e-12, atol=1e-13)


def test_the_gradient_of_a_tail(rng):
    scores, indptr = ragged(rng, [3, 0, 5])
    (background,) = drawn(rng, (3,))
    inputs = [scores.requires_grad_(), background.requires_grad_()]
    assert torch.autograd.gradcheck(lambda s, b: tail_lse(s, indptr, background=b), inputs)
    (by_scores,) = torch.autograd.grad(tail_lse(scores, indptr).sum(), [scores], create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        by_scores.sum().backward()


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_tails_of_long_steep_lists_are_as_accurate_as_one_log_sum_exp_each(rng, order):
    """Scores from -300 to 300: no exponential of any of them is a float32, and the sums run over 2,000 items."""
    steep = torch.linspace(-300, 300, 2000, dtype=torch.float64)[::order].clone() if order == 1 else None
    steep = torch.linspace(300, -300, 2000, dtype=torch.float64) if steep is None else steep
    wide = (steep + torch.from_numpy(rng.normal(size=2000))).float()
    found, plain, exact = [], [], []
    for out, dtype, function in ((found, torch.float32, None), (plain, torch.float32, 1), (exact, torch.float64, 1)):
        s = wide.to(dtype)[None].requires_grad_()
        tail = tail_lse(s) if function is None else torch.logcumsumexp(s.flip(1), 1).flip(1)
        out += [tail.detach(), *gradients((tail * torch.linspace(0, 1, 2000, dtype=dtype)).sum(), [s])]
    for mine, naive, truth in zip(found, plain, exact, strict=True):
        assert torch.isfinite(mine).all()
        assert_as_accurate(mine, naive, truth.numpy())


def test_items_that_are_left_out_by_minus_infinity_change_nothing(rng):
    (scores,) = drawn(rng, (2, 5))
    scores[:, 3:] = -torch.inf
    scores = scores.requires_grad_()
    found = tail_lse(scores)
    assert torch.equal(found[:, 3:], scores.detach()[:, 3:])
    torch.testing.assert_close(found[:, :3], tail_lse(scores[:, :3]))
    (by_scores,) = gradients(found[:, :3].sum(), [scores])
    assert torch.isfinite(by_scores).all() and (by_scores[:, 3:] == 0).all()


@given(cut=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_list_in_two_parts_is_one_with_the_second_as_background_of_the_first(cut, seed):
    scores = 5 * torch.randn(1, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    whole, second = tail_lse(scores), tail_lse(scores[:, cut:])
    torch.testing.assert_close(whole[:, cut:], second, rtol=1e-13, atol=1e-13)
    background = second[:, 0] if cut < 9 else torch.full((1,), -torch.inf, dtype=torch.float64)
    torch.testing.assert_close(whole[:, :cut], tail_lse(scores[:, :cut], background=background), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(tail_lse(scores + 100) - 100, whole, rtol=1e-12, atol=1e-12)


def test_list_mle_is_the_likelihood_of_the_order(rng):
    """Plackett-Luce: the product of softmaxes over what is left."""
    scores, indptr = ragged(rng, [4, 0, 6])
    relevance = torch.from_numpy(rng.integers(0, 3, 10)).double()
    weight = torch.from_numpy(rng.uniform(0.5, 2, 10))
    want = []
    for g in range(3):
        part = slice(int(indptr[g]), int(indptr[g + 1]))
        order = torch.argsort(relevance[part], descending=True, stable=True)
        s, v = scores[part][order], weight[part][order]
        want.append(-sum((v[r] * torch.log_softmax(s[r:], 0)[0] for r in range(len(s))), torch.tensor(0.0)))
    want = torch.stack([part.double() for part in want])
    how = {"relevance": relevance, "item_weight": weight}
    torch.testing.assert_close(list_mle(scores, indptr, reduction="none", **how), want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(list_mle(scores, indptr, **how), want.mean(), rtol=1e-12, atol=0)
    assert list_mle(scores[:0].view(0, 4)) == 0
    assert torch.autograd.gradcheck(lambda s: list_mle(s, indptr, **how), [scores.requires_grad_()])


def masked_cross_entropies(q, c, reward, temperature, contrastive=0.0, reward_temperature=1.0):
    """As LLM-Embedder's code: one cross-entropy over all columns for each place, better candidates masked."""
    M, K, D = c.shape
    order = torch.argsort(reward, dim=1, descending=True, stable=True)
    c = normalize(torch.gather(c, 1, order[:, :, None].expand(-1, -1, D)), dim=2)
    share = torch.softmax(reward.gather(1, order) / reward_temperature, 1)
    scores = normalize(q) @ c.reshape(M * K, D).T / temperature
    loss, first = 0.0, torch.arange(M) * K
    for r in range(K):
        weight = share[:, r] + (contrastive if r == 0 else 0.0)
        loss = loss + weight * cross_entropy(scores, first + r, reduction="none")
        scores = scores.scatter(1, (first + r)[:, None], -torch.inf)
    return loss


@pytest.mark.parametrize("plan", ["auto", "recompute"])
@pytest.mark.parametrize("contrastive", [0.0, 0.2])
def test_stable_distillation_equals_as_many_masked_cross_entropies_as_a_group_has_candidates(rng, plan, contrastive):
    inputs = [part.requires_grad_() for part in drawn(rng, (11, 6), (11, 5, 6))]
    (reward,) = drawn(rng, (11, 5))
    found = stable_distillation(
        *inputs, reward, temperature=0.1, contrastive_weight=contrastive, reward_temperature=0.7, reduction="none",
        plan=plan,
    )  # fmt: skip
    want = masked_cross_entropies(*inputs, reward, 0.1, contrastive, 0.7)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    for mine, truth in zip(*(gradients(part.sum(), inputs) for part in (found, want)), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-10, atol=1e-11)


def test_stable_distillation_passes_gradcheck(rng):
    q, c, reward = drawn(rng, (4, 3), (4, 2, 3), (4, 2))
    assert_gradcheck(lambda q, c, **how: stable_distillation(q, c, reward, contrastive_weight=0.2, **how), [q, c])


def test_stable_distillation_in_float32_is_as_accurate_as_cross_entropies(rng):
    tensors = [part.float() for part in drawn(rng, (30, 16), (30, 4, 16))]
    (reward,) = drawn(rng, (30, 4))
    results = []
    for function, dtype in ((stable_distillation, torch.float32), (None, torch.float32), (None, torch.float64)):
        inputs = [part.to(dtype).requires_grad_() for part in tensors]
        if function is None:
            loss = masked_cross_entropies(*inputs, reward.to(dtype), 0.02).mean()
        else:
            loss = function(*inputs, reward, temperature=0.02, plan="recompute")
        results.append([loss.detach(), *gradients(loss, inputs)])
    for mine, naive, truth in zip(*results, strict=True):
        assert_as_accurate(mine, naive, truth.numpy(), magnitude=100.0 if mine.ndim == 0 else None)


def test_stable_distillation_keeps_given_order_and_one_candidate_is_info_nce(rng):
    q, c, reward = drawn(rng, (6, 4), (6, 3, 4), (6, 3))
    order = torch.argsort(reward, dim=1, descending=True)
    c, reward = torch.gather(c, 1, order[:, :, None].expand(-1, -1, 4)), reward.gather(1, order)
    assert torch.equal(stable_distillation(q, c, reward), stable_distillation(q, c, reward, sort=False))
    s = normalize(q) @ normalize(c[:, 0]).T / 0.01
    found = stable_distillation(q, c[:, :1], reward[:, :1])
    torch.testing.assert_close(found, cross_entropy(s, torch.arange(6)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_hardly_any_queries_have_finite_losses_and_gradients(rows):
    q, c = torch.ones(rows, 4, requires_grad=True), torch.ones(rows, 3, 4, requires_grad=True)
    loss = stable_distillation(q, c, torch.ones(rows, 3))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(q.grad).all() and torch.isfinite(c.grad).all()
    assert wasserstein_loss(q, q.detach()) == 0


def test_stable_distillation_never_holds_the_scores_of_all_pairs():
    """1,024 queries of 4 candidates: 4M scores, against 16 numbers a candidate."""
    generator = torch.Generator().manual_seed(0)
    q, c = torch.randn(1024, 8, generator=generator), torch.randn(1024, 4, 8, generator=generator)
    with LargestTensor() as largest:
        stable_distillation(q.requires_grad_(), c.requires_grad_(), torch.randn(1024, 4)).backward()
    assert 0 < largest.elements <= 4096 * 16


def looped_pro(scores, target, temperature):
    """CoDiEmb's loop over the sorted list."""
    order = torch.argsort(target, descending=True)
    s, y = scores[order] / temperature, target[order]
    losses = []
    for k in range(len(s) - 1):
        below = y[k] - y[k + 1 :] > 0
        if below.any():
            by = (y[k] - y[k + 1 :])[below]
            logits = torch.cat([(s[k] * by.max())[None], s[k + 1 :][below] * by])
            losses.append(-torch.log_softmax(logits, 0)[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("grades", [3, 50], ids=["many-ties", "few-ties"])
def test_pro_equals_the_loop_over_the_sorted_list(rng, grades):
    (scores,) = drawn(rng, (40,))
    scores = scores.tanh().requires_grad_()
    target = torch.from_numpy(rng.integers(0, grades, 40)).double() / 10
    found, want = pro_loss(scores, target), looped_pro(scores, target, 0.05)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, [scores]), gradients(want, [scores]), rtol=1e-10, atol=1e-12)
    naive = looped_pro(scores.float().detach(), target.float(), 0.05)
    exact = looped_pro(scores.float().double().detach(), target.float().double(), 0.05)
    mine = pro_loss(scores.float().detach(), target.float())
    assert_as_accurate(mine, naive, exact.numpy(), magnitude=20 * grades / 10)


def test_pro_does_not_hold_all_pairs():
    scores, target = torch.randn(2048).requires_grad_(), torch.randint(0, 50, (2048,)).float()
    with LargestTensor() as largest:
        pro_loss(scores, target).backward()
    assert 0 < largest.elements <= 64 * 2048


def test_rank_kl_takes_ties_at_their_mean_and_only_ranks(rng):
    scipy = pytest.importorskip("scipy.stats")
    (scores,) = drawn(rng, (30,))
    target = torch.from_numpy(rng.integers(0, 8, 30)).double()
    place = torch.from_numpy((scipy.rankdata(target.numpy()) - 1) / 29)
    want = torch.nn.functional.kl_div(
        torch.log_softmax(scores / 0.05, 0), torch.softmax(place / 0.05, 0), reduction="sum"
    )
    torch.testing.assert_close(rank_kl_loss(scores, target), want, rtol=1e-12, atol=0)
    assert torch.equal(rank_kl_loss(scores, target), rank_kl_loss(scores, target.exp()))
    torch.testing.assert_close(rank_kl_loss(place + 3, target), torch.tensor(0.0).double(), rtol=0, atol=1e-12)


def test_pearson_is_that_of_numpy_and_finite_where_nothing_varies(rng):
    scores, target = drawn(rng, (30,), (30,))
    want = 1 - np.corrcoef(scores, target)[0, 1]
    np.testing.assert_allclose(pearson_loss(scores, target), want, rtol=1e-12)
    for s, y, value in ((torch.ones(5), torch.arange(5.0), 1.0), (torch.arange(5.0), torch.ones(5), 0.0)):
        s = s.requires_grad_()
        loss = pearson_loss(s, y)
        loss.backward()
        assert loss == value and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("loss", [pro_loss, rank_kl_loss, pearson_loss])
def test_ranking_losses_pass_gradcheck_and_are_zero_without_anything_to_order(rng, loss):
    (scores,) = drawn(rng, (7,))
    target = torch.tensor([0.0, 1.0, 1.0, 3.0, 0.5, 3.0, 2.0])
    assert torch.autograd.gradcheck(lambda s: loss(s, target), [scores.requires_grad_()])
    for n in (0, 1):
        few = torch.ones(n, requires_grad=True)
        value = loss(few, torch.ones(n))
        value.backward()
        assert value == 0 and torch.isfinite(few.grad).all()


def test_the_loss_of_graded_pairs_is_the_weighted_sum(rng):
    a, b = (part.requires_grad_() for part in drawn(rng, (20, 5), (20, 5)))
    target = torch.from_numpy(rng.integers(0, 6, 20)).double()
    cosine = (normalize(a) * normalize(b)).sum(1)
    want = 2 * pearson_loss(cosine, target) + 0.5 * pro_loss(cosine, target) + 5 / 20 * rank_kl_loss(cosine, target)
    found = sts_loss(a, b, target)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, [a, b]), gradients(want, [a, b]), rtol=1e-9, atol=1e-12)
    assert sts_loss(a, b, target, pearson=0, pro=0, rank_kl=0) == 0


def by_eigenvalues(scores, relevance, temperature=1.0):
    """The distance as in the formula: square roots of eigenvalues of products of covariances."""
    p, t = torch.softmax(scores / temperature, 1), torch.softmax(relevance, 1)
    a, b = p - p.mean(0), t - t.mean(0)
    share = 1 / max(len(p) - 1, 1)
    cov_p, cov_t = a.T @ a * share, b.T @ b * share
    roots = torch.linalg.eigvals(cov_p @ cov_t).real.clamp_min(0).sqrt().sum()
    return (p.mean(0) - t.mean(0)).square().sum() + torch.trace(cov_p + cov_t) - 2 * roots


@pytest.mark.parametrize(("M", "N"), [(3, 9), (6, 6), (9, 4), (1, 5), (2, 1)])
def test_the_bures_form_equals_the_eigenvalue_form(rng, M, N):
    scores, relevance = drawn(rng, (M, N), (M, N))
    found = wasserstein_loss(scores, relevance, temperature=0.7)
    torch.testing.assert_close(found, by_eigenvalues(scores, relevance, 0.7), rtol=1e-6, atol=1e-7)
    assert found >= 0


def test_wasserstein_passes_gradcheck_and_is_zero_only_where_rows_agree_up_to_what_a_gaussian_sees(rng):
    scores, relevance = drawn(rng, (4, 6), (4, 6))
    inputs = [scores.requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(lambda s, t: wasserstein_loss(s, relevance, temperature=t), inputs)
    same = wasserstein_loss(relevance.float(), relevance.float())
    assert 0 <= same < 1e-12
    assert wasserstein_loss(relevance.flip(0), relevance) < 1e-24  # the order of the samples is not seen
    (by_scores,) = torch.autograd.grad(wasserstein_loss(scores, relevance), [scores], create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        by_scores.sum().backward()


@pytest.mark.parametrize("case", ["equal-rows", "one-row", "equal-targets", "low-rank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_is_finite_where_a_covariance_vanishes(rng, case, dtype):
    scores, relevance = (part.to(dtype) for part in drawn(rng, (5, 7), (5, 7)))
    if case == "equal-rows":
        scores = scores[:1].expand(5, 7).clone()
    elif case == "one-row":
        scores, relevance = scores[:1].clone(), relevance[:1]
    elif case == "equal-targets":
        relevance = relevance[:1].expand(5, 7)
    else:
        scores = scores[[0, 0, 1, 1, 1]].clone()
    scores.requires_grad_()
    loss = wasserstein_loss(scores, relevance)
    loss.backward()
    assert torch.isfinite(scores.grad).all() and scores.grad.abs().max() < 1
    torch.testing.assert_close(loss.double(), by_eigenvalues(scores.double(), relevance.double()), rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_gives_nan():
    bad = torch.tensor([[1.0, torch.nan], [0.0, 1.0]], requires_grad=True)
    loss = wasserstein_loss(bad, torch.eye(2))
    loss.backward()
    assert loss.isnan() and bad.grad.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float32_losses_and_gradients_of_its_own_dtype(rng, dtype):
    scores, target = (part.to(dtype) for part in drawn(rng, (12,), (12,)))
    matrix, reward = (part.to(dtype) for part in drawn(rng, (4, 3), (4, 3)))
    cases = {
        "tail": (scores.clone()[None], lambda s: tail_lse(s).sum()), "mle": (matrix.clone(), list_mle),
        "pro": (scores.clone(), lambda s: pro_loss(s, target)),
        "kl": (scores.clone(), lambda s: rank_kl_loss(s, target)),
        "pearson": (scores.clone(), lambda s: pearson_loss(s, target)),
        "wasserstein": (matrix.clone(), lambda s: wasserstein_loss(s, reward)),
        "distillation": (
            matrix.clone(), lambda q: stable_distillation(q, q.detach()[:, None].repeat(1, 2, 1), reward[:, :2])
        ),
    }  # fmt: skip
    for name, (x, loss) in cases.items():
        x.requires_grad_()
        value = loss(x)
        value.backward()
        assert value.dtype == torch.float32 and x.grad.dtype == dtype and torch.isfinite(x.grad).all(), name


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, of its tracing
def test_compiled_without_graph_breaks_it_gives_the_same(rng):
    q, c, scores = (part.requires_grad_() for part in drawn(rng, (6, 4), (6, 3, 4), (5, 7)))
    target, reward = torch.arange(5.0) // 2, torch.arange(18.0).sin().view(6, 3)
    cases = {
        "distillation": (lambda: stable_distillation(q, c, reward, temperature=0.1), [q, c]),
        "mle": (lambda: list_mle(scores), [scores]), "pro": (lambda: pro_loss(scores[:, 0], target), [scores]),
        "wasserstein": (lambda: wasserstein_loss(scores, scores.detach().flip(0)), [scores]),
    }  # fmt: skip
    for name, (loss, inputs) in cases.items():
        torch._dynamo.reset()
        found, want = torch.compile(loss, fullgraph=True, backend="aot_eager")(), loss()
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12, msg=name)
        torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-10, atol=1e-12, msg=name)


def test_wrong_arguments_are_named():
    s, q = torch.ones(3), torch.ones(2, 4)
    for call, message in (
        (lambda: tail_lse(s), r"scores: shape \(lists, items\) without indptr, got \(3,\)"),
        (lambda: tail_lse(s.int(), torch.tensor([0, 3])), "scores: a floating torch.Tensor, got torch.int32"),
        (lambda: tail_lse(s, torch.tensor([0, 4])), "indptr: from 0 upwards to the 3 items"),
        (lambda: tail_lse(s, torch.tensor([0, 3]), background=s), r"background: a Tensor \(1,\), got \(3,\)"),
        (lambda: list_mle(q, relevance=s), r"relevance: a Tensor of the shape of scores, \(2, 4\), got \(3,\)"),
        (lambda: pro_loss(s, q), r"target: a Tensor \(3,\), got \(2, 4\)"),
        (lambda: pro_loss(s, s, temperature=0.0), "temperature: a finite number above 0"),
        (lambda: sts_loss(q, q[:1], s), "key: as many rows as query, 2, got 1"),
        (lambda: stable_distillation(q, q, q), r"candidates: a Tensor \(M, K, D\) with M = 2, got \(2, 4\)"),
        (lambda: stable_distillation(q, q[:, None], q), r"reward: a Tensor \(2, 1\), got \(2, 4\)"),
        (lambda: wasserstein_loss(q, s), r"relevance: a Tensor of the shape of scores, \(2, 4\), got \(3,\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
