"""The report: its figures are those of the metrics, its page stands alone, its command answers bad input with 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simtile.hubness import HubnessReducer, hubness_report, report
from simtile.search import ExactIndex

pytest.importorskip("matplotlib")


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> dict[str, Path]:
    common = rng.standard_normal(16)
    arrays = {
        "gallery": rng.standard_normal((120, 16)) + common * rng.random((120, 1)),
        "queries": rng.standard_normal((80, 16)) + common,
        "bank": rng.standard_normal((60, 16)) + common,
        "truth": rng.integers(0, 120, 80),
    }
    paths = {name: tmp_path / f"{name}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(paths[name], array)
    return paths


def test_the_command_writes_a_page_with_the_figures_of_the_metrics(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"<item {i}>" for i in range(120)))
    given = [f"--{name}={path}" for name, path in files.items()]
    assert report.main([*given, "--k=5", f"--names={names}", f"--output={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    gallery, queries, bank = (np.load(files[name]) for name in ("gallery", "queries", "bank"))
    raw = hubness_report(ExactIndex(gallery, metric="cosine").search(queries, 5)[1], 120)
    after = hubness_report(HubnessReducer().fit(gallery, query_bank=bank).search(queries, 5)[1], 120)
    assert f"{raw.skewness:.2f}" in printed
    assert f"{after.skewness:.2f}" in printed
    assert after.robin_hood < raw.robin_hood
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"<td>{raw.gini:.3f}</td><td>{after.gini:.3f}</td>" in page
    assert "recall@1" in page
    assert f"&lt;item {raw.k_occurrence.argmax()}&gt;" in page
    assert "$" not in page
    assert page.count("data:image/png;base64,") == 2
    for name in ("k_occurrence", "lorenz"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_half_of_the_queries_are_the_bank_where_none_is_given(files: dict[str, Path], tmp_path: Path) -> None:
    given = [f"--gallery={files['gallery']}", f"--queries={files['queries']}", f"--output={tmp_path / 'out'}"]
    assert report.main([*given, "--method=nnn"]) == 0
    assert "40 queries" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_bad_input_is_a_line_and_exit_code_2(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [f"--gallery={files['gallery']}", f"--queries={files['queries']}", f"--output={tmp_path / 'out'}"]
    for arguments, message in (
        ([*good, "--method=dual_is"], "--gallery-bank: method dual_is needs one"),
        ([*good[:1], f"--queries={tmp_path / 'none.npy'}"], "none.npy"),
        ([good[0], f"--queries={files['truth']}"], "query_bank: float16"),
    ):
        assert report.main(arguments) == 2
        assert message in capsys.readouterr().err
