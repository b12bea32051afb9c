"""The loss modules: what they pass on, what they learn, how they print and are saved."""

from __future__ import annotations

import math

import pytest
import torch

from simtile import functional
from simtile.losses import InfoNCELoss, SigLIPLoss


@pytest.fixture
def pairs():
    return torch.randn(6, 4), torch.randn(8, 4)


def test_info_nce_passes_everything_on(pairs):
    q, k = pairs
    options = {
        "query_ids": torch.arange(6) % 2, "key_ids": torch.arange(8) % 3, "negatives": torch.randn(3, 4),
        "row_negatives": torch.randn(6, 2, 4), "weight": torch.rand(6), "targets": torch.arange(6) + 1,
    }  # fmt: skip
    fixed = {"symmetric": True, "normalize": False, "label_smoothing": 0.1, "reduction": "sum", "plan": "recompute"}
    loss = InfoNCELoss(0.2, **fixed)(q, k, **options)
    assert torch.equal(loss, functional.info_nce(q, k, temperature=0.2, **fixed, **options))


def test_a_learnt_temperature_gets_its_gradient_and_is_capped(pairs):
    loss = InfoNCELoss(0.1, learn_temperature=True, max_scale=20.0)
    torch.testing.assert_close(loss(*pairs), functional.info_nce(*pairs, temperature=0.1))
    loss(*pairs).backward()
    assert loss.log_scale.grad != 0
    with torch.no_grad():
        loss.log_scale.fill_(math.log(50.0))
    torch.testing.assert_close(loss(*pairs), functional.info_nce(*pairs, temperature=1 / 20))


def test_sigmoid_learns_scale_and_bias(pairs):
    loss = SigLIPLoss(learn_scale=True)
    torch.testing.assert_close(loss(*pairs), functional.sigmoid_loss(*pairs))
    loss(*pairs).backward()
    assert loss.log_scale.grad != 0 and loss.bias.grad != 0
    assert torch.equal(SigLIPLoss(5.0, -3.0)(*pairs), functional.sigmoid_loss(*pairs, scale=5.0, bias=-3.0))


def test_what_is_learnt_is_saved_and_nothing_else():
    assert InfoNCELoss().state_dict() == {} and SigLIPLoss().state_dict() == {}
    loss, other = InfoNCELoss(0.1, learn_temperature=True), InfoNCELoss(0.5, learn_temperature=True)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.log_scale, loss.log_scale)
    assert set(SigLIPLoss(learn_scale=True).state_dict()) == {"log_scale", "bias"}


def test_printing_says_what_it_is():
    assert repr(InfoNCELoss(0.1, learn_temperature=True)).startswith(
        "InfoNCELoss(temperature=0.1, learn_temperature=True"
    )
    assert repr(SigLIPLoss()).startswith("SigLIPLoss(scale=10, bias=-10, ")


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match="temperature: a finite number above 0"):
        InfoNCELoss(wrong)
    with pytest.raises(ValueError, match="scale: a finite number above 0"):
        SigLIPLoss(wrong)
