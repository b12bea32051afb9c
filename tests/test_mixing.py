"""Mixtures in score space against mixtures as vectors: the operation, SupReMix and Metrix."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from loss_checks import LargestTensor, drawn
from plain_torch import gradients
from simtile import losses
from simtile._losses import supremix as module
from simtile.demo.loss_cost import PeakMemory
from simtile.functional import sup_con
from simtile.mixing import metrix, mix_scores, supremix


def materialised(x: Tensor, y: Tensor, rows: Tensor, j: Tensor, k: Tensor, share: Tensor, unit: bool) -> Tensor:
    v = share[:, None] * y[j] + (1 - share[:, None]) * y[k]
    return (x[rows] * (normalize(v, dim=1) if unit else v)).sum(1)


@pytest.mark.parametrize("unit", [True, False], ids=["cosines", "inner-products"])
@pytest.mark.parametrize("P", [1, 40, 5000], ids=["one", "gathered", "from-products"])
def test_scores_equal_those_of_mixtures_as_vectors(rng, unit, P):
    x, y = drawn(rng, (23, 6), (31, 6))
    rows, j, k = (torch.from_numpy(rng.integers(0, n, P)) for n in (23, 31, 31))
    share = torch.from_numpy(rng.uniform(0, 1, P))
    inputs = [part.requires_grad_() for part in (x, y, share)]
    got = mix_scores(x, y, rows, j, k, share, normalize=unit)
    want = materialised(x, y, rows, j, k, share, unit)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), inputs), torch.autograd.grad(want.square().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("unit", [True, False], ids=["cosines", "inner-products"])
def test_gradcheck_of_mixed_scores(rng, unit):
    x, y = drawn(rng, (5, 3), (6, 3))
    rows, j, k = (torch.from_numpy(rng.integers(0, n, 9)) for n in (5, 6, 6))
    inputs = [part.requires_grad_() for part in (x, y, torch.from_numpy(rng.uniform(0.1, 0.9, 9)))]
    assert torch.autograd.gradcheck(lambda x, y, share: mix_scores(x, y, rows, j, k, share, normalize=unit), inputs)


def test_at_64_pairs_of_512_numbers_within_1e_6_and_64_mib(rng):
    """Every pair of 128 views mixed for a random anchor; as vectors, 33 MB for these and 4 GiB for all triples."""
    (z,) = drawn(rng, (128, 512))
    z = normalize(z, dim=1).float().requires_grad_()
    j, k = (part.flatten() for part in torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij"))
    rows, share = torch.from_numpy(rng.integers(0, 128, len(j))), torch.from_numpy(rng.uniform(0, 1, len(j)))
    peak = PeakMemory()
    got = mix_scores(z, z, rows, j, k, share.float())
    got.sum().backward()
    assert peak.growth_mb() < 64
    torch.testing.assert_close(
        got.detach().double(), materialised(z.detach().double(), z.detach().double(), rows, j, k, share, True),
        rtol=0, atol=1e-6,
    )  # fmt: skip


def dense_supremix(z: Tensor, y: Tensor, share: Tensor, window: float, temperature: float | Tensor) -> Tensor:
    """arXiv:2309.16633, the authors' snippet anchor by anchor with mixtures as constant vectors: (N,) row losses."""
    z = normalize(z, dim=1)
    fixed, losses_ = z.detach(), []
    for i in range(len(z)):
        vectors, labels, positive = [], [], []
        for j in range(len(z)):
            if j != i:
                vectors.append(z[j])
                labels.append(y[j])
                positive.append(bool(y[j] == y[i]))
            if y[j] != y[i]:
                vectors.append(share[i, j] * fixed[i] + (1 - share[i, j]) * fixed[j])
                labels.append(share[i, j] * y[i] + (1 - share[i, j]) * y[j])
                positive.append(False)
            for k in range(len(z)):
                if y[j] < y[i] < y[k] and y[i] - y[j] < window and y[k] - y[i] < window:
                    part = (y[k] - y[i]) / (y[k] - y[j])
                    vectors.append(part * fixed[j] + (1 - part) * fixed[k])
                    labels.append(y[i])
                    positive.append(True)
        s = torch.stack(vectors) @ z[i] / temperature
        lse = torch.logsumexp(s + (torch.stack(labels) - y[i]).abs().log1p(), 0)
        losses_.append(lse - s[torch.tensor(positive)].mean() if any(positive) else 0 * lse)
    return torch.stack(losses_)


@pytest.fixture
def ages(rng):
    """Embeddings of two views, labels with ties and a gap, shares."""
    (z,) = drawn(rng, (14, 5))
    y = torch.from_numpy(rng.integers(0, 5, 7).astype(float)).repeat(2)
    y[[6, 13]] = torch.tensor([40.0, 41.0]).double()  # two rows without any positive
    return z, y, torch.from_numpy(rng.beta(2, 8, (14, 14)))


def test_supremix_equals_materialised_mixtures_in_value_and_gradient(ages):
    z, y, share = ages
    z, temperature = z.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    want = dense_supremix(z, y, share, 2.5, temperature)
    got = supremix(z, y, window=2.5, temperature=temperature, share=share, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(got.sum(), [z, temperature]), torch.autograd.grad(want.sum(), [z, temperature]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert (got[[6, 13]] == 0).all()
    torch.testing.assert_close(supremix(z, y, window=2.5, temperature=0.3, share=share), got.sum() / 12)


def test_supremix_gradcheck_with_mixtures_held_fixed(ages):
    """Mixtures are constants, which differences know nothing of: they are made of other rows here, equal ones."""
    z, y, share = ages
    parts = normalize(z, dim=1)

    def fixed(z, temperature):
        losses_, count = module.row_losses(
            normalize(z, dim=1), parts, 1 / temperature, y, lambda rows: share[rows], 2.5
        )
        return losses_.sum() / (count > 0).sum()

    inputs = [z.clone().requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(fixed, inputs)
    loss = supremix(inputs[0], y, window=2.5, temperature=inputs[1], share=share)
    torch.testing.assert_close(loss, fixed(*inputs), rtol=1e-13, atol=0)
    for got, want in zip(gradients(loss, inputs), gradients(fixed(*inputs), inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_supremix_in_small_pieces_is_the_same_and_stores_no_n_by_n(rng, monkeypatch):
    """40 rows, of which 8 at a time are an anchor's smaller labels: 320 numbers, where all pairs are 1,600."""
    (z,) = drawn(rng, (40, 4))
    z, y = z.float().requires_grad_(), torch.from_numpy(rng.uniform(0, 9, 40)).float()

    def run():
        loss = supremix(z, y, window=4.0, generator=torch.Generator().manual_seed(3))
        return [loss.detach(), *gradients(loss, [z])]

    want = run()
    monkeypatch.setattr(module, "WORKSPACE_BYTES", 8 * 4 * 8 * 40)
    with LargestTensor() as largest:
        found = run()
    assert 320 <= largest.elements <= 400
    for got, plain in zip(found, want, strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)


def test_supremix_draws_shares_by_row_that_are_beta_distributed_and_stay_the_same():
    alpha = module._drawn(200, (2.0, 8.0), torch.Generator().manual_seed(0), like=torch.zeros(1).double())
    found = alpha(slice(0, 200))
    assert torch.equal(found[30:40], alpha(slice(30, 40))) and found.dtype == torch.float64
    assert abs(float(found.mean()) - 0.2) < 0.005 and abs(float(found.var()) - 0.2 * 0.8 / 11) < 0.0005
    assert len(found.unique()) > 0.99 * found.numel()


def test_supremix_of_one_view_of_equal_labels_is_sup_con(rng):
    (z,) = drawn(rng, (9, 4))
    y = torch.zeros(9)
    want = sup_con(z, y.long(), temperature=0.2)
    torch.testing.assert_close(supremix(z, y.double(), window=1.0, temperature=0.2), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_supremix_at_64_pairs_of_512_numbers_in_64_mib(rng, dtype):
    (z,) = drawn(rng, (128, 512))
    z = z.to(dtype).requires_grad_()
    y = torch.from_numpy(rng.uniform(0, 20, 64)).repeat(2)
    supremix(z[:4], y[:4], window=8.0).backward()  # what is loaded once does not count
    peak = PeakMemory()
    loss = supremix(z, y, window=8.0)
    loss.backward()
    assert peak.growth_mb() < 64
    assert loss.dtype == torch.float32 and z.grad.dtype == dtype and torch.isfinite(z.grad).all()


FIRST_CALLS = """
import torch
from simtile.demo.loss_cost import PeakMemory
from simtile.mixing import metrix, mix_scores, supremix

z = torch.randn(128, 512).requires_grad_()
first, second = torch.arange(128).repeat(128), torch.arange(128).repeat_interleave(128)
for loss in (
    lambda: supremix(z, torch.linspace(0, 20, 64).repeat(2), window=8.0),
    lambda: metrix(z, torch.arange(64).repeat(2)),
    lambda: mix_scores(z, z, second.roll(7), first, second, torch.rand(len(first))).sum(),
):
    peak = PeakMemory()
    loss().backward()
    print(peak.growth_mb() or 0)
"""


def test_at_64_pairs_of_512_numbers_the_first_call_of_a_process_stays_below_64_mib():
    """With all that a process loads at its first loss and its first backward pass."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True, timeout=100)
    assert max(map(float, done.stdout.split())) < 64


def dense_metrix(z: Tensor, label: Tensor, share: float, margin: float = 0.5, mixed: float = 0.4) -> Tensor:
    """arXiv:2106.04990, the authors' contrastive loss with mixtures of a positive and all negatives as vectors."""
    z = normalize(z, dim=1)
    pairs: list[list[Tensor]] = [[], [], [], []]
    for i in range(len(z)):
        positives = [j for j in range(len(z)) if j != i and label[j] == label[i]]
        negatives = [k for k in range(len(z)) if label[k] != label[i]]
        pairs[0] += [(z[i] - z[j]).norm() for j in positives]
        pairs[1] += [relu(margin - (z[i] - z[k]).norm()) for k in negatives]
        for k in negatives if positives else ():
            v = normalize(share * z[positives[0]] + (1 - share) * z[k], dim=0)
            pairs[2].append(share * (z[i] - v).norm())
            pairs[3].append((1 - share) * relu(margin - (z[i] - v).norm()))
    means = [sum(part) / max(sum(bool(p > 0) for p in part), 1) for part in pairs]
    return means[0] + means[1] + mixed * (means[2] + means[3])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_metrix_equals_materialised_mixtures_in_value_and_gradient(rng, share):
    (z,) = drawn(rng, (12, 4))
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3, 2, 1, 1, 0, 2])
    z.requires_grad_()
    got, want = metrix(z, label, share=share), dense_metrix(z, label, share)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(part, z)[0] for part in (got, want)), rtol=1e-8, atol=1e-9)


def test_metrix_gradcheck_and_memory(rng):
    (z,) = drawn(rng, (9, 4))
    label = torch.tensor([0, 1, 0, 2, 1, 0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda z: metrix(z, label, share=0.3), (z.requires_grad_(),))
    (z,) = drawn(rng, (3000, 4))
    z = z.float().requires_grad_()
    with LargestTensor() as largest:
        metrix(z, torch.arange(3000) // 3, share=0.3).backward()
    assert largest.elements <= 3000**2 / 2, "a few rows at a time"


def test_metrix_without_pairs_of_a_label_or_without_negatives_is_finite(rng):
    (z,) = drawn(rng, (5, 3))
    for label in (torch.arange(5), torch.zeros(5, dtype=torch.long), torch.zeros(0, dtype=torch.long)):
        x = z[: len(label)].float().requires_grad_()
        loss = metrix(x, label)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_modules_are_the_functions_and_draws_follow_the_generator(ages):
    z, y, share = ages
    module = losses.SupReMixLoss(2.5, 0.3)
    assert torch.equal(module(z, y, share=share), supremix(z, y, window=2.5, temperature=0.3, share=share))
    assert "window=2.5" in repr(module)
    draws = [module(z, y, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(losses.MetrixLoss()(z, y.long(), share=0.4), metrix(z, y.long(), share=0.4))


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda z, y: supremix(z, y, window=0.0), "window: a number above 0"),
     (lambda z, y: supremix(z, y[:3], window=1.0), "labels: floating point, shape"),
     (lambda z, y: supremix(z, y, window=1.0, share=y), r"share: shape \(14, 14\)"),
     (lambda z, y: metrix(z, y.long(), share=1.5), "share: a number from 0 to 1"),
     (lambda z, y: mix_scores(z, z, y.long(), y.long()[:2], y.long(), y), r"first: shape \(14,\)")],
)  # fmt: skip
def test_wrong_arguments_are_named(ages, call, message):
    with pytest.raises(ValueError, match=message):
        call(*ages[:2])
