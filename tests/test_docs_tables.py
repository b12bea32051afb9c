"""Every table of the documentation is the one that the recorded results make."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
matplotlib = pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import tables  # noqa: E402


@pytest.mark.parametrize("page", tables.pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert text == tables.renewed(text), "run: python docs/tables.py"
    assert text.count("<!-- table ") == text.count("<!-- end -->") == len(tables.MARKED.findall(text))


def test_every_table_stands_somewhere():
    found = {name for page in tables.pages() for _, name, *_ in tables.MARKED.findall(page.read_text(encoding="utf-8"))}
    assert found == set(tables.TABLES)


def test_a_changed_figure_is_noticed():
    text = (ROOT / "docs/numerics.md").read_text(encoding="utf-8")
    assert tables.renewed(text.replace("6.7e-07", "6.6e-07")) == text != text.replace("6.7e-07", "6.6e-07")


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="recals"):
        tables.renewed("<!-- table recals -->\n<!-- end -->")


def test_pictures_are_those_of_the_results():
    if f"matplotlib=={matplotlib.__version__}" not in (ROOT / "constraints.txt").read_text(encoding="utf-8"):
        pytest.skip("another matplotlib draws other paths")
    for path, svg in tables.drawings().items():
        assert path.read_text(encoding="utf-8") == svg, "run: python docs/tables.py"


def test_every_picture_that_is_shown_is_there():
    shown = re.findall(r'src="(.+?)"', tables.pictures())
    assert shown and all((ROOT / path).exists() for path in shown)
