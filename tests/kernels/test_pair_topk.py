"""Fused top-k, in Triton's interpreter, against the float64 specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accuracy import assert_as_accurate, opposed_row, rounded, unit_rows, with_duplicates
from simtile.kernels import pair_topk, reference
from simtile.kernels.pair_topk import best_of, pair_topk_fwd


def check(x: torch.Tensor, y: torch.Tensor, k: int, *, scores_again: bool = False, **given: object) -> None:
    """Exact ids where no two different scores are within rounding of each other, which these inputs see to."""
    options = {name: value for name, value in given.items() if name in ("y_scale", "y_bias", "exclude")}
    result = pair_topk_fwd(x, y, k, **given)
    exact = reference.pair_topk(x.double().numpy(), y.double().numpy(), k, **options)
    finite = np.isfinite(exact.scores)
    np.testing.assert_array_equal(np.isfinite(result.scores.numpy()), finite)
    gap = np.diff(np.where(finite, exact.scores, -1e3 * np.arange(k)), axis=1)
    if not ((gap < 0) & (gap > -1e-5)).any():
        np.testing.assert_array_equal(result.ids.numpy(), exact.ids)
    s = x.float() @ y.float().T
    if "y_scale" in options:
        s = s * options["y_scale"]
    if "y_bias" in options:
        s = s + options["y_bias"]
    plain = s.gather(1, torch.from_numpy(exact.ids).clamp(min=0))
    plain = plain.masked_fill(~torch.from_numpy(finite), -torch.inf)
    assert_as_accurate(result.scores, plain, exact.scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("M", "N", "D", "k"),
    [
        pytest.param(1, 1, 1, 1, id="one-pair"),
        pytest.param(3, 5, 4, 9, id="more-asked-for-than-there-is"),
        pytest.param(5, 64, 8, 3, id="two-exact-groups"),
        pytest.param(20, 300, 24, 4, id="ragged-in-every-dimension"),
        pytest.param(2, 1100, 8, 20, id="many-groups"),
    ],
)
def test_every_shape(M: int, N: int, D: int, k: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    check(rounded(unit_rows(rng, M, D), dtype)[0], rounded(unit_rows(rng, N, D), dtype)[0], k)


def test_ties_go_to_the_smaller_column(rng: np.random.Generator) -> None:
    """A third of the columns distinct: every cut runs through equal scores."""
    y = rounded(with_duplicates(rng, 400, 6), torch.float32)[0]
    check(rounded(unit_rows(rng, 4, 6), torch.float32)[0], y, 10)


def test_a_row_opposed_to_everything(rng: np.random.Generator) -> None:
    """Equal columns: of -1 to the first row, about 1 to the others."""
    x, y = (rounded(part, torch.float32)[0] for part in opposed_row(rng, 5, 300, 24))
    check(x, y, 4)


def test_a_large_bucket_of_equal_scores() -> None:
    """5,000 equal best scores, of which the first k columns are the answer."""
    y = torch.zeros(6000, 4)
    y[1000:, 0] = 1.0
    result = pair_topk_fwd(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]), y, 7, slice_columns=4096)
    assert result.ids.tolist() == [list(range(1000, 1007)), list(range(7))]


def test_signed_zeros_are_equal() -> None:
    result = best_of(torch.tensor([[-0.0, 0.0, -1.0]]), torch.arange(3)[None], 2)
    assert result.ids.tolist() == [[0, 1]]


def test_scale_bias_and_exclusion_lists(rng: np.random.Generator) -> None:
    x, y = (rounded(unit_rows(rng, rows, 12), torch.float32)[0] for rows in (20, 300))
    counts = rng.integers(0, 40, 20)
    indptr = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
    exclude = (indptr, torch.from_numpy(rng.integers(0, 300, int(counts.sum()))))
    y_scale, y_bias = (torch.from_numpy(rng.standard_normal(300)).float() for _ in range(2))
    for slices in (64, 1 << 22):
        check(x, y, 8, y_scale=y_scale, y_bias=y_bias, exclude=exclude, slice_columns=slices)


def test_a_row_with_everything_excluded_is_padding(rng: np.random.Generator) -> None:
    x, y = (rounded(unit_rows(rng, rows, 8), torch.float32)[0] for rows in (2, 70))
    result = pair_topk_fwd(x, y, 3, exclude=(torch.tensor([0, 70, 138]), torch.arange(138) % 70))
    assert result.ids[0].tolist() == [-1, -1, -1] and torch.isneginf(result.scores[0]).all()
    assert sorted(result.ids[1].tolist()) == [-1, 68, 69]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int8_columns_with_scales(dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Every int8 value is a bfloat16 value: only the query is rounded."""
    y = torch.from_numpy(rng.integers(-127, 128, (300, 24), dtype=np.int8))
    scale = torch.from_numpy(rng.uniform(0.5, 1.5, 300) / 127).float()
    check(rounded(unit_rows(rng, 5, 24), dtype)[0], y, 6, y_scale=scale)


def test_blocks_of_rows_and_slices_of_columns_merge(rng: np.random.Generator) -> None:
    x, y = rounded(unit_rows(rng, 9, 6), torch.float32)[0], rounded(with_duplicates(rng, 500, 6), torch.float32)[0]
    whole = pair_topk_fwd(x, y, 11)
    parts = pair_topk_fwd(x, y, 11, slice_columns=96, workspace_bytes=12 * (3 + 2 * 11 * 32) * 4)
    assert torch.equal(whole.ids, parts.ids)
    assert torch.equal(whole.scores, parts.scores)


def test_no_kernel_is_specialised_to_the_number_of_columns() -> None:
    """N divisible by 16, or 1, would be other kernels: an index that grows would compile again and again."""
    for kernel, names in ((pair_topk._group_max_kernel, {"M", "N", "groups"}), (pair_topk._rescore_kernel, {"N"})):
        assert names <= set(kernel.kwargs["do_not_specialize"]), kernel
