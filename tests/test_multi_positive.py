"""Several positives: CoDiEmb's loop over slots, LaCLIP's mean over texts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from loss_checks import LargestTensor, assert_gradcheck, drawn
from plain_torch import gradients
from simtile.functional import info_nce, multi_positive_info_nce
from simtile.losses import MultiPositiveInfoNCELoss


def looped(q, p, n, temperature):
    """One cross-entropy a slot, over the slot's positives and the negatives of all queries."""
    q, p = normalize(q), normalize(p, dim=2)
    own = torch.arange(len(q))
    losses = []
    for r in range(p.shape[1]):
        keys = p[:, r] if n is None else torch.cat([p[:, r], normalize(n, dim=2).flatten(0, 1)])
        losses.append(cross_entropy(q @ keys.T / temperature, own, reduction="none"))
    return torch.stack(losses).mean(0)


@pytest.mark.parametrize("plan", ["auto", "recompute"])
@pytest.mark.parametrize("hard", [False, True])
def test_equals_the_loop_over_slots(rng, plan, hard):
    inputs = [part.requires_grad_() for part in drawn(rng, (13, 6), (13, 3, 6), *([(13, 4, 6)] if hard else []))]
    q, p, n = (*inputs, None)[:3]
    weight = torch.linspace(0, 1, 13, dtype=torch.float64)
    want = looped(q, p, n, 0.1)
    found = multi_positive_info_nce(q, p, n, temperature=0.1, reduction="none", plan=plan)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    found = multi_positive_info_nce(q, p, n, temperature=0.1, weight=weight, plan=plan)
    want = (weight * want).sum() / weight.sum()
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-9, atol=1e-12)


def test_gradcheck(rng):
    q, p, n = drawn(rng, (4, 3), (4, 2, 3), (4, 2, 3))
    assert_gradcheck(lambda q, p, n, **how: multi_positive_info_nce(q, p, n, symmetric=True, **how), [q, p, n])


def test_symmetric_it_is_the_mean_of_clip_over_texts(rng):
    image, texts = drawn(rng, (9, 5), (9, 4, 5))
    want = torch.stack([info_nce(image, texts[:, j], symmetric=True) for j in range(4)]).mean()
    found = multi_positive_info_nce(image, texts, temperature=0.07, symmetric=True)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


def test_rows_of_one_id_are_no_negatives_of_each_other(rng):
    image, texts = drawn(rng, (9, 5), (9, 2, 5))
    ids = torch.arange(9) // 2
    how = {"temperature": 0.1, "symmetric": True}
    want = torch.stack([info_nce(image, texts[:, j], query_ids=ids, key_ids=ids, **how) for j in range(2)]).mean()
    torch.testing.assert_close(multi_positive_info_nce(image, texts, ids=ids, **how), want, rtol=1e-12, atol=0)


def test_positives_of_one_query_do_not_compete(rng):
    """A second positive equal to the first changes nothing, where one softmax over all would cost log 2."""
    q, p = drawn(rng, (6, 4), (6, 1, 4))
    once, twice = (multi_positive_info_nce(q, part) for part in (p, p.repeat(1, 2, 1)))
    torch.testing.assert_close(once, twice, rtol=1e-13, atol=0)


def test_no_matrix_of_all_pairs_is_made():
    """2,048 queries: 4M scores a slot, against 64 numbers a query."""
    q, p, n = (torch.randn(2048, *more, 8).requires_grad_() for more in ((), (2,), (2,)))
    with LargestTensor() as largest:
        multi_positive_info_nce(q, p, n).backward()
    assert 0 < largest.elements <= 2048 * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_module_is_the_function_in_every_dtype(rng, dtype):
    q, p = (part.to(dtype).requires_grad_() for part in drawn(rng, (6, 4), (6, 2, 4)))
    module = MultiPositiveInfoNCELoss(temperature=0.1, symmetric=True)
    loss = module(q, p)
    assert torch.equal(loss, multi_positive_info_nce(q, p, temperature=0.1, symmetric=True))
    assert loss.dtype == torch.float32 and all(part.dtype == dtype for part in gradients(loss, [q, p]))
    learning = MultiPositiveInfoNCELoss(learn_temperature=True)
    learning(q, p).backward()
    assert learning.log_scale.grad != 0


def test_wrong_arguments_are_named():
    q = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"positives: a Tensor \(M, K, D\) with M = 3 and K >= 1, got \(3, 2\)"):
        multi_positive_info_nce(q, q)
    with pytest.raises(ValueError, match="negatives: as many columns as query, 2"):
        multi_positive_info_nce(q, q[:, None], torch.ones(3, 1, 4))
