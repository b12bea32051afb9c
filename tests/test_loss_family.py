"""What all losses have in common: modules, reductions, dtypes, memory, compilation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loss_checks import LargestTensor
from plain_torch import gradients
from simtile import functional as f, losses

# name -> (module class, function of two matrices (B, D) and options, what the module's forward takes besides)
FAMILY = {
    "InfoNCE": (losses.InfoNCELoss, f.info_nce, ()),
    "SigLIP": (losses.SigLIPLoss, f.sigmoid_loss, ()),
    "NTXent": (losses.NTXentLoss, f.nt_xent, ()),
    "CWCL": (losses.CWCLLoss, lambda a, b, **how: f.cwcl(a, b, features(a), **how), ("features",)),
    "Filtered": (losses.FilteredInfoNCELoss, f.filtered_info_nce, ()),
    "DCL": (losses.DCLLoss, f.dcl, ()),
    "HCL": (losses.HCLLoss, f.hcl, ()),
    "Margin": (losses.MarginInfoNCELoss, f.margin_info_nce, ()),
    "Focal": (losses.FocalInfoNCELoss, f.focal_info_nce, ()),
    "CMIM": (losses.CMIMLoss, f.cmim, ()),
    "ContrastiveGap": (losses.ContrastiveGapLoss, f.contrastive_gap_loss, ()),
    "Distillation": (
        losses.DistillationLoss,
        lambda a, b, **how: f.distillation_loss(a, b, features(a), features(b), **how), ("features", "features"),
    ),
    "SupCon": (losses.SupConLoss, lambda a, _, **how: f.sup_con(a, labels(a), **how), ("labels",)),
}  # fmt: skip


def features(x: Tensor) -> Tensor:
    """(B, 3) frozen features."""
    return x.detach().double()[:, :3].cos().to(x.dtype)


def labels(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0]) // 3


def pair(B: int = 12, D: int = 8, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(B)
    return [torch.randn(B, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("name", FAMILY)
def test_the_module_is_the_function(name):
    kind, function, more = FAMILY[name]
    a, b = pair()
    extra = [{"features": features, "labels": labels}[word](x) for word, x in zip(more, (a, b), strict=False)]
    weight = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    given = [a] if name == "SupCon" else [a, b]
    module = kind(reduction="sum")
    assert torch.equal(module(*given, *extra, weight=weight), function(a, b, weight=weight, reduction="sum"))
    assert kind.__name__ in repr(module) and "reduction='sum'" in repr(module)
    learning = kind(learn_scale=True) if name == "SigLIP" else kind(learn_temperature=True)
    torch.testing.assert_close(learning(*given, *extra), function(a, b), rtol=1e-6, atol=1e-6)
    learning(*given, *extra).backward()
    assert learning.log_scale.grad != 0


@pytest.mark.parametrize("name", FAMILY)
def test_reductions_and_weights_agree(name):
    _, function, _ = FAMILY[name]
    a, b = pair()
    weight = torch.linspace(0.0, 2.0, 12, dtype=torch.float64)
    rows = function(a, b, reduction="none")
    assert rows.shape == (12,)
    if name != "ContrastiveGap":  # its uniformity has no row
        torch.testing.assert_close(function(a, b, weight=weight, reduction="none"), weight * rows)
        torch.testing.assert_close(function(a, b, weight=weight), (weight * rows).sum() / weight.sum())
    torch.testing.assert_close(function(a, b), rows.mean())
    torch.testing.assert_close(function(a, b, reduction="sum"), rows.sum())


@pytest.mark.parametrize("name", sorted(set(FAMILY) - {"SupCon"}))  # its labels go by place here
def test_pairs_in_another_order_have_the_same_losses(name):
    _, function, _ = FAMILY[name]
    a, b = pair()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for plan in ("auto", "recompute"):
        moved = function(a[order], b[order], reduction="none", plan=plan)
        torch.testing.assert_close(moved, function(a, b, reduction="none", plan=plan)[order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_losses_are_float32_and_gradients_the_inputs_dtype(name, dtype):
    _, function, _ = FAMILY[name]
    inputs = pair(dtype=dtype)
    loss = function(*inputs, plan="recompute")
    found = gradients(loss, inputs)
    assert loss.dtype == torch.float32 and all(part.dtype == dtype for part in found)
    wide = [part.detach().double().requires_grad_() for part in inputs]
    exact = function(*wide)
    coarse = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(loss.double(), exact, rtol=coarse, atol=coarse)
    for got, truth in zip(found, gradients(exact, wide), strict=True):
        assert (got.double() - truth).norm() <= 10 * coarse * truth.norm()


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_batches_of_hardly_any_rows_have_finite_losses_and_gradients(name, rows):
    _, function, _ = FAMILY[name]
    for reduction in ("mean", "none"):
        inputs = pair(rows, dtype=torch.float32)
        loss = function(*inputs, reduction=reduction)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert all(torch.isfinite(part.grad).all() for part in inputs if part.grad is not None)


@pytest.mark.parametrize("name", FAMILY)
def test_no_matrix_of_all_pairs_is_made_forward_or_backward(name):
    """2,048 pairs of width 8: 4M scores, against 64 numbers a row, or for a teacher its chunk of 5 MB."""
    _, function, _ = FAMILY[name]
    B = 2048
    inputs = pair(B, 8, torch.float32)
    with LargestTensor() as largest:
        function(*inputs).backward()
    allowed = 64 * B if name != "Distillation" else 1_400_000
    assert 0 < largest.elements <= allowed


@pytest.mark.parametrize("name", FAMILY)
def test_second_derivatives_are_refused(name):
    _, function, _ = FAMILY[name]
    inputs = pair()
    (grad, *_) = torch.autograd.grad(function(*inputs, plan="recompute"), inputs, create_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="second time"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ["DCL", "Distillation", "SupCon"])
def test_compiled_without_graph_breaks_it_gives_the_same(name):
    _, function, _ = FAMILY[name]
    inputs = pair()
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: function(a, b, plan="recompute"), fullgraph=True, backend="aot_eager")
    found, want = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(found, inputs), gradients(want, inputs), rtol=1e-10, atol=1e-12)
