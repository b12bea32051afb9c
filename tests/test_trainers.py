"""The trainers at toy size: curves of plain torch, checkpoints, several processes, data that is what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import distributed as dist

import distributed_cases as cases
from simtile.__main__ import main

pytest.importorskip("mlxtend")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from simtile.trainers import glyphs, loop, simclr
from simtile.trainers.clip import GlyphsAndNames

TASKS = {
    "clip": lambda: GlyphsAndNames(max_characters=80),
    "clip, siglip": lambda: GlyphsAndNames(loss="siglip", max_characters=80),
    "simclr": lambda: simclr.Digits(max_images=200),
}
SETTINGS = {"steps": 6, "batch": 48, "learning_rate": 3e-3, "seed": 4}


@pytest.fixture(scope="module")
def tasks():
    return {name: task() for name, task in TASKS.items()}


def trained(task, group=None, **settings):
    torch.manual_seed(4)
    chosen = loop.Settings(**{**SETTINGS, **settings})
    objective = task.objective(group, dense=chosen.dense)
    return loop.train(task, objective, chosen, group), objective


@pytest.mark.parametrize("name", TASKS)
def test_the_curve_is_that_of_plain_torch(tasks, name):
    ours, _ = trained(tasks[name])
    dense, _ = trained(tasks[name], dense=True)
    assert ours[0] == pytest.approx(dense[0], rel=1e-5)
    np.testing.assert_allclose(ours, dense, rtol=1e-3)
    assert ours[-1] < ours[0]


def test_every_seed_has_batches_and_distortions_of_its_own():
    settings = [loop.Settings(steps=1, batch=40, learning_rate=1e-3, seed=seed) for seed in range(300)]
    assert len({tuple(loop._rows(40, one, 0).tolist()) for one in settings}) == 300
    draws = {
        torch.rand(2, generator=loop._generator(seed, step)).sum().item() for seed in range(60) for step in range(9)
    }
    assert len(draws) > 535  # of 540; sums of two float32 meet now and then


class Stopped(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tasks, name, tmp_path, monkeypatch):
    task = tasks[name]
    whole, objective = trained(task)
    checkpoint = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_every": 2}
    batch, calls = type(task).batch, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        return batch(*arguments)

    monkeypatch.setattr(type(task), "batch", stops)
    with pytest.raises(Stopped):
        trained(task, **checkpoint)
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = task.objective(None, dense=False)
    losses = loop.train(task, resumed, loop.Settings(**SETTINGS, **checkpoint, resume=True))
    assert len(calls) == 3 + 1 + 4, "two of three steps were kept"
    assert losses == whole
    for ours, expected in zip(resumed.parameters(), objective.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_checkpoint_of_another_run_is_refused(tasks, tmp_path):
    checkpoint = {"checkpoint": tmp_path / "checkpoint.pt"}
    with pytest.raises(loop.SettingsError, match="--resume: no checkpoint"):
        trained(tasks["simclr"], **checkpoint, resume=True)
    trained(tasks["simclr"], **checkpoint)
    with pytest.raises(loop.SettingsError, match="the checkpoint has batch 48, got 32"):
        trained(tasks["simclr"], **checkpoint, resume=True, batch=32)


def on_ranks(rank, W, folder):
    found = {name: trained(task(), dist.group.WORLD)[0] for name, task in TASKS.items()}
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tasks, tmp_path):
    cases.start(on_ranks, 2, tmp_path)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, task in tasks.items():
            np.testing.assert_allclose(found[name], trained(task)[0], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("task", [["clip", "--max-characters", "60"], ["simclr", "--max-images", "200"]])
def test_a_run_leaves_a_report_and_a_checkpoint(task, tmp_path, capsys):
    options = ["--steps", "2", "--batch", "32", "--output", str(tmp_path)]
    assert main(["train", *task, *options]) == 0
    record = json.loads((tmp_path / "train.json").read_text())
    assert len(record["losses"]) == 2
    assert record["before"].keys() == record["after"].keys()
    assert all(0 <= value <= 1 for value in record["after"].values())
    page = (tmp_path / "index.html").read_text()
    assert all(name in page for name in record["after"])
    assert "http" not in page.replace("http://www.w3.org", ""), "the page needs nothing from elsewhere"
    assert main(["train", *task, *options, "--resume"]) == 0, "a finished run has nothing left to do"
    assert json.loads((tmp_path / "train.json").read_text())["losses"] == record["losses"]
    assert main(["train", *task, *options, "--resume", "--seed", "1"]) == 2
    assert "the checkpoint has seed 0, got 1" in capsys.readouterr().err
    assert main(["train", *task, *options, "--batch", "100000"]) == 2


def test_characters_and_faces_that_are_held_out_are_not_trained_on(tasks):
    task = tasks["clip"]
    trained_on = set(task.training.codes.tolist())
    assert not trained_on & set(task.tests["held-out characters"].codes.tolist())
    assert not trained_on & set(task.tests["both"].codes.tolist())
    held = {glyphs.FACES.index(face) for face in glyphs.HELD_OUT_FACES}
    assert not held & set(task.training.faces.tolist())
    assert set(task.tests["held-out faces"].faces.tolist()) == held
    assert all(image.any() for image in task.training.images)


def test_a_bag_of_words_is_the_name_of_its_character(tasks):
    names = tasks["clip"].names
    code = int(tasks["clip"].training.codes[0])
    words, starts = names.bags([code, code])
    back = {place: word for word, place in names.words.items()}
    spelt = " ".join(back[int(word)] for word in words[: starts[1]])
    assert spelt == glyphs.name_of(code).replace("-", " ")


def test_a_distortion_of_nothing_is_the_image_and_every_draw_matters(rng):
    images = torch.from_numpy(rng.random((3, 1, simclr.SIDE, simclr.SIDE), dtype=np.float32))
    nothing = torch.full((3, 9), 0.5)
    torch.testing.assert_close(simclr.distorted(images, nothing), images, rtol=1e-5, atol=1e-5)
    for place in range(6):
        draws = nothing.clone()
        draws[:, place] = 0.9
        assert not torch.allclose(simclr.distorted(images, draws), images, atol=1e-2)
    draws = nothing.clone()
    draws[:, 8] = 0.4
    assert ((simclr.distorted(images, draws) == 0) & (images > 0)).sum() == 3 * simclr.HOLE**2
