"""Row and column log-sum-exp, and the gradient of both, in Triton's interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from jobs import DTYPES, RULES, SCALES, SHAPES, Dense, Job, dense_gradients, job, sum_floor

from accuracy import assert_as_accurate, opposed_row, rounded, with_duplicates, with_zero_rows
from simtile.kernels.accumulate import Wanted
from simtile.kernels.launch import Launch
from simtile.kernels.pair_grad import pair_lse_bwd
from simtile.kernels.pair_lse import pair_lse_fwd

EVERYTHING = Wanted(True, True, True, True, True)


def check_forward(given: Job, **execution: object) -> None:
    row, column = pair_lse_fwd(given.x, given.y, direction="both", **given.options, **execution)
    exact = Dense(given, torch.float64)
    # Statistics are float32 whatever the inputs are, so the bar is plain torch in float32.
    plain = Dense(Job(given.x.float(), given.y.float(), given.options))
    for actual, dim in ((row, 1), (column, 0)):
        truth = exact.lse(dim).detach().numpy()
        assert_as_accurate(actual, plain.lse(dim), truth, magnitude=max(given.scale, 1.0))


def check_backward(given: Job, directions: str = "both", **execution: object) -> None:
    M, N = len(given.x), len(given.y)
    weights = torch.linspace(0.5, 1.5, M) / M, torch.linspace(1.5, 0.5, N) / N

    def total(dense: Dense) -> torch.Tensor:
        parts = []
        for dim, weight, name in ((1, weights[0], "row"), (0, weights[1], "column")):
            if directions in (name, "both"):
                lse = dense.lse(dim)
                parts.append((lse.masked_fill(torch.isneginf(lse), 0.0) * weight).sum())
        return sum(parts)

    row, column = pair_lse_fwd(given.x, given.y, direction="both", **given.options)
    use_row, use_column = directions != "column", directions != "row"
    grads = pair_lse_bwd(
        given.x, given.y, row=row, column=column, wanted=EVERYTHING,
        grad_row=weights[0] if use_row else None, grad_column=weights[1] if use_column else None,
        **given.options, **execution,
    )  # fmt: skip
    truth, plain = dense_gradients(given, total)
    for name, actual, naive, exact in zip(grads._fields, grads, plain, truth, strict=True):
        if actual is None:  # of a plan without gradients of biases
            continue
        magnitude = None
        if name == "scale":  # a sum of M * N products: what cancels in it cannot be better than its terms
            magnitude = float(np.abs(truth[0] * given.x.double().numpy()).sum()) / max(given.scale, 1e-30)
            actual = actual.to(given.x.dtype)
        elif given.x.dtype != torch.float32:  # biases: sums of coefficients that are stored in 16 bits
            actual = actual.to(given.x.dtype)
        assert_as_accurate(actual, naive, exact, magnitude=magnitude, floor=sum_floor(M, N))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_forward_on_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    check_forward(job(rng, M, N, D, dtype=dtype, scale=14.0))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rule", RULES)
def test_forward_under_every_rule(rule: str, scale: float, rng: np.random.Generator) -> None:
    check_forward(job(rng, 37, 70, 20, scale=scale, rules=(rule,)))


def test_rules_combine(rng: np.random.Generator) -> None:
    for rules in itertools.combinations(("exclude", "lists", "diagonal", "bias", "threshold"), 3):
        given = job(rng, 37, 40, 9, scale=14.0, rules=rules)
        check_forward(given)
        check_backward(given)


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_opposed_to_everything_does_not_underflow(scale: float, rng: np.random.Generator) -> None:
    """Cosine -1 against tiles of cosine 1: the tile's maximum is 2 * scale above everything in that row."""
    x, y = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 40, 37, 24))
    for given in (Job(x, y, {"scale": torch.tensor(scale)}), Job(y, x, {"scale": torch.tensor(scale)})):
        check_forward(given)
        check_backward(given)


def test_bits_do_not_depend_on_the_launch_of_other_directions(rng: np.random.Generator) -> None:
    given = job(rng, 70, 45, 16, scale=100.0)
    row, column = pair_lse_fwd(given.x, given.y, direction="both", **given.options)
    assert torch.equal(row, pair_lse_fwd(given.x, given.y, direction="row", **given.options)[0])
    assert torch.equal(column, pair_lse_fwd(given.x, given.y, direction="column", **given.options)[1])


def test_blocks_of_partial_sums_merge(rng: np.random.Generator) -> None:
    """A budget of a few tiles: blocks of rows and, with the smallest one, of columns."""
    for budget in (1, 3000, 8000):
        check_forward(job(rng, 100, 130, 12, scale=100.0, rules=("lists", "diagonal")), partials_bytes=budget)


@pytest.mark.parametrize("launch", [Launch(16, 64, 16, 4, 1), Launch(64, 16, 32, 4, 1, group=2)])
def test_any_tile_gives_the_same_result(launch: Launch, rng: np.random.Generator) -> None:
    given = job(rng, 70, 90, 40, scale=14.0, rules=("exclude", "lists", "diagonal"))
    check_forward(given, launch=launch)
    check_backward(given, launch=launch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_rows_and_duplicates(dtype: torch.dtype, rng: np.random.Generator) -> None:
    x, _ = rounded(with_zero_rows(rng, 40, 12), dtype)
    y, _ = rounded(with_duplicates(rng, 50, 12), dtype)
    check_forward(Job(x, y, {"scale": torch.tensor(100.0)}))
    check_backward(Job(x, y, {"scale": torch.tensor(100.0)}))


def test_negative_zero_and_huge_scales(rng: np.random.Generator) -> None:
    """The tile's maximum is taken after scaling, so the sign of the scale does not matter."""
    for scale in (-20.0, 0.0, 1e4):
        check_forward(job(rng, 37, 40, 16, scale=scale))
    check_backward(job(rng, 37, 40, 16, scale=-20.0))


def test_strided_inputs_are_read_in_place(rng: np.random.Generator) -> None:
    given = job(rng, 37, 40, 30, scale=14.0)
    wide = torch.full((37, 50), float("nan"))
    wide[:, 5:35] = given.x
    columns = given.y.T.contiguous().T  # coordinates are not contiguous: copied
    check_forward(Job(wide[:, 5:35], columns, given.options))
    check_backward(Job(wide[:, 5:35], columns, given.options))


def test_what_lies_past_the_rows_is_not_read(rng: np.random.Generator) -> None:
    """NaN behind the last row and the last coordinate."""
    buffer = torch.full((37 * 20 + 500,), float("nan"))
    x = buffer[: 37 * 20].view(37, 20)
    x.copy_(job(rng, 37, 1, 20).x)
    check_forward(Job(x, job(rng, 1, 45, 20).y, {"scale": torch.tensor(14.0)}))


def test_empty_inputs_give_empty_rows() -> None:
    row, column = pair_lse_fwd(torch.ones(3, 4), torch.ones(0, 4), direction="both")
    assert torch.equal(row, torch.full((3,), -torch.inf))
    assert column.shape == (0,)
    grads = pair_lse_bwd(torch.ones(3, 4), torch.ones(0, 4), row=row, grad_row=torch.ones(3), wanted=EVERYTHING)
    assert torch.equal(grads.x, torch.zeros(3, 4))


def test_own_scores_come_along(rng: np.random.Generator) -> None:
    given = job(rng, 37, 40, 20, scale=14.0, rules=("diagonal", "bias"))
    own = torch.empty(37)
    pair_lse_fwd(given.x, given.y, own=own, partials_bytes=3000, **given.options)
    exact, plain = Dense(given, torch.float64), Dense(given)
    assert_as_accurate(own, plain.all_scores.diagonal(), exact.all_scores.diagonal().detach().numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "N", "D"), SHAPES)
def test_gradient_on_every_shape(M: int, N: int, D: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    check_backward(job(rng, M, N, D, dtype=dtype, scale=14.0))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rule", RULES)
def test_gradient_under_every_rule(rule: str, scale: float, rng: np.random.Generator) -> None:
    check_backward(job(rng, 37, 70, 20, scale=scale, rules=(rule,)))


@pytest.mark.parametrize("directions", ["row", "column"])
def test_gradient_of_one_direction(directions: str, rng: np.random.Generator) -> None:
    check_backward(job(rng, 40, 37, 20, scale=100.0, rules=("bias",)), directions)


def test_blocks_of_coefficients_add_up(rng: np.random.Generator) -> None:
    for budget in (400, 5000):
        check_backward(job(rng, 50, 70, 12, scale=14.0, rules=("lists", "diagonal")), workspace_bytes=budget)


def test_a_stash_replaces_the_second_pass(rng: np.random.Generator) -> None:
    """float32 dot products: the same bits as recomputing them."""
    given = job(rng, 37, 70, 20, scale=100.0, rules=("exclude", "bias"))
    stash = torch.full((37, 70), float("nan"))
    row, column = pair_lse_fwd(given.x, given.y, direction="both", stash=stash, **given.options)
    lse = {"row": row, "column": column, "grad_row": torch.ones(37), "grad_column": torch.ones(70)}
    again = pair_lse_bwd(given.x, given.y, wanted=EVERYTHING, **lse, **given.options)
    stashed = pair_lse_bwd(given.x, given.y, wanted=EVERYTHING, stash=stash, **lse, **given.options)
    for name, one, other in zip(again._fields, again, stashed, strict=True):
        assert torch.equal(one, other), name


def test_a_half_precision_stash_serves_moderate_scales(rng: np.random.Generator) -> None:
    """float16 cosines of bfloat16 inputs at scale 14 are as accurate as plain torch's bfloat16 scores."""
    given = job(rng, 64, 70, 40, dtype=torch.bfloat16, scale=14.0)
    stash = torch.empty(64, 70, dtype=torch.float16)
    pair_lse_fwd(given.x, given.y, stash=stash, **given.options)
    check_backward(given, stash=stash)


def test_only_wanted_gradients_are_made(rng: np.random.Generator) -> None:
    given = job(rng, 10, 12, 8)
    row, _ = pair_lse_fwd(given.x, given.y)
    for wanted in (Wanted(True, False), Wanted(False, True), Wanted(False, False, True)):
        grads = pair_lse_bwd(given.x, given.y, row=row, grad_row=torch.ones(10), wanted=wanted)
        assert [part is not None for part in grads[:3]] == [wanted.x, wanted.y, wanted.scale]


def test_the_own_pair_keeps_its_accuracy_near_saturation(rng: np.random.Generator) -> None:
    """A coefficient of 1e-6 at (i, i), for which ``p - 1`` would leave one digit."""
    given = job(rng, 40, 40, 16, scale=14.0, rules=("diagonal",))
    own_grad = torch.full((40,), -1e-6)
    row, _ = pair_lse_fwd(given.x, given.y, **given.options)
    grads = pair_lse_bwd(
        given.x, given.y, row=row, grad_row=torch.zeros(40), diagonal=own_grad, workspace_bytes=2000, **given.options
    )
    exact = -1e-6 * 14.0 * given.y.double().numpy()
    assert_as_accurate(grads.x, (own_grad * 14.0)[:, None] * given.y, exact)
