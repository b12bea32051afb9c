"""W processes equal one: losses and all gradients, under the convention that DDP takes the mean over the ranks."""

from __future__ import annotations

import pytest
import torch

import distributed_cases as cases

TOLERANCE = {"float32": 1e-6, "float64": 1e-12, "bfloat16": 2.0**-6}
"""Of the largest entry. In 16 bits one process and many round at other places, each up to 2**-7."""


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    """W and what each of the W processes computed, all cases in one start."""
    W = request.param
    return W, cases.run(W, tmp_path_factory.mktemp(f"ranks{W}"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in cases.CASES
        for dtype in cases.DTYPES
        if dtype != "bfloat16" or name in cases.IN_BFLOAT16
    ],
)
def test_loss_and_gradients_of_uneven_ranks_equal_one_process(ranks, name, dtype):
    W, found = ranks
    case, values = cases.CASES[name], cases.everything(cases.DTYPES[dtype])
    single = cases.compute(case, cases.joined(case, values, W), None)
    for exchange in cases.EXCHANGES:
        mine = [part[name, exchange, dtype] for part in found]
        if case.options.get("reduction") == "none":
            # The rows' losses; a sum over them is each rank's own, and nothing is multiplied by W.
            assert_close(torch.cat([part["loss"] for part in mine]), single["loss"], dtype)
            factor = 1.0
        else:
            for part in mine:
                assert_close(part["loss"], single["loss"], dtype)
                assert torch.equal(part["loss"], mine[0]["loss"]), "the same bits on every rank"
            factor = 1.0 / W
        for argument in single.keys() - {"loss"}:
            if argument in case.shared:  # what DDP makes of them: the mean
                total = sum(part[argument] for part in mine) * factor
            else:
                total = dealt_back(case, argument, [part[argument] for part in mine], W) * factor
            assert_close(total, single[argument], dtype, argument)


def dealt_back(case, argument, parts, W):
    """Ranks' rows in the order of one process: paired keys first."""
    if argument != "key" or not case.extra:
        return torch.cat(parts)
    pairs = [part[:rows] for part, rows in zip(parts, cases.ROWS[W], strict=True)]
    return torch.cat(pairs + [part[rows:] for part, rows in zip(parts, cases.ROWS[W], strict=True)])


def assert_close(actual, expected, dtype, what="loss"):
    size = float(expected.abs().max())
    error = float((actual - expected).abs().max())
    assert error <= TOLERANCE[dtype] * size, f"{what}: off by {error / size:.1e} of {size:.1e}"
