"""GradCache: the loss of the whole batch, the activations of a chunk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simtile.losses import CachedLoss, InfoNCELoss, NTXentLoss, SigLIPLoss, SupConLoss, encode_in_chunks


def tower(width: int = 5, **options: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Dropout(options.get("dropout", 0.0)), nn.Linear(16, 4))


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
@pytest.mark.parametrize(
    "loss", [InfoNCELoss(symmetric=True), NTXentLoss(learn_temperature=True), SigLIPLoss()], ids=type
)
def test_equals_the_whole_batch(loss, chunk_size):
    model, a, b = tower().double(), torch.randn(20, 5).double(), torch.randn(20, 5).double()
    found = []
    for make in (lambda: CachedLoss(loss, chunk_size=chunk_size)(model, (a, b)), lambda: loss(model(a), model(b))):
        value = make()
        found.append((value.detach(), *torch.autograd.grad(value, [*model.parameters(), *loss.parameters()])))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_dropout_is_the_same_when_a_chunk_is_encoded_again():
    """Otherwise the gradient would be that of other activations than the loss saw."""
    model, x = tower(dropout=0.5).double(), torch.randn(12, 5).double()
    labels = torch.arange(12) % 4

    def plain():
        return SupConLoss()(torch.cat([model(part) for part in x.split(5)]), labels)

    found = []
    for make in (plain, lambda: CachedLoss(SupConLoss(), chunk_size=5)(model, [x], labels=labels)):
        torch.manual_seed(7)
        value = make()
        found.append((value.detach(), *torch.autograd.grad(value, list(model.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_activations_of_one_chunk_at_a_time():
    """Counted where autograd saves them: nothing of the encoder outlives its chunk's forward pass."""
    held: list[int] = []
    model, x = tower(), torch.randn(64, 5)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.numel())
        return tensor

    sizes = {}
    for name, make in (("whole", lambda: model(x)), ("chunks", lambda: encode_in_chunks(model, x, 8))):
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            make()
        sizes[name] = sum(held)
    assert sizes["chunks"] < sizes["whole"] / 4


def test_a_chunk_is_encoded_again_only_when_the_one_before_is_done():
    events: list[str] = []

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            events.append("encode")
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            assert ctx.saved_tensors[0].shape == grad.shape
            events.append("done")
            return grad * 2

    model = tower()
    loss = CachedLoss(InfoNCELoss(), chunk_size=4)(lambda x: Marked.apply(model(x)), (torch.randn(12, 5),) * 2)
    assert events == ["encode"] * 6
    loss.backward()
    assert events[6:] == ["encode", "done"] * 6


def test_inputs_may_be_mappings_and_sequences():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.linear(inputs["x"]) * inputs["more"][0]

    model, inputs = Encoder(), {"x": torch.randn(6, 3), "more": [torch.randn(6, 1)]}
    torch.testing.assert_close(encode_in_chunks(model, inputs, 4), model(inputs))


def test_several_towers_and_options():
    towers = tower(5), tower(3)
    a, b, ids = torch.randn(9, 5), torch.randn(9, 3), torch.arange(9) // 2
    loss = InfoNCELoss()
    got = CachedLoss(loss, chunk_size=4)(towers, (a, b), query_ids=ids, key_ids=ids)
    torch.testing.assert_close(got, loss(towers[0](a), towers[1](b), query_ids=ids, key_ids=ids))
    assert repr(CachedLoss(loss, chunk_size=4)).startswith("CachedLoss(\n  chunk_size=4")


def test_wrong_arguments_are_named():
    model, x = tower(), torch.randn(4, 5)
    with pytest.raises(ValueError, match="chunk_size: at least 1, got 0"):
        CachedLoss(InfoNCELoss(), chunk_size=0)
    with pytest.raises(ValueError, match="encoders: one, or one for each of the 2 inputs, got 1"):
        CachedLoss(InfoNCELoss())([model], (x, x))
    with pytest.raises(ValueError, match=r"inputs: tensors of equally many rows, got \[3, 4\]"):
        encode_in_chunks(model, [x, x[:3]], 2)
    with pytest.raises(TypeError, match="inputs: tensors, or a mapping or sequence of them, got str"):
        encode_in_chunks(model, "text", 2)
