"""What small batches read from stored scores, against the operations: each way to leave pairs out, each gradient."""

from __future__ import annotations

import pytest
import torch

from loss_checks import drawn
from plain_torch import gradients
from simtile._losses.stored import Stored, StoredViews
from simtile._pairs import Pairs
from simtile.functional import cmim, dcl, pair_lse, sup_con
from simtile.kernels.reference_torch import softplus

M, N, D = 9, 12, 5
IDS = torch.arange(M) % 4, torch.arange(N) % 4
LIST = torch.tensor([0, 2, 2, *range(3, 10)]), torch.tensor([1, 3, 0, 11, 4, 5, 6, 7, 8])
LEFT_OUT = {
    "none": (Pairs(), {}),
    "diagonal": (Pairs(diagonal="skip"), {"skip_diagonal": True}),
    "ids": (Pairs(*IDS, diagonal="skip"), {"x_ids": IDS[0], "y_ids": IDS[1], "skip_diagonal": True}),
    "only": (Pairs(*IDS, ids_mode="only"), {"x_ids": IDS[0], "y_ids": IDS[1], "ids_mode": "only"}),
    "list": (Pairs(indptr=LIST[0], indices=LIST[1]), {"exclude": LIST}),
    "all": (Pairs(torch.zeros(M).long(), torch.zeros(N).long()),
            {"x_ids": torch.zeros(M).long(), "y_ids": torch.zeros(N).long()}),
}  # fmt: skip


def inputs(rng, *shapes):
    return [part.requires_grad_() for part in (*drawn(rng, *shapes), torch.tensor(3.0).double())]


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_log_sum_exps_and_gradients_are_those_of_pair_lse(rng, name, power):
    pairs, options = LEFT_OUT[name]
    x, y, scale = inputs(rng, (M, D), (N, D))
    found = Stored(x, y, scale, normalize=False).lse(pairs, power=power, column=True)
    want = pair_lse(x, y, scale=scale * power, direction="both", plan="recompute", **options)
    weights = [torch.linspace(-1, 1, len(part)).double() for part in want]
    for got, truth in zip(found, want, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-12, atol=1e-12)

    def total(parts):
        return sum((w * part.masked_fill(part.isinf(), 0.0)).sum() for w, part in zip(weights, parts, strict=True))

    mine, theirs = (gradients(total(parts), [x, y, scale]) for parts in (found, want))
    for got, truth in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("link", ["lse", "softplus"])
@pytest.mark.parametrize("column", [False, True])
def test_a_loss_is_a_log_sum_exp_minus_its_target(rng, name, link, column):
    pairs, _ = LEFT_OUT[name]
    x, y, scale = inputs(rng, (M, D), (N, D))
    (target,) = (part.requires_grad_() for part in drawn(rng, (N if column else M,)))
    found = Stored(x, y, scale, normalize=True).nll(pairs, target, link=link, column=column)
    lse = Stored(x, y, scale, normalize=True).lse(pairs, column=True)[column]
    z = lse.masked_fill(lse.isinf(), 0.0) - target
    want = (softplus(z) if link == "softplus" else z).masked_fill(lse.isinf(), 0.0)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    for got, truth in zip(
        gradients(found.sum(), [x, y, scale, target]), gradients(want.sum(), [x, y, scale, target]), strict=True
    ):
        torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-12)


def test_a_matrix_against_itself_has_the_gradient_of_both_sides(rng):
    """One product serves both, as it does for two views; a learnt scale gets half of what that product would say."""
    z, scale = inputs(rng, (8, D))
    twin = z.detach().clone().requires_grad_()
    pairs = Pairs(diagonal="skip")
    own = Stored(z, z, scale, normalize=True).lse(pairs)[0].sum()
    two = Stored(z, twin, scale, normalize=True).lse(pairs)[0].sum()
    dz, dscale = gradients(own, [z, scale])
    dx, dy, dscale_of_two = gradients(two, [z, twin, scale])
    torch.testing.assert_close(dz, dx + dy, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(dscale, dscale_of_two, rtol=1e-12, atol=0)
    views = StoredViews(z, scale, normalize=True)
    s = views.s.detach()
    torch.testing.assert_close(views.own, torch.cat([s.diagonal(4), s.diagonal(-4)]), rtol=1e-14, atol=0)
    assert views.left_out(Pairs()).sum() == 16


def test_a_scale_of_zero_and_rows_of_zero_have_their_gradients(rng):
    x, y, _ = inputs(rng, (M, D), (M, D))
    x = x.detach().index_fill(0, torch.tensor([2]), 0.0).requires_grad_()
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = gradients(Stored(x, y, scale, normalize=True).own.sum(), [x, y, scale])
    assert all(torch.isfinite(part).all() for part in found) and found[2] != 0


def test_modes_without_gradients_leave_nothing_behind(rng):
    """Masks are kept between calls: one made in inference mode has to serve training."""
    x, y = (part.float() for part in drawn(rng, (23, D), (23, D)))
    with torch.inference_mode():
        first = cmim(x, y), dcl(x, y)
    x.requires_grad_()
    (cmim(x, y) + dcl(x, y)).backward()
    assert torch.isfinite(x.grad).all()
    assert torch.equal(first[0], cmim(x, y)) and torch.equal(first[1], dcl(x, y))


def test_padding_of_weight_zero_reaches_no_gradient(rng):
    x, y = (part.float() for part in drawn(rng, (7, D), (7, D)))
    padded = x.clone()
    padded[3] = torch.nan
    weight = (torch.arange(7) != 3).float()
    x, padded = x.requires_grad_(), padded.requires_grad_()
    for part in (x, padded):
        cmim(part, y, weight=weight).backward()
    assert torch.equal(x.grad[weight > 0], padded.grad[weight > 0])


def test_autocast_leaves_the_products_in_float32(rng):
    x, y = (part.float().requires_grad_() for part in drawn(rng, (M, D), (M, D)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cmim(x, y) + sup_con(x, torch.arange(M) // 3)
    outside = cmim(x, y) + sup_con(x, torch.arange(M) // 3)
    assert torch.equal(inside, outside)
    for got, want in zip(gradients(inside, [x, y]), gradients(outside, [x, y]), strict=True):
        assert torch.equal(got, want)
