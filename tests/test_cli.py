"""The command line, and whether the doctor notices a wrong engine."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import simtile
from simtile import _core, _plan, _selftest, doctor
from simtile.__main__ import main


@pytest.mark.parametrize("command", [["-m", "simtile"], ["-m", "simtile", "doctor"]])
def test_help_is_answered_by_the_command_that_was_asked(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: simtile" + (" doctor" if "doctor" in command else ""))


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["doctor", "--frobnicate"]])
def test_an_unknown_command_or_option_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: simtile" in capsys.readouterr().err


def test_a_command_whose_extra_is_missing_names_the_line_to_install_it() -> None:
    code = "import sys; sys.modules['torch'] = None; from simtile.__main__ import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "simtile[' in done.stderr


def test_the_doctor_passes_this_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for isa in _core.isas():
        assert f"  {isa:13s}ok" in report
    assert "FAILED" not in report


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_doctor_names_the_engine_and_plan_that_explain_gives(
    dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor"])
    report = capsys.readouterr().out.splitlines()
    for op in ("pair_lse", "info_nce", "sigmoid_loss"):
        plan = simtile.explain(op, *doctor.SHAPE, dtype=getattr(torch, dtype), device="cpu")
        (at,) = (i for i, line in enumerate(report) if line.startswith(f"  {dtype} cpu: ") and op in line)
        assert report[at + 1].startswith(f"    {plan.engine}, {plan.name} ")
        assert report[at + 1].endswith(plan.reason)


def test_the_doctor_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from simtile.__main__ import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch        not installed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="what the doctor says where there is no GPU")
def test_the_doctor_says_what_would_run_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(dtype: str) -> str:
        main(["doctor"])
        report = capsys.readouterr().out.splitlines()
        (at,) = (i for i, line in enumerate(report) if line.startswith(f"  {dtype} cuda (none here): pair_lse"))
        return report[at + 1].strip()

    assert lines("float32").startswith("Triton tiles, recompute  float32 on cuda, triton 3.")
    assert lines("float64").startswith("torch, recompute         float64 is computed by plain torch; ")
    monkeypatch.setattr(_plan, "_triton", lambda: ("", "triton is broken: no libcuda"))
    assert lines("float32").startswith("torch, dense             triton is broken: no libcuda; ")


@pytest.mark.parametrize(("op", "output"), [("pair_lse", 1), ("pair_nll", 0), ("pair_softplus", 0), ("pair_grad", 1)])
def test_the_doctor_fails_an_engine_with_one_wrong_value(
    op: str, output: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(_core, op)

    def wrong(*arguments: Any, isa: str, **options: Any) -> tuple[Any, ...]:
        results = list(right(*arguments, isa=isa, **options))
        if isa == "portable" and results[output] is not None:
            damaged = results[output].copy()
            # In bfloat16 the next but one exponent: sixteen times the value.
            damaged.flat[0] = damaged.flat[0] + 0x200 if damaged.dtype == np.uint16 else damaged.flat[0] * 1.001 + 0.001
            results[output] = damaged
        return tuple(results)

    monkeypatch.setattr(_core, op, wrong)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert "  portable     FAILED" in report
    assert f"wrong: {op} float32" in report
    assert "  FAILED in" in report


def test_a_nan_or_a_missing_result_is_wrong() -> None:
    exact = np.zeros(3)
    assert not _selftest.Check("pair_lse", "float32", (1, 1, 1), _selftest._error(exact * np.nan, exact), 1.0).passed
    assert _selftest._error(None, exact) == np.inf
    assert _selftest._error(np.full(3, -np.inf), np.full(3, -np.inf)) == 0.0
