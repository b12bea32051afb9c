"""lightly's NT-Xent beside the original: temperatures of both signs, the memory bank, subclasses."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, strategies as st

pytest.importorskip("lightly")

from lightly import loss as original

from accuracy import assert_as_accurate
from differential import assert_same, in_dtype, loss_and_gradients, no_stored_scores
from plain_torch import coarse
from simtile.integrations import lightly as ours


def views(B, D, seed=0):
    """Two views of the same things, at a cosine of about 0.7."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(B, D, generator=generator)
    return {"out0": first, "out1": first + torch.randn(B, D, generator=generator)}


def same_bank(mine, theirs, dtype):
    """A copy of ours, and of theirs in float64, with one bank: it starts at random, and lightly makes it float32."""
    mine, theirs = copy.deepcopy(mine), copy.deepcopy(theirs).double()
    mine.memory_bank.bank.data = theirs.memory_bank.bank.to(dtype, copy=True)
    return mine, theirs


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@given(
    B=st.integers(1, 30),
    D=st.sampled_from([2, 5, 16, 33]),
    temperature=st.sampled_from([0.5, 0.3, 2.0, -0.7, 1]),
    bank=st.sampled_from([0, 1, 7, 40]),
)
def test_loss_gradients_and_bank_equal_the_originals(stored, B, D, temperature, bank):
    options = {"temperature": temperature, "memory_bank_size": (max(bank, B), D) if bank else 0}
    inputs = views(B, D, B * D)
    for dtype in (torch.float32, torch.float64):
        mine, theirs = same_bank(ours.NTXentLoss(**options), original.NTXentLoss(**options), dtype)
        for _ in range(2):  # the second time the bank holds what the first one left
            exact = loss_and_gradients(theirs, in_dtype(inputs, torch.float64))
            with no_stored_scores(not stored):
                found = loss_and_gradients(mine, in_dtype(inputs, dtype))
            assert found["loss"].dtype == dtype
            assert_same(found, exact, dtype)
            torch.testing.assert_close(mine.memory_bank.bank.double(), theirs.memory_bank.bank, rtol=0, atol=1e-6)
            assert not bank or mine.memory_bank.bank_ptr == theirs.memory_bank.bank_ptr


@pytest.mark.parametrize("temperature", [0.0, 1e-9, -1e-9])
def test_a_temperature_near_zero_is_refused_with_the_originals_error(temperature):
    with pytest.raises(ValueError, match="Illegal temperature"):
        ours.NTXentLoss(temperature=temperature)


def test_without_gradients_the_bank_stays():
    loss = ours.NTXentLoss(memory_bank_size=(8, 4))
    before = loss.memory_bank.bank.clone()
    with torch.no_grad():
        loss(**views(3, 4))
    assert torch.equal(loss.memory_bank.bank, before)
    loss(**{name: view.requires_grad_() for name, view in views(3, 4).items()})
    assert not torch.equal(loss.memory_bank.bank[:3], before[:3])
    assert torch.equal(loss.memory_bank.bank[3:], before[3:])


def test_a_temperature_may_be_learnt_as_in_the_original():
    found = []
    for module in (ours.NTXentLoss(), original.NTXentLoss()):
        module.temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        module(**in_dtype(views(9, 5), torch.float64)).backward()
        found.append(module.temperature.grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=0)


@pytest.mark.parametrize("bank", [0, (16, 6)])
def test_direct_clr_equals_the_original(bank):
    options = {"loss_dim": 4, "temperature": 0.2, "memory_bank_size": bank and (16, 4)}
    mine, theirs = same_bank(ours.DirectCLRLoss(**options), original.DirectCLRLoss(**options), torch.float64)
    inputs = in_dtype(views(9, 6), torch.float64)
    assert_same(loss_and_gradients(mine, inputs), loss_and_gradients(theirs, inputs), torch.float64)


def test_state_is_exchanged_with_the_original():
    mine, theirs = ours.NTXentLoss(memory_bank_size=(8, 4)), original.NTXentLoss(memory_bank_size=(8, 4))
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert dict(mine.named_buffers()).keys() == dict(theirs.named_buffers()).keys()


@pytest.mark.parametrize("bank", [0, (40, 16)])
def test_under_autocast_as_accurate_as_the_original(bank):
    options = {"temperature": 0.3, "memory_bank_size": bank}
    inputs = views(33, 16)
    exact_module = original.NTXentLoss(**options).double()
    results = []
    for module in (ours.NTXentLoss(**options), original.NTXentLoss(**options)):
        module.memory_bank.bank.data = exact_module.memory_bank.bank.float()
        with torch.autocast("cpu", torch.bfloat16):
            results.append(loss_and_gradients(module, inputs))
    exact = loss_and_gradients(exact_module, in_dtype(inputs, torch.float64))
    for part, truth in exact.items():
        size = coarse(torch.bfloat16) * float(truth.abs().max())
        assert_as_accurate(results[0][part], results[1][part], truth.numpy(), magnitude=size)
