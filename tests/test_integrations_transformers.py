"""CLIP and SigLIP models of transformers with and without the patch: losses, gradients, and what an output holds."""

from __future__ import annotations

import inspect

import pytest
import torch

pytest.importorskip("transformers")

import transformers

import simtile
from differential import TOLERANCE

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"vocab_size": 30, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"image_size": 8, "patch_size": 4}
B = 6


@pytest.fixture
def patched():
    simtile.patch("transformers")
    yield
    simtile.unpatch("transformers")


@pytest.fixture(params=["CLIP", "Siglip"])
def model(request):
    config = getattr(transformers, f"{request.param}Config")(text_config=TOWER | TEXT, vision_config=TOWER | VISION)
    torch.manual_seed(0)
    return getattr(transformers, f"{request.param}Model")(config).train()


def batch(model, **options):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(B, 3, 8, 8, generator=generator).to(model.dtype)
    return {"input_ids": torch.randint(3, 30, (B, 5), generator=generator), "pixel_values": pixels} | options


def loss_and_parameter_gradients(model):
    model.zero_grad()
    loss = model(**batch(model, return_loss=True)).loss
    loss.backward()
    found = {name: None if part.grad is None else part.grad.clone() for name, part in model.named_parameters()}
    return {"loss": loss.detach()} | found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_and_the_gradient_of_every_parameter_equal_the_originals(model, dtype):
    exact = loss_and_parameter_gradients(model.double())
    simtile.patch("transformers")
    try:
        found = loss_and_parameter_gradients(model.to(dtype))
    finally:
        simtile.unpatch("transformers")
    assert found.keys() == exact.keys()
    assert exact["logit_scale"] is not None
    # The towers round as well: relative to the largest gradient of the model, not to each parameter's.
    size = max(float(truth.abs().max()) for truth in exact.values() if truth is not None)
    for name, truth in exact.items():
        if truth is None:
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name].double(), truth, rtol=0, atol=TOLERANCE[dtype] * size)


def test_a_training_step_has_no_logits_and_everything_else(model, patched):
    output = model(**batch(model, return_loss=True))
    simtile.unpatch("transformers")
    plain = model(**batch(model, return_loss=True))
    assert type(output) is type(plain)
    assert output.logits_per_image is None and output.logits_per_text is None
    assert set(plain) - set(output) == {"logits_per_image", "logits_per_text"}
    torch.testing.assert_close(output.text_embeds, plain.text_embeds)
    torch.testing.assert_close(output.image_embeds, plain.image_embeds)
    logits = output.text_embeds @ output.image_embeds.T * model.logit_scale.exp() + getattr(model, "logit_bias", 0.0)
    torch.testing.assert_close(logits, plain.logits_per_text)


@pytest.mark.parametrize("case", ["eval", "no loss", "tuple"])
def test_all_other_calls_are_the_originals(model, patched, case):
    options = {"return_loss": case != "no loss"}
    if case == "eval":
        model.eval()
    if case == "tuple":
        options["return_dict"] = False
    found = model(**batch(model, **options))
    simtile.unpatch("transformers")
    plain = model(**batch(model, **options))
    assert type(found) is type(plain) and len(found) == len(plain)
    torch.testing.assert_close(found[0], plain[0])
    torch.testing.assert_close(found[1], plain[1])


def test_hidden_states_and_positional_arguments_arrive(model, patched):
    inputs = batch(model)
    output = model(inputs["input_ids"], inputs["pixel_values"], None, None, True, output_hidden_states=True)
    assert output.logits_per_text is None
    assert len(output.text_model_output.hidden_states) == len(output.vision_model_output.hidden_states) == 2


def test_the_signature_that_a_trainer_inspects_is_kept(model):
    before = inspect.signature(model.forward)
    simtile.patch("transformers")
    try:
        assert inspect.signature(model.forward) == before
    finally:
        simtile.unpatch("transformers")
