"""Handwritten digits as local vectors and as views: patches, correspondences, score maps, test-time augmentation."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from simtile.evaluation.correspondence import correlation_volume, soft_argmax
from simtile.evaluation.patches import patch_distances
from simtile.evaluation.retrieved_probe import linear_probe
from simtile.evaluation.score_maps import masked_mass, score_map, score_map_loss
from simtile.evaluation.views import select_views
from simtile.evaluation.whitening import Whitener
from simtile.recipes.claim import Outcome
from simtile.search import ExactIndex
from simtile.trainers.simclr import SIDE, Digits, distorted


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """(5000, 1, 28, 28) images in [0, 1] and their labels, in a fixed random order."""
    task = Digits()
    return torch.from_numpy(task.pixels).view(-1, 1, SIDE, SIDE), torch.from_numpy(task.labels)


def cnn_ots(*, labelled: int, queries: int, window: int, components: int, shift: int, seed: int) -> Outcome:
    """1-NN of shifted digits by whitened patches and by pixels."""
    images, labels = _digits()
    known, asked = images[:labelled], images[-queries:]
    steps = torch.randint(-shift, shift + 1, (queries, 2), generator=torch.Generator().manual_seed(seed))
    pairs = zip(asked, steps.tolist(), strict=True)
    moved = torch.stack([image.roll((down, right), (1, 2)) for image, (down, right) in pairs])
    stored, patches = _windows(known, window, 2), _windows(moved, window, window // 2)
    starts, ends = (np.arange(len(part) + 1) * part.shape[1] for part in (patches, stored))
    stored, patches = (part.reshape(-1, window * window) for part in (stored, patches))
    whitener = Whitener(components).fit(stored[np.linalg.norm(stored, axis=1) > 0])
    found = {}
    for name, (q, r) in {"raw": (patches, stored), "whitened": (whitener(patches), whitener(stored))}.items():
        nearest = patch_distances(q, starts, r, ends).argmin(axis=1)
        found[f"{name} patches"] = float((labels[:labelled][nearest] == labels[-queries:]).float().mean())
    _, ids = ExactIndex(known.flatten(1), metric="l2").search(moved.flatten(1), 1)
    pixels = float((labels[:labelled][ids[:, 0]] == labels[-queries:]).float().mean())
    return Outcome(found["whitened patches"], pixels, {**found, "pixels": pixels})


def ufc(*, pairs: int, window: int, down: int, right: int, noise: float, temperature: float, seed: int) -> Outcome:
    """Share of ink pixels whose soft-argmax lies within 1.5 pixels of where they went."""
    images, _ = _digits()
    generator = torch.Generator().manual_seed(seed)
    hits, still, total, difference = 0, 0, 0, 0.0
    grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), dim=2).float()
    for image in images[:pairs]:
        moved = image.roll((down, right), (1, 2))
        source, target = (_neighbourhoods(x + noise * torch.randn(x.shape, generator=generator), window)
                          for x in (image, moved))  # fmt: skip
        flow = soft_argmax(source, target, temperature=temperature)
        volume = correlation_volume(source, target).flatten(2)
        dense = torch.softmax(volume / temperature, dim=2) @ grid.view(-1, 2)
        difference = max(difference, float((flow - dense).abs().max()))
        aim = grid + torch.tensor([down, right])
        ink = (image[0] > 0.5) & (aim >= 0).all(2) & (aim < SIDE).all(2)
        hits += int(((flow - aim).norm(dim=2) <= 1.5)[ink].sum())
        still += int(((grid - aim).norm(dim=2) <= 1.5)[ink].sum())
        total += int(ink.sum())
    table = {"largest difference from the stored volume, pixels": difference, "ink pixels": float(total)}
    return Outcome(hits / total, still / total, table)


def denseclip(*, scenes: int, window: int, temperature: float, weight_decay: float, seed: int) -> Outcome:
    """The auxiliary loss without the score map and from it, for class vectors that were fitted by it."""
    features, labels, _ = _scenes(scenes, window, seed)
    train = slice(0, scenes // 2)
    rows = features.permute(0, 2, 3, 1)
    known, of = rows[train][labels[train] >= 0], labels[train][labels[train] >= 0]
    start = torch.stack([F.normalize(known[of == c], dim=1).mean(0) for c in range(10)])
    fitted = linear_probe(start, known, of, scale=1 / temperature, weight_decay=weight_decay)
    test, truth = features[scenes // 2 :], labels[scenes // 2 :]
    table = {"MiB of the map": truth.numel() * 10 * 4 / 2**20}
    for name, text in (("mean pixels of a class", start), ("class vectors fitted by it", fitted)):
        right = score_map(test, text).argmax(1) == truth
        table[f"accuracy per ink pixel, {name}"] = float(right[truth >= 0].float().mean())
        table[f"auxiliary loss, {name}"] = score_map_loss(test, text, truth, temperature=temperature).item()
    stored = F.cross_entropy(score_map(test.double(), fitted.double()) / temperature, truth, ignore_index=-1)
    return Outcome(table["auxiliary loss, class vectors fitted by it"], stored.item(), table)


def far(*, scenes: int, window: int, scale: float, seed: int) -> Outcome:
    """Mass of each class's attention on the quarter of a scene that holds its digit, and that quarter's share."""
    features, labels, quarters = _scenes(scenes, window, seed)
    train = scenes // 2
    rows = F.normalize(features.permute(0, 2, 3, 1), dim=3)
    means = torch.stack([rows[:train][labels[:train] == c].mean(0) for c in range(10)])
    masses, shares = [], []
    for scene in range(train, scenes):
        ink = labels[scene].flatten() >= 0
        keys = rows[scene].flatten(0, 1)[ink]
        for digit in quarters[scene].tolist():
            region = (labels[scene].flatten() == digit)[ink]
            masses.append(masked_mass(means[digit : digit + 1], keys, region, scale=scale).item())
            shares.append(region.float().mean().item())
    return Outcome(float(np.mean(masses)), float(np.mean(shares)), {"regions": float(len(masses))})


def difftpt(*, train: int, images: int, views: int, seed: int) -> Outcome:
    """Accuracy on distorted digits of the surest views' mean prediction, and of the image as it is."""
    pixels, labels = _digits()
    generator = torch.Generator().manual_seed(seed)
    known, of = pixels[:train].flatten(1), labels[:train]
    start = torch.stack([F.normalize(known[of == c], dim=1).mean(0) for c in range(10)])
    weights = linear_probe(start, known, of, scale=20.0, weight_decay=0.01)
    shown = distorted(pixels[-images:], torch.rand(images, 9, generator=generator))
    truth = labels[-images:]
    found = {"the image as it is": 0, "mean of all views": 0, "mean of the surest views": 0}
    for image, digit in zip(shown, truth, strict=True):
        again = torch.rand(views, 9, generator=generator)
        again[:, 8] = 1.0  # no square is cut out of a view
        seen = torch.cat([image[None], distorted(image.expand(views, -1, -1, -1), again)])
        logits = 20.0 * F.normalize(seen.flatten(1), dim=1) @ weights.T
        p = torch.softmax(logits, dim=1)
        guesses = (p[0], p.mean(0), p[select_views(logits)].mean(0))
        for name, guess in zip(found, guesses, strict=True):
            found[name] += int(guess.argmax() == digit)
    shares = {name: right / images for name, right in found.items()}
    return Outcome(shares["mean of the surest views"], shares["the image as it is"], shares)


def _windows(images: Tensor, window: int, stride: int) -> NDArray[np.float64]:
    """(n, windows, window²) square patches."""
    return F.unfold(images, window, stride=stride).mT.double().numpy()


def _neighbourhoods(image: Tensor, window: int) -> Tensor:
    """(window², 28, 28): at each pixel, what is around it."""
    return F.unfold(image[None], window, padding=window // 2).view(-1, *image.shape[1:])


def _scenes(scenes: int, window: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four digits of different classes in the quarters of an image.

    Neighbourhoods (n, window², 56, 56) of the pixels, the digit of each ink pixel or -1 (n, 56, 56), and the digits of
    the quarters (n, 4).
    """
    images, labels = _digits()
    rng = np.random.default_rng(seed)
    by_class = [np.flatnonzero(labels.numpy() == c) for c in range(10)]
    # Four in a row, round and round: every five scenes hold each digit twice.
    digits = rng.permutation(10)[(np.arange(4 * scenes) % 10).reshape(scenes, 4)]
    digits = rng.permuted(digits, axis=1)
    chosen = np.array([[rng.choice(by_class[c]) for c in row] for row in digits])
    parts = images[torch.from_numpy(chosen.ravel())].view(scenes, 2, 2, SIDE, SIDE)
    canvas = parts.permute(0, 1, 3, 2, 4).reshape(scenes, 1, 2 * SIDE, 2 * SIDE)
    quarter = torch.from_numpy(digits).view(scenes, 2, 1, 2, 1).expand(scenes, 2, SIDE, 2, SIDE)
    truth = quarter.reshape(scenes, 2 * SIDE, 2 * SIDE)
    around = F.unfold(canvas, window, padding=window // 2).view(scenes, -1, 2 * SIDE, 2 * SIDE)
    return around, truth.masked_fill(canvas[:, 0] <= 0.5, -1), torch.from_numpy(digits)
