"""The engine on Triton's launchers, in the interpreter: the same words and results as the CPU's engine.

The kernels' own tests judge each launcher against float64; these check what lies between: own scores, stash, flips,
diagonal coefficients, lists, devices of scalars. The bar is still the error of plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import Dense, Job
from torch import Tensor
from torch.library import opcheck

from accuracy import assert_as_accurate, rounded, unit_rows
from simtile import _plan, _triton_engine, functional as f
from simtile._cpu_engine import CpuEngine
from simtile._pairs import Gradients, Pairs, Want, as_csr, gradient_dtype
from simtile._torch_engine import TorchEngine
from simtile._triton_engine import TritonEngine
from simtile.kernels import pair_nll, reference_torch
from simtile.kernels.accumulate import WORKSPACE_BYTES
from simtile.kernels.pairs import PairOptions

SHAPES = [
    pytest.param(37, 70, 40, id="ragged"),
    pytest.param(70, 45, 33, id="rows-without-partner"),
    pytest.param(1, 1, 1, id="one-pair"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RULES = ["none", "ids", "only", "lists", "diagonal", "bias", "guide", "everything"]
# Every rule in float32; in 16 bits all of them at once, as types and rules do not meet in the engine.
CASES = [(rule, torch.float32) for rule in RULES] + [("everything", torch.bfloat16), ("everything", torch.float16)]
cases = pytest.mark.parametrize(("rule", "dtype"), CASES, ids=[f"{rule}-{dtype}" for rule, dtype in CASES])
ALL = Want(True, True, True, True, True)
ENGINE = TritonEngine()


class Given:
    """One job in the engines' words, and dense torch on it."""

    def __init__(
        self, rng: np.random.Generator, M: int, N: int, D: int, rule: str, dtype: torch.dtype, *, flip: bool = False
    ) -> None:
        self.x, self.y = (rounded(unit_rows(rng, rows, D), dtype)[0] for rows in (M, N))
        self.scale = torch.tensor(14.0)
        biased, ids, lists = (rule in (*words, "everything") for words in (("bias",), ("ids", "only"), ("lists",)))
        self.biases: tuple[Tensor | None, Tensor | None] = (None, None)
        if biased:
            self.biases = tuple(torch.from_numpy(rng.standard_normal(rows)).float() for rows in (M, N))
        x_ids = y_ids = exclude = None
        if ids:
            x_ids, y_ids = (torch.from_numpy(rng.integers(0, 4, rows)) for rows in (M, N))
        if lists:
            counts = rng.integers(0, 6, M)
            indptr = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
            exclude = (indptr, torch.from_numpy(rng.integers(0, N, int(counts.sum()))))
        mode = "flip" if flip else "only" if rule == "only" else "exclude"
        diagonal = "keep" if rule not in ("diagonal", "everything") else "flip" if flip else "skip"
        limit: tuple[Tensor, Tensor, Tensor] | tuple[()] = ()
        if rule in ("guide", "everything"):
            # Small integers: no rounding decides what is above a half.
            features = (torch.from_numpy(rng.integers(-1, 2, (rows, 5))).to(dtype) for rows in (M, N))
            limit = (torch.full((M,), 0.5), *features)
        self.pairs = Pairs(x_ids, y_ids, mode, *as_csr(exclude, M, N, self.x), diagonal, *limit)
        options: PairOptions = {"scale": self.scale, "skip_diagonal": diagonal == "skip"}
        if flip:
            options |= {"flip_diagonal": diagonal == "flip"}
        if ids:
            options |= {"x_ids": x_ids, "y_ids": y_ids, "ids_mode": mode}
        if exclude is not None:
            options |= {"exclude": exclude}
        if limit:
            options |= {"threshold": limit[0], "guide": limit[1:]}
        if biased:
            options |= {"x_bias": self.biases[0], "y_bias": self.biases[1]}
        self.job = Job(self.x, self.y, dict(options))

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.x, self.y, self.scale, self.biases, self.pairs

    @property
    def dense(self) -> tuple[Dense, Dense]:
        """In float64, and as plain torch in float32, the statistics' type."""
        return Dense(self.job, torch.float64), Dense(Job(self.x.float(), self.y.float(), self.job.options))


def check_gradients(given: Given, found: Gradients, loss: Callable[[Dense], Tensor], want: Want = ALL) -> None:
    """Against float64, and plain torch in the inputs' own type; ``loss`` of a Dense is differentiated."""
    exact, plain = Dense(given.job, torch.float64), Dense(given.job)
    truth, naive = exact.gradients(loss(exact)), plain.gradients(loss(plain))
    size = max(float(truth[0].abs().max() * given.x.double().abs().sum()), 1.0)
    for name, actual, bar, right in zip(found._fields, found, naive, truth, strict=True):
        if not getattr(want, name):
            assert actual is None, name
            continue
        assert actual is not None, name
        if name in ("x", "y"):
            assert actual.dtype == gradient_dtype(given.x)
        else:
            assert actual.dtype == torch.float32
        # Sums of coefficients that are stored in the inputs' type: cancelling terms leave the terms' rounding.
        magnitude = {"scale": size, "x_bias": 14.0, "y_bias": 14.0}.get(name)
        floor = max(4.0, max(len(given.x), len(given.y)) ** 0.5)
        assert_as_accurate(actual.to(given.x.dtype), bar, right.numpy(), magnitude=magnitude, floor=floor)


@cases
def test_log_sum_exps_own_scores_and_gradients(rule: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for shape in SHAPES if rule == "everything" else SHAPES[:1]:
        given = Given(rng, *shape.values, rule, dtype)
        M, N = len(given.x), len(given.y)
        rows, columns, own, stash = ENGINE.lse(*given.arguments, True, True, True, False)
        exact, plain = given.dense
        for actual, part in ((rows, lambda d: d.lse(1)), (columns, lambda d: d.lse(0)),
                             (own, lambda d: d.all_scores.diagonal())):  # fmt: skip
            assert_as_accurate(actual, part(plain), part(exact).detach().numpy(), magnitude=14.0)
        assert stash is None
        g, h, p = (torch.linspace(a, b, n) / n for a, b, n in ((0.5, 1.5, M), (1.5, 0.5, N), (-1.0, 1.0, min(M, N))))

        def loss(dense: Dense, g: Tensor = g, h: Tensor = h, p: Tensor = p) -> Tensor:
            parts = (dense.lse(1), g), (dense.lse(0), h), (dense.all_scores.diagonal(), p)
            return sum((v.masked_fill(torch.isneginf(v), 0.0) * w.to(v.dtype)).sum() for v, w in parts)

        check_gradients(given, ENGINE.grad(*given.arguments, (rows, columns), (g, h, p), None, ALL), loss)
        if dtype == torch.bfloat16:  # without gradients of biases and lists: in registers
            want = Want(True, True, True)
            found = ENGINE.grad(*given.arguments, (rows, columns), (g, h, p), None, want)
            check_gradients(given, found, loss, want)


def test_own_scores_alone_take_no_pass_over_the_pairs(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(rng, 37, 70, 40, "bias", torch.float32)
    monkeypatch.setattr(_triton_engine, "pair_lse_fwd", lambda *_, **__: pytest.fail("a pass"))
    rows, columns, own, _ = ENGINE.lse(*given.arguments, False, False, True, False)
    exact, plain = given.dense
    assert rows is None and columns is None
    assert_as_accurate(own, plain.all_scores.diagonal(), exact.all_scores.diagonal().detach().numpy())
    found = ENGINE.grad(*given.arguments, (None, None), (None, None, torch.ones(37)), None, ALL)
    check_gradients(given, found, lambda dense: dense.all_scores.diagonal().sum())


def test_a_stash_gives_the_gradient_of_two_sided_losses(rng: np.random.Generator) -> None:
    given = Given(rng, 37, 70, 40, "diagonal", torch.bfloat16)
    rows, columns, _, stash = ENGINE.lse(*given.arguments, True, True, False, True)
    assert stash is not None and stash.dtype == torch.int16 and stash.stride() == (70, 1)
    want = Want(True, True, True)
    grads = torch.ones(37) / 37, torch.ones(70) / 70, None
    found = ENGINE.grad(*given.arguments, (rows, columns), grads, stash, want)
    check_gradients(given, found, lambda dense: dense.lse(1).mean() + dense.lse(0).mean(), want)


@cases
@pytest.mark.parametrize("link", ["lse", "softplus"])
def test_nll(link: str, rule: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    given = Given(rng, 37, 70, 40, rule, dtype)
    weight = torch.linspace(0.0, 1.0, 37)
    target = None if rule in ("none", "diagonal", "everything") else torch.linspace(-9.0, 9.0, 37)

    def losses(dense: Dense) -> tuple[Tensor, Tensor]:
        t = dense.all_scores.diagonal() if target is None else target.to(dense.scores.dtype)
        lse = dense.lse(1)
        z = lse.masked_fill(torch.isneginf(lse), 0.0) - t
        loss = (reference_torch.softplus(z) if link == "softplus" else z).masked_fill(torch.isneginf(lse), 0.0)
        return loss, weight.to(loss.dtype) * (z.sigmoid() if link == "softplus" else torch.ones_like(z))

    loss, coefficient, found = ENGINE.nll(*given.arguments, link, weight, target, ALL)
    exact, plain = given.dense
    for actual, bar, right in zip((loss, coefficient), losses(plain), losses(exact), strict=True):
        right = right.masked_fill(torch.isneginf(exact.lse(1)), 0.0)
        assert_as_accurate(actual, bar, right.detach().numpy(), magnitude=14.0)
    check_gradients(given, found, lambda dense: (losses(dense)[0] * weight.to(dense.scores.dtype)).sum())
    alone, _, nothing = ENGINE.nll(*given.arguments, link, weight, target, Want())
    assert torch.equal(alone, loss) and nothing == Gradients()


@pytest.mark.parametrize(("rule", "dtype"), [case for case in CASES if case[0] != "only"], ids=str)
def test_softplus_with_flips(rule: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for shape in SHAPES if rule == "everything" else SHAPES[:1]:
        given = Given(rng, *shape.values, rule, dtype, flip=True)
        M = len(given.x)
        weight = torch.linspace(0.5, 1.5, M) / M

        def sums(dense: Dense) -> Tensor:
            s = dense.scores
            return reference_torch.softplus(s).masked_fill(torch.isneginf(s), 0.0).sum(1)

        rows, found = ENGINE.softplus(*given.arguments, weight, ALL)
        exact, plain = given.dense
        assert_as_accurate(rows, sums(plain), sums(exact).detach().numpy())
        check_gradients(given, found, lambda dense, w=weight: (sums(dense) * w.to(dense.scores.dtype)).sum())
        alone, nothing = ENGINE.softplus(*given.arguments, None, Want())
        assert torch.equal(alone, rows) and nothing == Gradients()


@pytest.mark.parametrize("rule", RULES)
def test_ranks_are_those_of_the_cpu_engine(rule: str, rng: np.random.Generator) -> None:
    """Scores of small integers are exact in any order of summation."""
    given = Given(rng, 37, 70, 12, rule, torch.float32)
    given.x, given.y = (torch.from_numpy(rng.integers(-2, 3, (rows, 12))).float() for rows in (37, 70))
    given.biases = tuple(None if b is None else b.round() for b in given.biases)
    for target in (None, torch.from_numpy(rng.integers(-9, 9, 37)).float() * 14):
        ours, other = (engine.rank(*given.arguments, target) for engine in (ENGINE, CpuEngine(1 << 20)))
        for a, b in zip(ours, other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("N", "k"), [(300, 2), (90, 3), (5, 9)], ids=["two-passes", "sorted-scores", "padded"])
def test_topk_is_that_of_the_cpu_engine(N: int, k: int, rng: np.random.Generator) -> None:
    """Small integers again: ties everywhere, and their order counts."""
    x, y = (torch.from_numpy(rng.integers(-2, 3, (rows, 8))).float() for rows in (20, N))
    y_scale, y_bias = (torch.from_numpy(rng.integers(-2, 3, N)).float() for _ in range(2))
    indptr = torch.arange(21) * 2
    csr = as_csr((indptr, torch.from_numpy(rng.integers(0, N, 40))), 20, N, x)
    for pairs in (Pairs(), Pairs(indptr=csr[0], indices=csr[1])):
        for scaled in ((None, None), (y_scale, y_bias)):
            ours, other = (engine.topk(x, y, k, *scaled, pairs) for engine in (ENGINE, CpuEngine(1 << 20)))
            assert torch.equal(ours[0], other[0])
            assert torch.equal(ours[1], other[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N"), [(0, 4), (3, 0), (0, 0)])
def test_empty_inputs_are_as_on_plain_torch(M: int, N: int, dtype: torch.dtype) -> None:
    x, y = torch.ones(M, 5).to(dtype), torch.ones(N, 5).to(dtype)
    job = (x, y, 2.0, (None, None), Pairs())
    lse = ENGINE.lse(*job, True, True, False, False)[:2]
    grads = torch.ones(M), torch.ones(N), torch.ones(min(M, N))

    def results(engine: TritonEngine | TorchEngine) -> tuple[Tensor | None, ...]:
        loss, coefficient, of_nll = engine.nll(*job, "lse", None, torch.zeros(M), ALL)
        rows, of_softplus = engine.softplus(*job, None, ALL)
        return (
            *engine.lse(*job, True, True, True, False),
            *engine.grad(*job, lse, grads, None, ALL),
            *engine.rank(*job, torch.zeros(M)),
            *engine.topk(x, y, 2, None, None, Pairs()),
            *(loss, coefficient, *of_nll, rows, *of_softplus),
        )

    for ours, plain in zip(results(ENGINE), results(TorchEngine(10)), strict=True):
        if plain is None:
            assert ours is None
        else:
            assert ours is not None and ours.dtype == plain.dtype and torch.equal(ours, plain)


def test_a_scale_on_the_device_is_never_read(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tensor of a GPU waits for all that was launched before."""
    given = Given(rng, 37, 70, 40, "none", torch.float32)
    options: list[object] = []
    forward = _triton_engine.pair_lse_fwd
    monkeypatch.setattr(
        _triton_engine, "pair_lse_fwd", lambda *a, **o: (options.append(o["scale"]), forward(*a, **o))[1]
    )
    ENGINE.lse(*given.arguments, True, False, False, False)
    assert options[0] is given.scale
    assert _triton_engine._options(torch.empty(1, device="meta"), given.scale, (None, None), Pairs())["scale"] == 14.0


def test_the_plans_limit_is_that_of_the_kernels() -> None:
    """Beyond, pair_nll would compute scores twice while the plan promised three passes."""
    for dtype in DTYPES:
        fewest = pair_nll.FEWEST_ROWS * pair_nll._pair_bytes(dtype)
        assert _plan.GPU_WHOLE_ROWS[dtype.itemsize] == WORKSPACE_BYTES // fewest


def test_tuned_launches_are_read_once_and_a_bad_file_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "launches.json"
    monkeypatch.setattr(_triton_engine, "TUNED_FILE", file)
    read = _triton_engine.gpu_engine.__wrapped__
    assert isinstance(read(), TritonEngine)
    file.write_text('{"sm_90 pair_lse_forward half": {}}')
    with pytest.warns(UserWarning, match="run `simtile tune` again"):
        read()


@pytest.fixture
def _triton_for_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_plan, "tile_engine", lambda *_: ("Triton tiles", "as a test wants it"))
    monkeypatch.setattr(_triton_engine, "TUNED_FILE", tmp_path / "none.json")
    _triton_engine.gpu_engine.cache_clear()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, str], Tensor]] = {
    "info_nce": lambda x, y, s, plan: f.info_nce(x, y, temperature=s, plan=plan),
    "info_nce symmetric": lambda x, y, s, plan: f.info_nce(x, y, temperature=s, symmetric=True, plan=plan),
    "sigmoid_loss": lambda x, y, s, plan: f.sigmoid_loss(x, y, scale=1 / s, plan=plan),
    "pair_nll": lambda x, y, s, plan: f.pair_nll(x, y, None, scale=1 / s, reduction="none", plan=plan).sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("_triton_for_everything")
def test_losses_and_their_gradients_reach_the_kernels(name: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    plans = ["chunked"] if name in ("info_nce", "sigmoid_loss") else ["recompute"]
    if name == "info_nce symmetric" and dtype == torch.bfloat16:
        plans.append("stash")
    inputs = [rounded(unit_rows(rng, rows, 24), dtype)[0] for rows in (37, 45)]
    results = []
    for plan in ["dense", *plans]:
        x, y = (part.clone().requires_grad_() for part in inputs)
        temperature = torch.tensor(0.1, requires_grad=True)
        loss = LOSSES[name](x, y, temperature, plan)
        results.append((loss, *torch.autograd.grad(loss, (x, y, temperature))))
    for ours in results[1:]:
        for part, dense in zip(ours, results[0], strict=True):
            # A coefficient is rounded to the inputs' type once, and the gradient once more.
            size = float(dense.detach().abs().max()) * (2**-7 if dtype == torch.bfloat16 else 1e-5)
            torch.testing.assert_close(part, dense, rtol=0, atol=size)


@pytest.mark.usefixtures("_triton_for_everything")
@pytest.mark.parametrize("normalize", [True, False])
def test_prefixes_of_the_coordinates_and_their_gradients(normalize: bool, rng: np.random.Generator) -> None:
    """Own scores are added by torch: the launchers know log-sum-exps alone."""
    M, N, dims, scale = 37, 45, [5, 16, 24], torch.tensor(7.0)
    x, y = (torch.from_numpy(rng.standard_normal((rows, 30))).float() for rows in (M, N))
    pairs, exact = Pairs(diagonal="skip"), TorchEngine(M)
    how = (scale, pairs, dims, normalize)
    found = ENGINE.nested_lse(x, y, *how, True, True, True)
    truth = exact.nested_lse(x.double(), y.double(), scale.double(), *how[1:], True, True, True)
    for got, right in zip(found, truth, strict=True):
        torch.testing.assert_close(got.double(), right, rtol=2e-5, atol=2e-5)
    grads = tuple(torch.from_numpy(rng.standard_normal(part.shape)) for part in truth)
    want = Want(x=True, y=True, scale=True)
    got = ENGINE.nested_grad(x, y, *how, found[:2], tuple(part.float() for part in grads), want)
    right = exact.nested_grad(x.double(), y.double(), scale.double(), *how[1:], truth[:2], grads, want)
    for name in ("x", "y", "scale"):
        a, b = getattr(got, name).double(), getattr(right, name)
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * max(float(b.abs().max()), 1.0), msg=name)


@pytest.mark.parametrize("mode", ["exclude", "only"])
def test_a_matrix_against_itself(mode: str, rng: np.random.Generator) -> None:
    z, scale, grad = torch.from_numpy(unit_rows(rng, 45, 9)).float(), torch.tensor(7.0), torch.linspace(-1, 2, 45)
    ids = torch.arange(45) % 4
    pairs, exact, want = Pairs(ids, ids, mode, diagonal="skip"), TorchEngine(45), Want(x=True, scale=True)
    row = ENGINE.self_lse(z, scale, pairs)
    wide = (z.double(), z.double(), scale.double(), (None, None), pairs)
    truth = exact.lse(*wide, True, False, False, False)[0]
    torch.testing.assert_close(row.double(), truth, rtol=2e-6, atol=2e-6)
    found = ENGINE.self_grad(z, scale, pairs, row, grad, want)
    right = exact.grad(*wide, (truth, None), (grad.double(), None, None), None, Want(True, True, True))
    torch.testing.assert_close(found.x.double(), right.x + right.y, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.scale.double(), right.scale, rtol=0, atol=1e-4)


def test_statistics_of_a_bank(rng: np.random.Generator) -> None:
    bank, y = (torch.from_numpy(unit_rows(rng, rows, 9)).float() for rows in (70, 37))
    for got, right in zip(ENGINE.stats(bank, y, [5.0], 3), TorchEngine(9).stats(bank, y, [5.0], 3), strict=True):
        assert got.is_contiguous()
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)


def test_opcheck_of_the_operators_on_the_kernels() -> None:
    """What operators return has the strides, types and shapes that their fake twins promise, and aliases nothing."""
    x, y = (torch.randn(rows, 8).bfloat16().requires_grad_() for rows in (10, 7))
    scale, bias = torch.tensor(0.7, requires_grad=True), torch.randn(10, requires_grad=True)
    pairs = (torch.arange(10) % 3, torch.arange(7) % 3, *[None] * 5, "exclude", "skip")
    ops, want = torch.ops.simtile, (True, True, True, True, False)
    for plan in ("recompute", "stash"):
        opcheck(ops.pair_lse.default, (x, y, scale, bias, None, *pairs, True, True, True, plan))
    target = torch.zeros(10)
    opcheck(ops.pair_nll.default, (x, y, scale, bias, None, target, None, *pairs, "softplus", "chunked", *want))
    opcheck(ops.pair_softplus.default, (x, y, scale, bias, None, *pairs, 0.1, "chunked", *want))
    opcheck(ops.pair_softplus_rows.default, (x, y, scale, bias, None, *pairs, "chunked"))
    opcheck(ops.pair_topk.default, (x, y, None, None, None, None, 3))
