"""The launch table, and the gates that ahead-of-time compilation puts it through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from simtile.kernels import aot, aot_table, launch
from simtile.kernels.aot import Figures, faults
from simtile.kernels.launch import Architecture, Launch, Op, Operands, entry, load_tuned, pick, save_tuned
from simtile.kernels.pair_topk import GROUPED
from simtile.kernels.pairs import Pairs


def powers_of_two(*sizes: int) -> bool:
    return all(size & (size - 1) == 0 for size in sizes)


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("op", get_args(Op))
def test_every_key_has_an_entry_that_its_kernel_takes(architecture: Architecture, op: Op) -> None:
    for operands in get_args(Operands):
        found = entry(architecture, op, operands)
        assert powers_of_two(found.block_m, found.block_n, found.block_k, found.warps), (operands, found)
        assert min(found.block_m, found.block_n, found.block_k) >= 16, (operands, found)
        assert found.block_n % GROUPED == 0, (operands, found)


def test_the_stages_of_every_entry_fit_into_shared_memory() -> None:
    for architecture in get_args(Architecture):
        limit = aot.TARGETS[architecture].shared_limit
        for op in get_args(Op):
            for operands in get_args(Operands):
                found = entry(architecture, op, operands)
                size = 4 if operands in ("tf32", "ieee") else 2
                held = (found.block_m + found.block_n) * found.block_k * size * max(found.stages - 1, 1)
                assert held <= limit, (architecture, op, operands, found)


def test_cpu_tensors_get_the_interpreters_tile() -> None:
    assert pick("pair_lse_fwd", Pairs.of(torch.ones(2, 3), torch.ones(4, 3))) == launch.INTERPRETER


def test_tuned_entries_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_tuned", {})
    path = tmp_path / "tuned.json"
    tuned = Launch(64, 128, 32, 4, 2)
    save_tuned(path, {("sm_90", "pair_lse_fwd", "half"): tuned})
    load_tuned(path)
    assert entry("sm_90", "pair_lse_fwd", "half") == tuned
    assert entry("sm_80", "pair_lse_fwd", "half") != tuned


def test_a_tuned_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({"sm_90 pair_lse_forward half": {}}))
    with pytest.raises(ValueError, match="pair_lse_forward"):
        load_tuned(path)


GOOD = Figures(registers=128, spills=0, shared=1 << 16, tensor_core=4, exponentials=1.0)


def case(**changes: object) -> aot_table.Case:
    values = {"name": "a case", "kernel": None, "architecture": "sm_90", "launch": Launch(64, 64, 32, 4, 2)}
    return aot_table.Case(**{**values, "arguments": {}, "exponentials": 1.0, **changes})


@pytest.mark.parametrize(
    ("figures", "recorded", "word"),
    [
        (Figures(128, 2, 1 << 16, 4, 1.0), 128, "2 spills"),
        (Figures(128, 0, 1 << 18, 4, 1.0), 128, "shared memory"),
        (Figures(128, 0, 1 << 16, 0, 1.0), 128, "wgmma"),
        (Figures(128, 0, 1 << 16, 4, 2.0), 128, "exponentials"),
        (GOOD, 120, "registers"),
        (GOOD, None, "--update"),
    ],
)
def test_each_gate_closes(figures: Figures, recorded: int | None, word: str) -> None:
    found = faults(case(), figures, None if recorded is None else {"registers": recorded})
    assert len(found) == 1
    assert word in found[0]


def test_a_good_case_passes_all_gates() -> None:
    assert faults(case(), GOOD, {"registers": 128}) == []
    assert faults(case(tensor_core=False), Figures(128, 0, 0, 0, 1.0), {"registers": 200}) == []


def test_the_largest_tiles_of_sm_90_fit_as_promised() -> None:
    """A forward tile of 128 x 256 pairs with one exponential a pair; a backward tile in 192 KB."""
    recorded = json.loads(aot.FIGURES.read_text())["figures"]
    tile, forward = entry("sm_90", "pair_lse_fwd", "half"), recorded["sm_90 pair_lse_fwd half both"]
    assert tile.block_m * tile.block_n == 128 * 256
    assert forward["spills"] == 0 and forward["exponentials"] <= 1.01
    backward = recorded["sm_90 pair_lse_bwd half both"]
    assert backward["spills"] == 0 and backward["shared"] <= 192 << 10


def test_every_entry_that_can_be_picked_is_compiled() -> None:
    """By its own kernel, under each class of operands that a job of that operation may have."""
    compiled = {tuple(case.name.split()[:3]) for case in aot_table.cases()}
    guided = {"pair_lse_fwd", "pair_lse_bwd", "pair_softplus"}
    plain = {"pair_stats"}  # takes no rules
    for architecture in get_args(Architecture):
        for op in get_args(Op):
            classes = {"half", "masked", "guided", "tf32", "ieee"}
            classes -= set() if op in guided else {"guided"}
            classes -= {"masked"} if op in plain else set()
            classes -= {"tf32", "ieee"} if op.startswith("row_grad") else set()  # bfloat16 alone
            for operands in classes:
                assert (architecture, op, operands) in compiled


def test_another_triton_is_told_that_registers_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(aot.triton, "__version__", "3.99.0")
    assert aot.main(["--only", "nothing is called this"]) == 0
    assert "triton 3.99.0: registers are not compared" in capsys.readouterr().out


def test_figures_are_recorded_for_every_case_without_spills() -> None:
    recorded = json.loads(aot.FIGURES.read_text())["figures"]
    names = [one.name for one in aot_table.cases()]
    assert len(names) == len(set(names))
    assert set(names) <= set(recorded)
    assert all(recorded[name]["spills"] == 0 for name in names)
