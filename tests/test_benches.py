"""The bench harness refuses wrong contenders before it times them, and runs at tiny sizes. No timing is asserted."""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

BENCHES = Path(__file__).resolve().parents[1] / "benches"
sys.path.insert(0, str(BENCHES))

import bench_drop_ins  # noqa: E402
import bench_info_nce  # noqa: E402
import bench_matryoshka  # noqa: E402
import bench_pair_lse  # noqa: E402
import bench_pair_softplus  # noqa: E402
import bench_small_batches  # noqa: E402
import harness  # noqa: E402
import machine  # noqa: E402

BENCHES_OF_LOSSES = [bench_info_nce.BENCH, bench_pair_softplus.BENCH, bench_pair_lse.BENCH, bench_matryoshka.BENCH]
CASES = [
    pytest.param(bench, variant, dtype, id=f"{bench.stem}-{variant}-{dtype}")
    for bench in BENCHES_OF_LOSSES
    for variant in bench.variants
    for dtype in ("float32", "bfloat16")
]


@pytest.fixture(autouse=True)
def _own_threads():
    """Measuring sets torch's number of threads; put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch):
    """Counts readings of the clock: a contender that is not timed leaves it alone."""
    readings = []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: float(len(readings)) + (readings.append(1) or 0.0))
    return readings


@pytest.mark.parametrize(("bench", "variant", "dtype"), CASES)
def test_every_contender_agrees_with_float64(bench, variant, dtype):
    case = harness.Case(variant, dtype, batch=640, dim=48, threads=1)
    for name, run in bench.contenders.items():
        assert harness.fault(bench, run, case) is None, name


@pytest.mark.parametrize("name", bench_drop_ins.DROP_INS)
def test_every_drop_in_and_its_original_agree_with_float64(name):
    if not bench_drop_ins.DROP_INS[name].installed:
        pytest.skip("its library is not installed")
    case = harness.Case(name, "float32", batch=40, dim=24, threads=1)
    for contender, run in bench_drop_ins.BENCH.contenders.items():
        assert harness.fault(bench_drop_ins.BENCH, run, case) is None, contender


@pytest.mark.parametrize("bench", BENCHES_OF_LOSSES, ids=lambda bench: bench.stem)
def test_results_that_are_slightly_wrong_are_not_timed(bench, clock):
    def wrong(x, y, variant):
        return tuple(1.001 * r for r in bench.contenders["torch"](x, y, variant))

    spoiled = replace(bench, contenders={"wrong": wrong})
    record = harness.measure(spoiled, "wrong", harness.Case(next(iter(bench.variants)), batch=64, dim=16, threads=1), 2)
    assert record["status"] == "wrong" and "relative error" in record["why"]
    assert "ms" not in record and not clock


def test_a_right_loss_with_a_wrong_gradient_is_refused():
    bench = bench_info_nce.BENCH

    def half_a_gradient(x, y, variant):
        return bench.contenders["torch"](x, y.detach() / 2 + y / 2, variant)

    why = harness.fault(bench, half_a_gradient, harness.Case("one", batch=64, dim=16, threads=1))
    assert why is not None and why.startswith("gradient of y")


def test_results_that_are_not_numbers_are_refused():
    bench = bench_pair_lse.BENCH
    nan = lambda x, y, variant: (torch.full((len(x),), torch.nan),)  # noqa: E731
    assert harness.fault(bench, nan, harness.Case("row", batch=8, dim=4, threads=1)) is not None


def test_the_check_comes_before_the_clock(monkeypatch, clock):
    order = []
    check, bench = harness.fault, bench_pair_softplus.BENCH

    def recorded(*arguments):
        order.append(len(clock))
        return check(*arguments)

    monkeypatch.setattr(harness, "fault", recorded)
    record = harness.measure(bench, "simtile", harness.Case("sigmoid", batch=64, dim=16, threads=1), 3)
    assert record["status"] == "ok" and len(record["ms"]) == 3
    assert order == [0]


def test_one_measurement_in_its_own_process_prints_json():
    command = [sys.executable, str(BENCHES / "bench_info_nce.py"), "--one", "simtile", "--sides", "two"]
    options = ["--dtype", "bfloat16", "--batch", "700", "--dim", "32", "--threads", "1", "--repeats", "3"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["status"] == "ok" and record["dtype"] == "bfloat16" and record["variant"] == "two"
    assert len(record["ms"]) == 3 and record["extra_mb"] >= 0 and record["cpu_ms"] > 0


def test_a_race_takes_turns_and_leaves_out_who_was_wrong(monkeypatch):
    turns = []

    def measured(bench, contender, case, repeats):
        turns.append(contender)
        base = {"contender": contender, "status": "ok", "extra_mb": 1.0, "cpu_ms": 4.0, "steal": 0.0, "others": 0.25}
        if contender == "liar":
            return {**base, "status": "wrong", "why": "loss: relative error 1.0e+00"}
        return {**base, "ms": [2.0, 4.0, 3.0] if contender == "simtile" else [8.0, 6.0, 7.0]}

    monkeypatch.setattr(harness, "spawn", measured)
    plain = bench_info_nce.BENCH.contenders["torch"]
    bench = replace(bench_info_nce.BENCH, contenders={"simtile": plain, "liar": plain, "torch": plain})
    (entries,) = harness.race(bench, [harness.Case("one", batch=1000, dim=10, threads=2)], rounds=2, repeats=3)
    assert turns == ["simtile", "liar", "torch", "simtile", "torch"]

    limit = machine.Ceilings([{"isa": machine._core.isas()[0], "dtype": "float32", "threads": 2, "rate": 10.0}])
    ours, liar, rival = harness.rows_of_race(bench, entries, limit)
    # 3u of 2 * 1000² * 10 FLOP in 3 ms on two cores; 4 ms of CPU time.
    assert ours["rate"] == pytest.approx(10.0) and ours["share"] == pytest.approx(1.0)
    assert ours["cpu_rate"] == pytest.approx(15.0) and ours["disturbed"] == 0.25
    assert liar["wrong"] and "ms" not in liar
    assert rival["conservative"] == pytest.approx(2.0) and rival["ratio"] == pytest.approx(7 / 3)


def test_tables_say_who_was_wrong(capsys):
    case = {"variant": "one", "dtype": "float32", "dim": 8}
    harness.print_race("race", bench_info_nce.BENCH, [{**case, "contender": "liar", "wrong": "loss: off"}])
    assert "WRONG, not timed: loss: off" in capsys.readouterr().out


def test_peak_memory_counts_what_was_freed_again():
    size = 64 << 20
    with machine.PeakMemory() as memory:
        torch.ones(size // 4)
    assert memory.extra >= 0.9 * size
    with machine.PeakMemory() as memory:
        statistics.mean([1, 2])
    assert memory.extra < size // 2


def test_small_batches_take_turns_and_check_first(monkeypatch):
    monkeypatch.setattr(bench_small_batches, "MOST", 2)
    record = bench_small_batches.medians(harness.Case("two", "float32", 16, 24, 1), seconds=0.0)
    assert set(record["us"]) == {"simtile", "tiles", "torch"} and record["rounds"] >= bench_small_batches.LEAST

    wrong = {**bench_small_batches.CONTENDERS, "torch": lambda x, y, sides: (x.sum() + y.sum(),)}
    monkeypatch.setattr(bench_small_batches, "CONTENDERS", wrong)
    record = bench_small_batches.medians(harness.Case("two", "float32", 16, 24, 1), seconds=0.0)
    assert "us" not in record and list(record["wrong"]) == ["torch"]


def test_saved_results_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "OUT", tmp_path / "out")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "BENCHES", tmp_path / "benches")
    record = {"machine": machine.environment(1), "rows": []}
    harness.save("bench", record, keep=True)
    (kept,) = (tmp_path / "results").glob("*.json")
    assert json.loads(kept.read_text())["machine"]["commit"]
    assert json.loads((tmp_path / "out/bench.json").read_text())["rows"] == []


def test_a_run_of_some_suites_keeps_what_others_did_not_run(tmp_path, monkeypatch):
    for name in ("OUT", "RESULTS", "BENCHES"):
        monkeypatch.setattr(harness, name, tmp_path / name)
    for suite, peers in (("search", ["a", "b"]), ("losses", ["c"]), ("search", ["b"])):
        absent = [{"suite": suite, "what": peer, "why": "not installed"} for peer in peers]
        record = {"machine": machine.environment(1), "not_run": absent, "seconds": {suite: len(peers)}}
        harness.save("bench", record, keep=True)
    (kept,) = (tmp_path / "RESULTS").glob("*.json")
    whole = json.loads(kept.read_text())
    assert [entry["what"] for entry in whole["not_run"]] == ["c", "b"]
    assert whole["seconds"] == {"search": 1, "losses": 1}


def test_quick_means_fewer_rounds_unless_told():
    options = argparse.Namespace(quick=True, rounds=None, repeats=9)
    assert harness.rounds_of(options) == {"rounds": 1, "repeats": 9}
