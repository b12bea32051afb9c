"""Recipes of papers on what is in a corpus, on the digits of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from simtile.corpus import DistinctLabelBatches, facility_location, kmeans, learn_importance, prune_threshold
from simtile.recipes.claim import Outcome
from simtile.search import ExactIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Ids = NDArray[np.int64]

CLASSES = 10
SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def importance(
    *, corpus: int, validation: int, sources: int, wrong: float, retrieved: int, k: int, steps: int, seed: int
) -> Outcome:
    """Digits are told by the labels of their neighbours; in half of the sources many labels are wrong."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    inside, asked, tested = order[:corpus], order[corpus : corpus + validation], order[corpus + validation :]
    source = rng.integers(0, sources, corpus)
    spoilt = (source < sources // 2) & (rng.random(corpus) < wrong)
    told = np.where(spoilt, (labels[inside] + rng.integers(1, CLASSES, corpus)) % CLASSES, labels[inside])
    index = ExactIndex(images[inside], metric="l2")
    _, ids = index.search(images[asked], retrieved)
    right = told[ids] == labels[asked][:, None]
    _, of_tests = index.search(images[tested], retrieved)

    def accuracy(kept: NDArray[np.bool_]) -> float:
        """Of the majority of the first ``k`` that are kept."""
        votes = [np.bincount(told[row[kept[row]][:k]], minlength=CLASSES).argmax() for row in of_tests]
        return float(np.mean(np.array(votes) == labels[tested]))

    table = {"share of wrong labels": float(spoilt.mean())}
    found = {}
    for name, groups in (("by source", source), ("item by item", None)):
        learnt = learn_importance(ids, right, k=k, num_items=corpus, groups=groups, steps=steps)
        threshold = prune_threshold(ids, right, learnt.weights, k=k).threshold
        kept = learnt.weights >= threshold
        found[name] = accuracy(kept)
        table[f"accuracy, pruned {name}"] = found[name]
        table[f"kept, {name}"] = float(kept.mean())
        table[f"kept of the wrong labels, {name}"] = float(kept[spoilt].mean())
    return Outcome(found["by source"], accuracy(np.ones(corpus, dtype=bool)), table)


def craig_gradient(*, train: int, share: float, draws: int, seed: int) -> Outcome:
    """The gradient of the shifted images of all items, from those of a weighted coreset."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    chosen = rng.permutation(len(images))[:train]
    x, y = images[chosen] / 16, labels[chosen]
    model = LogisticRegression(max_iter=500).fit(x, y)

    def gradients(rows: Float) -> Float:
        """(train, CLASSES * pixels) of each item's cross-entropy, by the weights."""
        wrong = model.predict_proba(rows) - np.eye(CLASSES)[y]
        return np.asarray(wrong[:, :, None] * rows[:, None, :]).reshape(train, -1)

    shifted = np.sum([gradients(np.stack([_shifted(image, shift) for image in x])) for shift in SHIFTS], axis=0)
    whole = shifted.sum(axis=0)

    def error(ids: Ids, weights: Float) -> float:
        """Relative, of the weighted sum over some items."""
        return float(np.linalg.norm(weights @ shifted[ids] - whole) / np.linalg.norm(whole))

    size = max(round(share * train), CLASSES)
    coreset = facility_location(gradients(x), size, metric="l2", labels=y)
    at_random = [error(rng.choice(train, size, replace=False), np.full(size, train / size)) for _ in range(draws)]
    table = {
        "items of the coreset": float(size),
        "error of the coreset with equal weights": error(coreset.ids, np.full(size, train / size)),
        "error of the best random choice": min(at_random),
    }
    return Outcome(error(coreset.ids, coreset.weights.astype(float)), float(np.mean(at_random)), table)


def distinct_labels(*, images: int, clusters: int, passes: int, seed: int) -> Outcome:
    """How often two digits of a batch are the same: batches of distinct pseudo-labels, and shuffled ones."""
    pixels, digits = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:images]
    pixels, digits = pixels[chosen], digits[chosen]
    labels = kmeans(pixels, clusters, metric="cosine", seed=seed).labels
    batches = DistinctLabelBatches(labels, clusters, seed=seed)
    found = [batch for _ in range(passes) for batch in batches]
    rng = np.random.default_rng(seed)
    everything = np.concatenate([rng.permutation(images) for _ in range(passes)])
    shuffled = np.split(everything, np.cumsum([len(batch) for batch in found])[:-1])
    table = {
        "batches of a pass": float(len(batches)),
        "mean size of a batch": images / len(batches),
        "share of same pseudo-labels in these batches": _equal_pairs(labels, found),
        "share of same pseudo-labels in shuffled ones": _equal_pairs(labels, shuffled),
    }
    return Outcome(_equal_pairs(digits, found), _equal_pairs(digits, shuffled), table)


def retrieved_augmentation(*, seeds: int, pool: int, top_k: int, draws: int, seed: int) -> Outcome:
    """A classifier from a few labelled digits, and from what is retrieved for them from a pool without labels."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    alone, more, right = [], [], []
    for _ in range(draws):
        order = rng.permutation(len(images))
        few = np.concatenate([order[labels[order] == digit][:seeds] for digit in range(CLASSES)])
        rest = order[~np.isin(order, few)]
        _, near = ExactIndex(images[rest[:pool]], metric="cosine").search(images[few], top_k)
        found, given = rest[near.ravel()], np.repeat(labels[few], top_k)
        tested = rest[pool:]

        def accuracy(rows: Ids, targets: Ids, tested: Ids = tested) -> float:
            model = LogisticRegression(max_iter=500, C=0.01).fit(images[rows], targets)
            return float(model.score(images[tested], labels[tested]))

        alone.append(accuracy(few, labels[few]))
        more.append(accuracy(np.concatenate([few, found]), np.concatenate([labels[few], given])))
        right.append(float((labels[found] == given).mean()))
    table = {"share of retrieved digits that are the seed's": float(np.mean(right)), "labelled": float(seeds * CLASSES)}
    return Outcome(float(np.mean(more)), float(np.mean(alone)), table)


def _shifted(image: Float, shift: tuple[int, int]) -> Float:
    """An 8 x 8 image moved by a pixel, blank where it came from."""
    dy, dx = shift
    return np.asarray(np.pad(image.reshape(8, 8), 1)[1 - dy : 9 - dy, 1 - dx : 9 - dx]).reshape(-1)


def _equal_pairs(labels: NDArray[Any], batches: Iterable[NDArray[Any] | list[int]]) -> float:
    """Share of the pairs of batch-mates that have one label."""
    equal = pairs = 0
    for batch in batches:
        _, counts = np.unique(labels[batch], return_counts=True)
        equal += int((counts * (counts - 1)).sum())
        pairs += len(batch) * (len(batch) - 1)
    return equal / max(pairs, 1)
