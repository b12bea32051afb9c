"""The search for launches, with a clock of the test's own: nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simtile import tune
from simtile.__main__ import main
from simtile.kernels import launch
from simtile.kernels.launch import Launch, entry, load_tuned, save_tuned

START = Launch(128, 128, 64, 8, 4)
BEST = Launch(64, 256, 32, 4, 3)


def distance(given: Launch) -> float:
    """Seconds: one plus the steps from BEST."""
    fields = ("block_m", "block_n", "block_k", "warps")
    steps = sum(abs(getattr(given, f).bit_length() - getattr(BEST, f).bit_length()) for f in fields)
    return 1.0 + steps + abs(given.stages - BEST.stages)


def test_neighbours_are_one_step_away_and_within_bounds() -> None:
    assert len(set(tune.neighbours(START))) == 10
    for given in (Launch(16, 32, 16, 2, 1), Launch(256, 256, 128, 16, 6)):
        assert len(tune.neighbours(given)) == 5
        for other in tune.neighbours(given):
            assert all(least <= getattr(other, field) <= most for field, (least, most) in tune.BOUNDS.items())


def test_the_fastest_launch_is_found_and_none_is_timed_twice() -> None:
    timed: list[Launch] = []

    def seconds(given: Launch) -> float:
        timed.append(given)
        return distance(given)

    assert tune.fastest(START, seconds) == (BEST, 6.0)
    assert len(timed) == len(set(timed)) < 60


def test_a_difference_within_noise_keeps_the_table() -> None:
    assert tune.fastest(START, lambda given: 1.0 if given == START else 0.995)[0] == START


def test_launches_that_do_not_run_lose_but_the_tables_own_must() -> None:
    def seconds(given: Launch) -> float:
        if given.block_n == 256:
            raise RuntimeError("out of shared memory")
        return distance(given)

    assert tune.fastest(START, seconds)[0] == Launch(64, 128, 32, 4, 3)
    with pytest.raises(RuntimeError, match="out of shared memory"):
        tune.fastest(BEST, seconds)


@pytest.mark.parametrize("operands", ["half", "masked", "ieee"])
def test_every_job_runs_with_any_launch(operands: launch.Operands) -> None:
    """In the interpreter, tiny; each operation of the table is among them."""
    calls: list[object] = []

    def timer(run: Callable[[], object]) -> float:
        if not calls:
            run()
        calls.append(run)
        return 1.0

    runs = tune.jobs(operands, torch.device("cpu"), 40, 350, 64)
    for op, run in runs.items():
        calls.clear()
        ((key, best, gain),) = tune.tune("sm_90", operands, {op: run}, timer)
        assert (key, best, gain) == (("sm_90", op, operands), entry("sm_90", op, operands), 1.0)
    if operands == "half":
        assert set(runs) == set(launch.get_args(launch.Op))


def test_what_is_found_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_tuned", {})
    seen: list[Launch] = []
    found = tune.tune("sm_80", "half", {"pair_rank": seen.append}, lambda run: (run(), distance(seen[-1]))[1])
    save_tuned(tmp_path / "launches.json", {key: best for key, best, _ in found})
    load_tuned(tmp_path / "launches.json")
    assert entry("sm_80", "pair_rank", "half") == BEST


def test_the_command_writes_the_file_that_the_first_job_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a pretended GPU: the race itself has the tests above."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a pretended card")
    monkeypatch.setattr(launch, "architecture_of", lambda _: "sm_90")
    monkeypatch.setattr(launch, "_tuned", {})
    seen: list[Launch] = []
    monkeypatch.setattr(tune, "jobs", lambda *_: {"pair_lse_fwd": seen.append})
    monkeypatch.setattr(tune, "gpu_seconds", lambda run: (run(), distance(seen[-1]))[1])
    out = tmp_path / "a folder that is not there yet" / "launches.json"
    assert main(["tune", "--out", str(out)]) == 0
    assert "a pretended card: sm_90" in capsys.readouterr().out
    load_tuned(out)
    for operands in ("half", "masked", "tf32", "ieee"):
        assert entry("sm_90", "pair_lse_fwd", operands) == BEST


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
def test_without_a_gpu_it_says_so_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--out", str(tmp_path / "none.json")]) == 2
    assert "raced on a CUDA or ROCm GPU, and torch sees none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
