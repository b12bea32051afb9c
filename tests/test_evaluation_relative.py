"""Relative representations: what rotation and scale leave as it is, and their sharper forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from simtile.evaluation.relative import nearest_anchors, relative

FORMS = [{}, {"temperature": 0.1}, {"top_k": 3}, {"top_k": 3, "temperature": 0.1}]


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3), form=st.sampled_from(FORMS))
def test_rotation_reflection_and_scale_change_nothing(seed, scale, form):
    generator = torch.Generator().manual_seed(seed)
    x, anchors = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (5, 9))
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))
    got = relative(scale * x @ turn, scale * anchors @ turn, **form)
    torch.testing.assert_close(got, relative(x, anchors, **form), rtol=0, atol=1e-12)


def test_sharp_forms_are_those_of_their_equations():
    x, anchors = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (6, 8))
    cosines = torch.nn.functional.cosine_similarity(x[:, None], anchors[None], dim=2)
    torch.testing.assert_close(relative(x, anchors), cosines, rtol=0, atol=1e-14)
    torch.testing.assert_close(relative(x, anchors, temperature=0.2), torch.softmax(cosines / 0.2, 1))
    sparse = relative(x, anchors, top_k=3)
    assert ((sparse != 0).sum(1) == 3).all()
    near = nearest_anchors(x, anchors, 3)
    torch.testing.assert_close(near.scores, cosines.topk(3).values)
    torch.testing.assert_close(sparse, torch.zeros_like(cosines).scatter(1, near.ids, near.scores))
    sums = relative(x, anchors, top_k=3, temperature=0.2).sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form):
    x, anchors = (torch.randn(n, 3, dtype=torch.float64).requires_grad_() for n in (3, 4))
    assert torch.autograd.gradcheck(lambda x, a: relative(x, a, **form), (x, anchors))


@pytest.mark.parametrize(
    ("more", "message"),
    [({"temperature": 0.0}, "temperature: above 0"), ({"top_k": 9}, "top_k: 1 to 2"), ({"top_k": 0}, "top_k: 1 to 2")],
)
def test_wrong_arguments_are_named(more, message):
    with pytest.raises(ValueError, match=message):
        relative(torch.ones(2, 3), torch.ones(2, 3), **more)
    with pytest.raises(ValueError, match="anchors"):
        relative(torch.ones(2, 3), torch.ones(2, 4))
