"""Trainers: whole contrastive jobs on data that comes with Python packages, small enough for two cores.

    simtile train clip        images of characters and their Unicode names, two towers
    simtile train simclr      handwritten digits without labels, two augmented views
    simtile train sentence    docstrings and code, sentence-transformers' Trainer with the drop-in loss

``pip install "simtile[train]"`` brings what they need.

Each writes ``train.json``, ``index.html`` and a checkpoint into ``--output``, goes on from there with ``--resume``, bit
for bit as if it had not stopped, and runs on several processes under ``torchrun -m simtile train ...``, where the loss
is that of all processes' pairs and the curve that of one process.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from simtile.demo import at_least

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simtile.trainers.loop import Result, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, report; returns the exit code: 0, or 2 if an option makes no sense."""
    arguments = _parser().parse_args(argv)

    from simtile.trainers import loop
    from simtile.trainers.report import print_table, write_report

    settings = loop.Settings(
        steps=arguments.steps, batch=arguments.batch, learning_rate=arguments.learning_rate, seed=arguments.seed,
        dense=arguments.dense, checkpoint=arguments.output / "checkpoint.pt", resume=arguments.resume,
        checkpoint_every=arguments.checkpoint_every,
    )  # fmt: skip
    try:
        result = _run(arguments, settings)
    except loop.SettingsError as error:
        print(f"simtile train {arguments.task}: {error}", file=sys.stderr)
        return 2
    if result is not None:  # rank 0
        print_table(result)
        path = write_report(result, arguments.output)
        print(f"{result.seconds['total']:.0f} s in all; report: {path.resolve().as_uri()}")
    return 0


def _run(arguments: argparse.Namespace, settings: Settings) -> Result | None:
    if arguments.task == "sentence":
        from simtile.trainers import sentence

        return sentence.run(sentence.harvested(arguments.output, arguments.max_pairs), settings)
    from simtile.trainers import loop

    if arguments.task == "clip":
        from simtile.trainers.clip import GlyphsAndNames

        return loop.run(GlyphsAndNames(loss=arguments.loss, max_characters=arguments.max_characters), settings)
    from simtile.trainers.simclr import Digits

    return loop.run(Digits(max_images=arguments.max_images), settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simtile train", description="Train a small contrastive model, measure it, and write a report."
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="{clip,simclr,sentence}")
    clip = _add(tasks, "clip", "characters' images and their Unicode names", steps=500, batch=1024, learning_rate=2e-3)
    clip.add_argument("--loss", choices=("info_nce", "siglip"), default="info_nce", help="(%(default)s)")
    clip.add_argument("--max-characters", type=at_least(40), help="a trial on fewer characters (all)")
    simclr = _add(tasks, "simclr", "handwritten digits without labels", steps=400, batch=512, learning_rate=2e-3)
    simclr.add_argument("--max-images", type=at_least(200), help="a trial on fewer images (all)")
    sentence = _add(tasks, "sentence", "docstrings and their code", steps=64, batch=2048, learning_rate=0.05)
    sentence.add_argument(
        "--max-pairs", type=at_least(100), help="a trial on fewer pairs, of the standard library alone (65536)"
    )
    return parser


def _add(
    tasks: argparse._SubParsersAction[argparse.ArgumentParser], name: str, line: str, *, steps: int, batch: int,
    learning_rate: float,
) -> argparse.ArgumentParser:  # fmt: skip
    task = tasks.add_parser(name, help=line, description=f"Train on {line}.")
    task.add_argument(
        "--output", type=Path, default=Path("training") / name, help="folder of the results (%(default)s)"
    )
    task.add_argument("--steps", type=at_least(1), default=steps, help="optimiser steps (%(default)s)")
    task.add_argument("--batch", type=at_least(2), default=batch, help="pairs a step, of all processes (%(default)s)")
    task.add_argument("--learning-rate", type=float, default=learning_rate, help="its peak (%(default)s)")
    task.add_argument("--seed", type=at_least(0), default=0, help="of weights, order and views (%(default)s)")
    task.add_argument("--dense", action="store_true", help="the same loss in plain torch, with the matrix of scores")
    task.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    task.add_argument(
        "--checkpoint-every", type=at_least(1), default=100, metavar="STEPS", help="steps (%(default)s)"
    )  # fmt: skip
    return task
