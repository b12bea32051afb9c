"""Every operation traced on fake tensors of a GPU, on a machine without one: shapes, dtypes, strides, devices.

What torch.compile and torch.export see. That real results look as the fake ones do is opcheck's part
(test_functional_autograd.py on the CPU's engines, kernels/test_triton_engine.py on the kernels).
"""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simtile import functional as f

M, N, D = 10, 14, 6
GPU = torch.device("cuda:0")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
OPS = torch.ops.simtile


@pytest.fixture(autouse=True)
def _fake():
    with FakeTensorMode():
        yield


def matrices(dtype, rows=(M, N)):
    # The coordinates are not contiguous: results must not copy the inputs' strides.
    return [torch.empty(D, size, dtype=dtype, device=GPU).t() for size in rows]


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def check(value, shape, dtype):
    assert isinstance(value, FakeTensor)
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    assert (value.shape, value.dtype, value.device, value.stride()) == (torch.Size(shape), dtype, GPU, strides)


LOSSES = {
    "pair_nll": lambda x, y, **how: f.pair_nll(x, y, None, scale=2.0, **how),
    "pair_nll softplus": lambda x, y, **how: f.pair_nll(x, y, None, link="softplus", **how),
    "pair_softplus": f.pair_softplus,
    "info_nce": f.info_nce,
    "info_nce symmetric": lambda x, y, **how: f.info_nce(x, y, symmetric=True, label_smoothing=0.1, **how),
    "sigmoid_loss": f.sigmoid_loss,
    "sup_con": lambda x, y, **how: f.sup_con(x, _ids(M), keys=y, key_labels=_ids(N), **how),
    "sup_con in": lambda x, y, **how: f.sup_con(x, _ids(M), form="in", **how),
    "cwcl": lambda x, y, **how: f.cwcl(x, y, y, **how),
    "filtered_info_nce": lambda x, y, **how: f.filtered_info_nce(x, y, blocks=("query_key", "key_key"), **how),
    "cmim": f.cmim,
    "margin_info_nce": lambda x, y, **how: f.margin_info_nce(x, y, kind="angular", **how),
    "focal_info_nce": f.focal_info_nce,
    "distillation_loss": lambda x, y, **how: f.distillation_loss(x, y, x, y, symmetric=False, **how),
    "nt_xent": lambda x, _, **how: f.nt_xent(x, x, **how),
    "dcl": lambda x, _, **how: f.dcl(x, x, sigma=0.5, **how),
    "hcl": lambda x, _, **how: f.hcl(x, x, **how),
    "contrastive_gap_loss": lambda x, _, **how: f.contrastive_gap_loss(x, x, **how),
}


def _ids(rows):
    return torch.empty(rows, dtype=torch.int64, device=GPU)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("plan", ["auto", "dense", "recompute"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, plan, dtype):
    x, y = matrices(dtype)
    check(LOSSES[name](x, y, plan=plan), (), wide(dtype))
    check(LOSSES[name](x, y, plan=plan, reduction="none"), (M,), wide(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("plan", ["auto", "dense", "recompute"])
def test_pair_lse(plan, dtype):
    x, y = matrices(dtype)
    ids = [torch.empty(rows, dtype=torch.int32, device=GPU) for rows in (M, N)]
    exclude = torch.empty(M + 1, dtype=torch.int64, device=GPU), torch.empty(7, dtype=torch.int64, device=GPU)
    guide = torch.empty(M, 3, device=GPU), torch.empty(N, 3, device=GPU)
    scale = torch.empty((), device=GPU)  # is not read: a fake tensor has nothing to read
    row, column = f.pair_lse(
        x, y, scale=scale, x_ids=ids[0], y_ids=ids[1], exclude=exclude, threshold=guide[0][:, 0], guide=guide,
        direction="both", plan=plan,
    )  # fmt: skip
    check(row, (M,), wide(dtype))
    check(column, (N,), wide(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_prefixes_and_a_matrix_against_itself(dtype):
    x, y = matrices(dtype)
    row, column = f.nested_lse(x, y, [2, 6], direction="both")
    check(row, (2, M), wide(dtype))
    check(column, (2, N), wide(dtype))
    check(f.matryoshka_info_nce(x, y, [2, 6], symmetric=True), (), wide(dtype))
    check(f.self_lse(x), (M,), wide(dtype))
    words = (*[None] * 7, "exclude", "skip", [2, 6], True)
    scale, own = torch.empty((), dtype=wide(dtype), device=GPU), torch.empty(2, M, dtype=wide(dtype), device=GPU)
    dx, dy, dscale = OPS.nested_lse_backward(x, y, scale, *words, row, column, row, column, own, True, True, True)
    half = torch.float32 if dtype == torch.float16 else dtype
    check(dx, (M, D), half)
    check(dy, (N, D), half)
    check(dscale, (), wide(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pair_topk(dtype):
    found = f.pair_topk(*matrices(dtype), 3)
    check(found.scores, (M, 3), wide(dtype))
    check(found.ids, (M, 3), torch.int64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("plan", ["dense", "recompute", "stash"])
def test_gradients(plan, dtype):
    """The operators that autograd would call: its engine itself wants a GPU for tensors of one."""
    if plan == "stash" and dtype != torch.bfloat16:
        pytest.skip("a stash is for bfloat16")
    x, y = matrices(dtype)
    vectors = [torch.empty(size, dtype=wide(dtype), device=GPU) for size in (M, N)]
    scale = torch.empty((), dtype=wide(dtype), device=GPU)
    given = (x, y, scale, *vectors, *[None] * 7, "exclude", "skip")
    half = torch.float32 if dtype == torch.float16 else dtype
    expected = [((M, D), half), ((N, D), half), ((), wide(dtype)), ((M,), wide(dtype)), ((N,), wide(dtype))]
    row, column, own, stash = OPS.pair_lse(*given, True, True, True, plan)
    check(own, (min(M, N),), wide(dtype))
    check(stash, *{"dense": ((M, N), wide(dtype)), "stash": ((M, N), torch.int16)}.get(plan, ((0,), dtype)))
    found = {
        "pair_lse": OPS.pair_lse_backward(*given, plan, row, column, stash, row, column, own, *[True] * 5),
        "pair_softplus": OPS.pair_softplus_backward(*given, plan, row, *[True] * 5),
        "pair_softplus forward": OPS.pair_softplus(*given, 1.0, plan, *[True] * 5)[1:],
        "pair_nll forward": OPS.pair_nll(*given[:5], None, None, *given[5:], "lse", plan, *[True] * 5)[2:],
    }
    for parts in found.values():
        for part, (shape, own_dtype) in zip(parts, expected, strict=True):
            check(part, shape, own_dtype)
    dx, dy, *_ = OPS.scale_gradients(vectors[0][0], *found["pair_nll forward"], dtype)
    check(dx, (M, D), dtype)
    check(dy, (N, D), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_topk(dtype):
    x, y = matrices(dtype)
    ids, grad = (torch.empty(M, 3, dtype=kind, device=GPU) for kind in (torch.int64, wide(dtype)))
    dx, dy, dy_scale, dy_bias = OPS.pair_topk_backward(x, y, None, ids, grad)
    check(dx, (M, D), dtype)
    check(dy, (N, D), dtype)
    check(dy_scale, (N,), wide(dtype))
    check(dy_bias, (N,), wide(dtype))


def test_a_scale_kept_on_the_cpu_gets_its_gradient_there():
    x, y = matrices(torch.float32)
    given = (x, y, torch.empty(()), *[None] * 9, "exclude", "keep", 1.0, "chunked")
    assert OPS.pair_softplus(*given, *[True] * 3, False, False)[3].device.type == "cpu"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics(dtype):
    stats = f.pair_stats(*matrices(dtype), betas=[1.0, 2.0], ks=[3])
    for part, shape in ((stats.lse, (2, N)), (stats.mean, (N,)), (stats.var, (N,)), (stats.top, (3, N))):
        check(part, shape, wide(dtype))
    check(OPS.scale_vector(torch.empty((), dtype=wide(dtype), device=GPU), stats.mean), (N,), wide(dtype))


class Called(TorchDispatchMode):
    """Notes the names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name().partition(".")[0])
        return function(*args, **(kwargs or {}))


def test_no_operator_is_left_out():
    with Called() as called:
        test_losses("pair_softplus", "recompute", torch.bfloat16)
        test_prefixes_and_a_matrix_against_itself(torch.bfloat16)
        test_pair_topk(torch.bfloat16)
        test_gradients("recompute", torch.bfloat16)
        test_gradients_of_topk(torch.bfloat16)
        test_statistics(torch.bfloat16)
    registered = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("simtile::")}
    assert registered <= called.names
