"""open_clip's losses beside the originals: every option, and every way of spreading a batch over processes."""

from __future__ import annotations

import types

import pytest
import torch
from hypothesis import given, strategies as st

pytest.importorskip("open_clip")

import open_clip
from open_clip import loss as original

import simtile
from accuracy import assert_as_accurate
from differential import assert_same, in_dtype, loss_and_gradients, no_stored_scores
from plain_torch import coarse
from simtile.integrations import open_clip as ours

SCALARS = {"float": None, "scalar": (), "one element": (1,)}
"""What logit_scale and logit_bias may be: numbers, or tensors as open_clip's models hold them."""


def features(B, D, seed=0):
    """Unit rows, partners at a cosine of about 0.6: losses far from saturation."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(B, D, generator=generator, dtype=torch.float64)
    text = image + torch.randn(B, D, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(image).float(), torch.nn.functional.normalize(text).float()


def arguments(B, D, scale, bias):
    """(tensors that get gradients, numbers that do not)."""
    image, text = features(B, D, B * D)
    tensors, numbers = {"image_features": image, "text_features": text}, {}
    for name, kind, value in (("logit_scale", scale, 2.3), ("logit_bias", bias, -3.1)):
        if kind == "absent":
            numbers[name] = None
        elif SCALARS[kind] is None:
            numbers[name] = value
        else:
            tensors[name] = torch.full(SCALARS[kind], value)
    return tensors, numbers


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
@given(
    B=st.integers(1, 40),
    D=st.sampled_from([1, 3, 16, 33]),
    scale=st.sampled_from(list(SCALARS)),
    bias=st.sampled_from(["absent", *SCALARS]),
    options=st.fixed_dictionaries({"cache_labels": st.booleans()}),
    output_dict=st.booleans(),
)
def test_loss_and_every_gradient_equal_the_originals(name, stored, B, D, scale, bias, options, output_dict):
    tensors, numbers = arguments(B, D, scale, bias)
    mine, theirs = getattr(ours, name)(**options), getattr(original, name)(**options)

    def run(module):
        def loss(**inputs):
            found = module(**inputs, **numbers, output_dict=output_dict)
            if not output_dict:
                return found
            assert set(found) == {"contrastive_loss"}
            return found["contrastive_loss"]

        return loss

    exact = loss_and_gradients(run(theirs), in_dtype(tensors, torch.float64))
    for dtype in (torch.float32, torch.float64):
        with no_stored_scores(not stored):
            found = loss_and_gradients(run(mine), in_dtype(tensors, dtype))
        assert found["loss"].dtype == dtype
        assert_same(found, exact, dtype)


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_tower_gets_no_gradient_and_the_other_keeps_its_own(name, frozen):
    found = []
    for module in (getattr(ours, name)(), getattr(original, name)()):
        towers = [part.double().requires_grad_(side != frozen) for side, part in enumerate(features(12, 5))]
        module(*towers, torch.tensor(3.0).double(), None).backward()
        assert towers[frozen].grad is None
        found.append(towers[1 - frozen].grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_the_positional_arguments_are_the_originals():
    image, text = features(9, 4)
    scale, bias = torch.tensor(5.0), torch.tensor(-1.0)
    for name in ("ClipLoss", "SigLipLoss"):
        mine, theirs = getattr(ours, name)(), getattr(original, name)()
        torch.testing.assert_close(mine(image, text, scale, bias, True), theirs(image, text, scale, bias, True))
    torch.testing.assert_close(
        ours.ClipLoss(False, False, True, 0, 1, False)(image, text, scale),
        original.ClipLoss(False, False, True, 0, 1, False)(image, text, scale),
    )


@pytest.mark.parametrize("clip_loss_weight", [0.0, 2.0])
@pytest.mark.parametrize("output_dict", [False, True])
def test_coca_loss_equals_the_original(clip_loss_weight, output_dict):
    image, text = features(9, 4)
    logits, labels = torch.randn(9, 6, 11), torch.randint(0, 11, (9, 6))
    fixed = {"caption_loss_weight": 0.5, "clip_loss_weight": clip_loss_weight, "pad_id": 0}
    results = [
        module.CoCaLoss(**fixed)(image, text, logits, labels, torch.tensor(6.0), output_dict=output_dict)
        for module in (ours, original)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("model", "siglip"), [("ViT-B-32", False), ("ViT-B-16-SigLIP", True), ("coca_ViT-B-32", False)]
)
def test_a_patched_open_clip_creates_our_losses_and_an_unpatched_one_its_own(model, siglip):
    arguments = types.SimpleNamespace(
        model=model, siglip=siglip, distill=False, local_loss=False, gather_with_grad=True, rank=0, world_size=1,
        horovod=False, loss_dist_impl=None, coca_caption_loss_weight=2.0, coca_contrastive_loss_weight=1.0,
    )  # fmt: skip
    before = type(open_clip.create_loss(arguments))
    simtile.patch("open_clip")
    try:
        created = open_clip.create_loss(arguments)
        assert type(created) is getattr(ours, before.__name__)
        assert isinstance(created, before)
    finally:
        simtile.unpatch("open_clip")
    assert type(open_clip.create_loss(arguments)) is before


def test_subclasses_that_override_the_logits_keep_their_own_with_one_warning():
    def with_margin(base):
        class MarginClipLoss(base):
            def get_logits(self, *arguments, **keywords):
                image, text = super().get_logits(*arguments, **keywords)
                margin = 0.3 * torch.eye(len(image))
                return image - margin, text - margin

        return MarginClipLoss()

    image, text = features(9, 4)
    with pytest.warns(UserWarning, match="MarginClipLoss overrides get_logits"):
        found = with_margin(ours.ClipLoss)(image, text, torch.tensor(6.0))
    torch.testing.assert_close(found, with_margin(original.ClipLoss)(image, text, torch.tensor(6.0)))
    with_margin(ours.ClipLoss)(image, text, torch.tensor(6.0))


def test_a_scale_for_each_row_is_left_to_the_original():
    image, text = features(5, 4)
    scale = torch.arange(1.0, 6.0)[:, None]
    with pytest.warns(UserWarning, match="logit_scale or logit_bias of several elements"):
        found = ours.ClipLoss()(image, text, scale)
    torch.testing.assert_close(found, original.ClipLoss()(image, text, scale))


def test_a_bias_that_changes_nothing_still_gets_its_gradient():
    bias = torch.tensor(-2.0, requires_grad=True)
    ours.ClipLoss()(*features(5, 4), torch.tensor(3.0), bias).backward()
    assert bias.grad == 0


@pytest.mark.parametrize("precision", ["autocast", torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_in_16_bits_as_accurate_as_the_original(name, precision):
    narrow = torch.bfloat16 if precision == "autocast" else precision
    inputs = {
        name: part.to(narrow) for name, part in zip(("image_features", "text_features"), features(33, 16), strict=True)
    }
    fixed = {"logit_scale": torch.tensor(5.0), "logit_bias": torch.tensor(-1.0)}

    def run(library, inputs):
        return loss_and_gradients(lambda **parts: getattr(library, name)()(**parts, **fixed), inputs)

    exact = run(original, in_dtype(inputs, torch.float64))
    given = in_dtype(inputs, torch.float32) if precision == "autocast" else inputs
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        mine, theirs = run(ours, given), run(original, given)
    assert mine["loss"].dtype == torch.float32
    for part, truth in exact.items():
        assert part == "loss" or mine[part].dtype == given[part].dtype
        size = float(truth.abs().max()) * (coarse(narrow) if mine[part].dtype == torch.float32 else 1.0)
        assert_as_accurate(mine[part], theirs[part], truth.numpy(), magnitude=size)
