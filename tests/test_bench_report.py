"""`simtile bench`: which suites run, what is said of absent rivals, the page of a run. No timing is asserted."""

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

BENCHES = Path(__file__).resolve().parents[1] / "benches"
sys.path.insert(0, str(BENCHES))

import bench_info_nce  # noqa: E402
import engine  # noqa: E402
import harness  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import suites  # noqa: E402

KEPT = sorted((BENCHES / "results").glob("*-cores.json"))


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": True, "peers": True, "rounds": None, "repeats": None, "threads": 1, **given})


def test_no_suite_and_all_mean_every_suite_in_order():
    assert run.chosen([]) == run.chosen(["all"]) == run.chosen(["cur", "all"]) == list(suites.SUITES)
    assert run.chosen(["cur", "losses"]) == ["losses", "cur"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["lossses"], "suite: one of engine, losses, search, hubness, cur and all, got lossses"),
        (["--quick", "--record"], "--record: keeps full runs only, got --quick"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, why, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert why in capsys.readouterr().err


def test_absent_rivals_are_listed_and_not_guessed():
    modules = {"simtile": None, "faiss": "json", "left": "left_pad"}
    results: dict = {"not_run": []}
    assert suites.present(results, "search", modules, options()) == ["simtile", "faiss"]
    assert results["not_run"] == [{"suite": "search", "what": "left", "why": "left_pad is not installed"}]
    results["not_run"].clear()
    assert suites.present(results, "search", modules, options(peers=False)) == ["simtile"]
    assert {entry["why"] for entry in results["not_run"]} == {"without --peers"}


def test_without_cargo_there_are_no_ceilings_and_no_shares(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    results: dict = {"not_run": []}
    suites.run_engine(options(), results)
    assert results["ceilings"] == [] and "tiles" not in results
    assert [entry["what"] for entry in results["not_run"]] == ["ceilings of a core", "tiles and crates"]
    assert machine.Ceilings([]).share(100.0, "float32") is None


def test_scores_that_would_not_fit_are_not_run(monkeypatch, capsys):
    def measured(bench, contender, case, repeats):
        base = {"contender": contender, "status": "ok", "extra_mb": 1.0, "cpu_ms": 4.0, "steal": 0.0, "others": 0.0}
        return {**base, "ms": [3.0]}

    monkeypatch.setattr(harness, "spawn", measured)
    monkeypatch.setattr(bench_info_nce, "available_memory", lambda: 2.5 * bench_info_nce.dense_bytes(1024))
    monkeypatch.setattr(bench_info_nce, "QUICK_SIZES", (1024, 2048))
    rows = bench_info_nce.sizes(options(), machine.Ceilings([]))
    run = [(r["contender"], r["batch"]) for r in rows if "not_run" not in r]
    assert run == [("simtile", 1024), ("torch", 1024), ("simtile", 2048)]
    (absent,) = [r for r in rows if "not_run" in r]
    assert absent["batch"] == 2048 and "GB" in absent["not_run"]
    bench_info_nce.print_sizes(rows)
    assert "not run: its scores" in capsys.readouterr().out
    assert {"loss_time", "loss_memory"} <= set(report.figures({"info_nce": {"rows": [], "sizes": rows}}))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_page_of_kept_results_shows_every_race_and_needs_no_other_file(path, tmp_path):
    results = json.loads(path.read_text())
    page = report.write_report(results, tmp_path).read_text()
    for title, _, rows in report.tables(results):
        assert title in page and rows
    assert "ceiling" in report.figures(results)
    assert results["machine"]["commit"] in page and results["machine"]["cpu"] in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_the_page_says_what_was_not_run_and_what_was_wrong(tmp_path):
    row = {"variant": "two", "dtype": "float32", "batch": 64, "dim": 8, "contender": "liar", "wrong": "loss: off <1>"}
    results = {
        "machine": machine.environment(1),
        "info_nce": {"rows": [row]},
        "not_run": [{"suite": "search", "what": "hnswlib", "why": "hnswlib is not installed"}],
        "hubness": {"processes": [{"name": "nnn-retrieval", "missing": "No module named 'nnn'"}]},
    }
    page = report.write_report(results, tmp_path).read_text()
    assert "search: hnswlib: hnswlib is not installed" in page
    assert "wrong, not timed: loss: off &lt;1&gt;" in page
    assert "not run: No module named" in page


def test_curves_are_drawn_of_search_and_of_scorer_calls():
    curve = [{"effort": e, "recall": r, "cpu_qps": [q]} for e, r, q in ((10, 0.9, 9e3), (80, 0.99, 4e3))]
    found = {
        "search": {"processes": [{"name": "simtile", "curve": curve}]},
        "hubness_table": {"rows": [{"method": "raw cosine", "skewness": 4.0, "recall_at_10": 0.2}]},
        "cur_recall": {
            "cross-encoder-dense": json.loads((BENCHES / "results/cur-cross-encoder-dense.json").read_text())
        },
    }
    drawn = report.figures(found)
    assert set(drawn) == {"pareto", "hubness", "cur-cross-encoder-dense-10", "cur-cross-encoder-dense-100"}
    assert all(svg.startswith("<?xml") for _, svg in drawn.values())


def test_what_a_run_was_measured_on_is_recorded():
    found = machine.environment(1)
    assert {"cpu", "card", "threads", "blas", "torch_cpu", "isa", "commit", "peers", "command"} <= set(found)
    assert machine.version_of("simtile") == found["simtile"] and machine.version_of("left-pad-of-none") is None


def test_the_bars_of_losses_that_were_not_run_are_left_out(capsys):
    engine.print_bars({}, machine.Ceilings([]))
    assert "Plan rates" in capsys.readouterr().out
