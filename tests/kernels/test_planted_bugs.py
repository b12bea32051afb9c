"""The checks of this folder see a bug when there is one: each is planted into a copy of the kernels."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from jobs import Job, job

import simtile.kernels
import test_nested_lse
import test_pair_lse
import test_pair_softplus
import test_pair_topk
from accuracy import opposed_row, rounded, unit_rows

KERNELS = Path(simtile.kernels.__file__).parent
CHAIN = ("tile", "partial_sums", "pair_lse", "pair_grad", "pair_softplus", "pair_topk", "nested_lse", "nested_grad")
"""The files that hold kernels, each after those it imports from."""


def planted(folder: Path, file: str, right: str, wrong: str) -> dict[str, ModuleType]:
    """The kernels with one text replaced: copies that import one another instead of the originals."""
    copies = {}
    for name in CHAIN:
        text = (KERNELS / f"{name}.py").read_text()
        if name == file:
            assert text.count(right) >= 1, f"{file}.py no longer has {right!r}: plant the bug anew"
            text = text.replace(right, wrong)
        for other in CHAIN:
            text = text.replace(f"from simtile.kernels.{other} import", f"from planted_{other} import")
        path = folder / f"planted_{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"planted_{name}", path)
        assert spec is not None and spec.loader is not None
        copies[name] = importlib.util.module_from_spec(spec)
        sys.modules[f"planted_{name}"] = copies[name]
        spec.loader.exec_module(copies[name])
    return copies


def everything(copies: dict[str, ModuleType], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ragged job of each reduction, through the checks of the other files."""
    for tests, module, launcher in (
        (test_pair_lse, "pair_lse", "pair_lse_fwd"),
        (test_pair_lse, "pair_grad", "pair_lse_bwd"),
        (test_pair_softplus, "pair_softplus", "pair_softplus_fwd"),
        (test_pair_topk, "pair_topk", "pair_topk_fwd"),
        (test_nested_lse, "nested_lse", "nested_lse_fwd"),
        (test_nested_lse, "nested_grad", "nested_lse_bwd"),
    ):
        monkeypatch.setattr(tests, launcher, getattr(copies[module], launcher))
    given = job(rng, 37, 70, 20, scale=14.0, rules=("diagonal",))
    # Blocks that merge, at a scale where a later block often holds the maximum.
    test_pair_lse.check_forward(job(rng, 37, 130, 20, scale=100.0), partials_bytes=1)
    test_pair_lse.check_forward(given)
    test_pair_lse.check_forward(Job(*(rounded(part, torch.float32)[0] for part in opposed_row(rng, 40, 37, 24)),
                                    {"scale": torch.tensor(100.0)}))  # fmt: skip
    test_pair_lse.check_backward(given)
    test_pair_softplus.check(given)
    x, y = (rounded(unit_rows(rng, rows, 20), torch.float32)[0] for rows in (20, 300))
    test_pair_topk.check(x, y, 5, y_bias=torch.linspace(-1.0, -0.5, 300))
    test_nested_lse.check(given.x, given.y, (8, 20), 14.0)


def test_a_faithful_copy_passes(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(planted(tmp_path, "tile", "", ""), rng, monkeypatch)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("tile", "if (first_m + BLOCK_M > M) | (first_n + BLOCK_N > N):", "if M < 0:", id="padding"),
        pytest.param("tile", "inside = rk < end - k", "inside = rk < end - k - 1", id="last-coordinate"),
        pytest.param("tile", "(rm + terms.skip)[:, None]", "(rm + terms.skip + 1)[:, None]", id="wrong-diagonal"),
        pytest.param("partial_sums", "total = total * tl.exp(top - shift) +", "total = total +", id="no-rescale"),
        pytest.param("partial_sums", "lowest < SUM_FLOOR, FLAGGED, top", "lowest < 0.0, FLAGGED, top", id="underflow"),
        pytest.param("partial_sums", "rm, sums, mask=rm < M)", "rm, sums, mask=rm < M - 1)", id="unwritten-tail"),
        pytest.param("partial_sums", "sums = tl.sum(e, 1)", "sums = tl.sum(e, 1) * 1.0005", id="row-sum-0.05-percent"),
        pytest.param("partial_sums", "sums_n = tl.sum(e, 0)", "sums_n = tl.sum(e, 0) * 1.0005", id="column-sum"),
        pytest.param("pair_grad", "tl.expand_dims(weight, AXIS) *", "1.0005 * tl.expand_dims(weight, AXIS) *",
                     id="coefficient-0.05-percent"),
        pytest.param("pair_grad", "p.to(out.dtype.element_ty), mask=inside", "p.to(out.dtype.element_ty), mask=inside"
                     " & (rn < 9)[None, :]", id="unwritten-coefficients"),
        pytest.param("pair_softplus", "+ log1p_unit(u), 1)", "+ log1p_unit(u) * 1.0005, 1)", id="softplus-sum"),
        pytest.param("pair_softplus", "tl.where(s > 0, 1.0, u)", "tl.where(s > 0, 1.0005, u)", id="sigmoid"),
        pytest.param("pair_topk", "s = tl.where((rn < N)[None, :], s", "s = tl.where((rn <= N)[None, :], s",
                     id="padding-in-top-k"),
        pytest.param("pair_topk", "chosen = torch.topk(_keys(maxima, numbers), k,", "chosen = torch.topk("
                     "_keys(maxima, numbers), k - 2,", id="too-few-groups"),
        pytest.param("nested_lse", "* by_row[:, None]", "* by_row[:, None] * 1.0005", id="norm"),
        pytest.param("nested_grad", "total += tl.load(at", "total = tl.load(at", id="no-suffix-sum"),
        pytest.param("nested_grad", "total[:, part] -= weight[:, None]", "total[:, part] -= 0 * weight[:, None]",
                     id="no-projection"),
    ],
)  # fmt: skip
def test_a_planted_bug_fails(
    file: str, right: str, wrong: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = planted(tmp_path, file, right, wrong)
    with pytest.raises(AssertionError, match=r"error|not equal|Mismatch|Arrays"):
        everything(copies, rng, monkeypatch)
