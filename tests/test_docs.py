"""The documentation does what it shows: tutorials, examples in docstrings, links, the list of pages."""

from __future__ import annotations

import doctest
import importlib
import io
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simtile

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("**/*.md") if not {"build", "reference"} & set(path.parts))
TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md") if "```pycon" in path.read_text("utf-8"))
HOW = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def failures(test: doctest.DocTest) -> str:
    """What a doctest printed that it should not have; empty if it passed."""
    written = io.StringIO()
    doctest.DocTestRunner(optionflags=HOW, verbose=False).run(test, out=written.write)
    return written.getvalue()


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_prints_what_it_shows(name, monkeypatch):
    text = (DOCS / f"tutorials/{name}.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))
    for module in re.findall(r"^>>> (?:from|import) (\w+)", blocks, re.MULTILINE):
        pytest.importorskip(module)
    monkeypatch.chdir(ROOT)
    assert not failures(doctest.DocTestParser().get_doctest(blocks, {}, name, name, 0))


def test_the_tutorial_of_several_processes_prints_what_it_shows(tmp_path):
    pytest.importorskip("torch")
    text = (DOCS / "tutorials/several_processes.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    console = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert program and console
    (_, alone), (command, shared) = re.findall(r"^\$ torchrun (.*)\n((?:[^$].*\n)+)", console[1], re.MULTILINE)
    assert alone == shared and "--nproc-per-node 2 " in command
    (tmp_path / "two_towers.py").write_text(program[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *command.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == shared, done.stderr


def test_examples_in_docstrings_print_what_they_show():
    torch = pytest.importorskip("torch")
    given = {"torch": torch, "np": np, "simtile": simtile}  # what an example may take for granted
    shown, found = "", 0
    for info in pkgutil.walk_packages(simtile.__path__, "simtile."):
        path = importlib.util.find_spec(info.name).origin
        if path is None or not path.endswith(".py") or ">>> " not in Path(path).read_text(encoding="utf-8"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError:
            continue  # an extra that is not installed
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=given):
            found += bool(test.examples)
            shown += failures(test)
    assert found > 20
    assert not shown, shown


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_every_page_is_in_the_list():
    listed = re.findall(r"\]\(([\w/]+)\.md\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    missing = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES} - {*listed, "README", "index"}
    assert not missing, f"name these in docs/README.md: {missing}"


def test_every_fault_that_is_listed_has_a_test():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"^(?:def )?(test_\w+|Test\w+)(?:\(| = )", tests, re.MULTILINE))
    rows = re.findall(r"^\| (.+) \| (.*) \| (.*) \|$", (DOCS / "faults.md").read_text("utf-8"), re.MULTILINE)
    named = [re.findall(r"`([Tt]est\w+)`", held_by) for *_, held_by in rows if held_by not in ("test", "", "the same")]
    assert all(named) and len(named) > 15
    assert {name for row in named for name in row} <= names


def test_pictures_of_the_pages_are_small():
    pictures = list((DOCS / "screenshots").glob("*.png"))
    assert {path.stem.rpartition("-")[2] for path in pictures} == {"desktop", "phone"}
    assert sum(path.stat().st_size for path in pictures) < 3_000_000
