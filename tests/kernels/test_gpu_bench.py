"""The bench of the first GPU machine runs end to end today, tiny and in the interpreter, so that it cannot rot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

import gpu
import gpu_proof


def test_it_proves_and_races_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {entry["race"] for entry in report["races"]} == {*gpu.RACES, "top-k"}
    for entry in report["races"]:
        assert entry["results"]["simtile"]["median_s"] > 0
        assert "failed" not in entry["results"]["torch"], entry
    assert "0 failed" in capsys.readouterr().out


def test_nothing_is_timed_after_a_failed_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "prove", lambda *_: [gpu_proof.Verdict("pair_lse", error=1.0, allowed=0.5)])
    monkeypatch.setattr(gpu, "race", lambda *_: pytest.fail("timed an unproved kernel"))
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "none.json")]) == 1
    assert "FAILED pair_lse" in capsys.readouterr().out
    assert not (tmp_path / "none.json").exists()


def test_a_rival_that_disagrees_is_not_timed() -> None:
    import torch

    def half(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss, dx, dy = gpu.simtile_sigmoid(x, y)
        return loss, dx / 2, dy

    device = torch.device("cpu")
    assert gpu.disagreement(gpu.simtile_sigmoid, gpu.simtile_sigmoid, device, 24) is None
    assert "dx is off" in str(gpu.disagreement(half, gpu.simtile_sigmoid, device, 24))
