"""How the operations sit in torch: operators, compilation, autocast, frozen graphs, second derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from simtile import functional as f
from simtile._ops import ordered_sum

OPS = torch.ops.simtile


def guided(x):
    features = torch.arange(27).reshape(9, 3) % 2
    return {"threshold": torch.full((9,), 0.5), "guide": (features.to(x.dtype), features.to(x.dtype))}


CASES = {
    "pair_lse dense": lambda x, y, s: f.pair_lse(x, y, scale=s, direction="both", plan="dense"),
    "pair_lse recompute": lambda x, y, s: f.pair_lse(x, y, scale=s, direction="both", plan="recompute"),
    "pair_nll dense": lambda x, y, s: f.pair_nll(x, y, None, scale=s, plan="dense"),
    "pair_nll chunked": lambda x, y, s: f.pair_nll(x, y, None, scale=s, link="softplus", plan="chunked"),
    "pair_nll none": lambda x, y, s: f.pair_nll(x, y, None, scale=s, reduction="none", plan="recompute"),
    "pair_nll guided": lambda x, y, s: f.pair_nll(x, y, None, scale=s, plan="chunked", **guided(x)),
    "pair_softplus dense": lambda x, y, s: f.pair_softplus(x, y, scale=s, plan="dense"),
    "pair_softplus chunked": lambda x, y, s: f.pair_softplus(x, y, scale=s, plan="chunked"),
    "pair_softplus none": lambda x, y, s: f.pair_softplus(x, y, scale=s, reduction="none", plan="recompute"),
    "info_nce dense": lambda x, y, s: f.info_nce(x, y, temperature=s, plan="dense"),
    "info_nce chunked": lambda x, y, s: f.info_nce(x, y, temperature=s, plan="chunked"),
    "info_nce symmetric": lambda x, y, s: f.info_nce(x, y, temperature=s, symmetric=True, plan="recompute"),
    "info_nce symmetric dense": lambda x, y, s: f.info_nce(x, y, temperature=s, symmetric=True, plan="dense"),
    "nested_lse": lambda x, y, s: f.nested_lse(x, y, [2, 6], scale=s, direction="both"),
    "sigmoid_loss": lambda x, y, s: f.sigmoid_loss(x, y, scale=s),
    "pair_topk": lambda x, y, s: f.pair_topk(x * s, y, 3).scores,
}
case = pytest.mark.parametrize("run", CASES.values(), ids=CASES.keys())


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, 6, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    scale = torch.tensor(0.5, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    return x, y, scale


def total(value):
    return sum(part.sum() for part in value) if isinstance(value, tuple) else value.sum()


@case
def test_gradcheck_in_float64(run):
    assert torch.autograd.gradcheck(run, inputs(torch.float64))


@case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_derivatives_raise(run, dtype):
    x, y, scale = inputs(dtype)
    (dx,) = torch.autograd.grad(total(run(x, y, scale)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        (dx.pow(2).sum() + x.sum()).backward()


@case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_without_graph_breaks_it_gives_the_same(run, dtype):
    eager, compiled = inputs(dtype), inputs(dtype)
    want = total(run(*eager))
    want.backward()
    torch._dynamo.reset()
    got = total(torch.compile(run, fullgraph=True, backend="aot_eager")(*compiled))
    got.backward()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 2e-5, "atol": 2e-6}
    torch.testing.assert_close(got, want, **tolerance)
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_with_dynamic_shapes(backend):
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def loss(x, y):
        return f.info_nce(x, y, symmetric=True, plan="recompute")

    for rows in (9, 14):
        x, y = torch.randn(rows, 6, requires_grad=True), torch.randn(rows, 6)
        want = f.info_nce(x, y, symmetric=True)
        torch.testing.assert_close(loss(x, y), want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            torch.autograd.grad(loss(x, y), x), torch.autograd.grad(want, x), rtol=1e-4, atol=1e-6
        )


GUIDE = (torch.full((10,), 0.5), torch.arange(30.0).reshape(10, 3) % 2, torch.arange(36.0).reshape(12, 3) % 2)
PAIRS = (torch.arange(10) % 3, torch.arange(12) % 3, None, None, *GUIDE, "exclude", "skip")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_opcheck(dtype):
    wide = torch.promote_types(dtype, torch.float32)
    x, y = (torch.randn(8, rows).to(dtype).t().requires_grad_() for rows in (10, 12))  # strides that results don't have
    scale, bias = torch.tensor(0.7, dtype=wide, requires_grad=True), torch.randn(10, dtype=wide, requires_grad=True)
    weight = torch.rand(10, dtype=wide)
    want = (True, True, True, True, False)
    checked = set()

    def check(op, *arguments):
        opcheck(op.default, arguments)
        checked.add(op.default.name())

    def results(op, *arguments):
        with torch.no_grad():
            return [part.detach() for part in op(*arguments)]

    constant = [part.detach() for part in (x, y, scale, bias)]
    for plan in ("dense", "recompute", "stash")[: 3 if dtype == torch.bfloat16 else 2]:
        check(OPS.pair_lse, x, y, scale, bias, None, *PAIRS, True, True, True, plan)
        check(OPS.pair_lse, x, y, scale, None, None, *PAIRS, True, False, False, plan)
        row, column, own, stash = results(OPS.pair_lse, *constant, None, *PAIRS, True, True, True, plan)
        found = row, column, stash, row, column, own
        check(OPS.pair_lse_backward, *constant, None, *PAIRS, plan, *found, *want)
    for plan in ("dense", "chunked"):
        check(OPS.pair_nll, x, y, scale, bias, None, None, weight, *PAIRS, "softplus", plan, *want)
        check(OPS.pair_softplus, x, y, scale, bias, None, *PAIRS, 0.1, plan, *want)
        check(OPS.pair_softplus_rows, x, y, scale, bias, None, *PAIRS, plan)
        check(OPS.pair_softplus_backward, *constant, None, *PAIRS, plan, weight, *want)
    _, *gradients = results(OPS.pair_softplus, *constant, None, *PAIRS, 0.1, "dense", *want)
    check(OPS.scale_gradients, weight[0], *gradients, dtype)
    check(OPS.scale_vector, weight[0], weight)
    check(OPS.pair_topk, x, y, None, None, None, None, 3)
    scores, ids = results(OPS.pair_topk, *constant[:2], None, None, None, None, 3)
    check(OPS.pair_topk_backward, *constant[:2], None, ids, scores)
    nested = (*constant[:3], *PAIRS, [2, 6], True)
    check(OPS.nested_lse, x, y, scale, *PAIRS, [2, 6], True, True, True, True)
    row, column, own = results(OPS.nested_lse, *nested, True, True, True)
    check(OPS.nested_lse_backward, *nested, row, column, row, column, own, True, True, True)
    check(OPS.pair_stats, *constant[:2], [2.0], 3)
    registered = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("simtile::")}
    assert checked == registered


@case
def test_the_operators_refuse_second_derivatives(run, monkeypatch):
    for module in ("_ops", "_topk", "_nested", "_normalize", "_losses.info_nce"):
        monkeypatch.setattr(f"simtile.{module}.traced", lambda _: True)
    x, y, scale = inputs()
    (dx,) = torch.autograd.grad(total(run(x, y, scale)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        (dx.pow(2).sum() + x.sum()).backward()


def test_fake_tensors_are_traced():
    with FakeTensorMode():
        x, y = torch.empty(10, 4, requires_grad=True), torch.empty(10, 4)
        loss = f.info_nce(x, y, symmetric=True, plan="recompute")
        loss.backward()
        assert loss.shape == () and x.grad.shape == (10, 4)


@pytest.mark.parametrize("plan", ["dense", "chunked"])
def test_a_graph_kept_for_another_pass_is_not_written_to(plan):
    x, y = torch.randn(20, 4, requires_grad=True), torch.randn(20, 4, requires_grad=True)
    loss = f.info_nce(x, y, normalize=False, plan=plan)
    grads = []
    for _ in range(3):
        loss.backward(retain_graph=True)
        grads.append(x.grad.clone())
    torch.testing.assert_close(grads[1], 2 * grads[0])
    torch.testing.assert_close(grads[2], 3 * grads[0])


def test_the_gradient_made_in_the_forward_pass_is_handed_over_without_a_copy():
    x, y = torch.randn(20, 4, requires_grad=True), torch.randn(20, 4, requires_grad=True)
    loss = f.pair_nll(x, y, None, plan="chunked")
    made = loss.grad_fn.saved_tensors[0].data_ptr()
    loss.backward()
    assert x.grad.data_ptr() == made


@case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(run, dtype):
    outside, inside = inputs(dtype), inputs(dtype)
    want = total(run(*outside))
    want.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run(*inside)
    for part in got if isinstance(got, tuple) else (got,):
        assert part.dtype == torch.float32
    total(got).backward()
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a.grad, b.grad)


@case
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_bad_numbers_give_bad_numbers_never_an_exception(run, bad):
    if run is CASES["pair_topk"]:
        pytest.skip("top-k has no order for NaN; search refuses it")
    x, y, scale = inputs()
    with torch.no_grad():
        x[3, 2] = bad
    loss = total(run(x, y, scale))
    loss.backward()
    # What a GradScaler looks for. A sigmoid of ±inf is finite: with it, only y sees the row that is not.
    assert not (torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all())


def test_a_grad_scaler_skips_the_step_and_goes_on():
    x, y = torch.randn(20, 4, requires_grad=True), torch.randn(20, 4)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**16), torch.optim.SGD([x], lr=1.0)
    for bad in (True, False):
        before = x.detach().clone()
        keys = y.clone()
        if bad:
            keys[0, 0] = math.inf
        optimizer.zero_grad()
        scaler.scale(f.info_nce(x, keys, plan="chunked")).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(x, before) == bad


def test_float16_gradients_survive_until_they_are_scaled():
    x, y = torch.randn(500, 8, requires_grad=True), torch.randn(500, 8)
    (want,) = torch.autograd.grad(f.info_nce(x, y, temperature=10.0, plan="chunked"), x)
    half = x.detach().half().requires_grad_()
    (got,) = torch.autograd.grad(f.info_nce(half, y.half(), temperature=10.0, plan="chunked") * 2.0**16, half)
    torch.testing.assert_close(got.float() / 2.0**16, want, rtol=0.05, atol=float(want.abs().max()) / 100)


@case
def test_strides_do_not_matter(run):
    x, y, scale = inputs()
    base = torch.randn(6, 18)
    base[:, ::2] = x.detach().T
    strided = base[:, ::2].T.requires_grad_()
    assert not strided.is_contiguous()
    a, b = total(run(x, y, scale)), total(run(strided, y, scale))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(*(torch.autograd.grad(loss, part)[0] for loss, part in ((a, x), (b, strided))))


def test_sums_do_not_depend_on_the_number_of_threads():
    values, before = torch.randn(300_001), torch.get_num_threads()
    try:
        sums = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sums.append(ordered_sum(values))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*sums)
    torch.testing.assert_close(sums[0].double(), values.double().sum(), rtol=0, atol=1e-3)
