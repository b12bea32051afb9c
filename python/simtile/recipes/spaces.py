"""Two encoders of the same digits, trained apart: what one space says to the other."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from simtile.evaluation.relative import relative
from simtile.evaluation.rsa import rsa
from simtile.recipes.claim import Outcome


def relreps(*, images: int, anchors: int, epochs: int, seed: int) -> Outcome:
    """A classifier trained on one network's relative representations, read from another network's."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels, labels = pixels[order] / 16, labels[order]
    spaces = [_hidden_layer(pixels, labels, images, epochs, seed + one) for one in range(2)]
    parts = {
        "absolute": spaces,
        "relative": [relative(*(torch.from_numpy(z) for z in (x, x[:anchors]))).numpy() for x in spaces],
    }
    found = {}
    for name, (one, other) in parts.items():
        head = LogisticRegression(max_iter=500).fit(one[:images], labels[:images])
        found[f"{name}, same network"] = float(head.score(one[images:], labels[images:]))
        found[f"{name}, other network"] = float(head.score(other[images:], labels[images:]))
    table = {**found, "similarity of the two spaces (RSA, Spearman)": rsa(*spaces)}
    return Outcome(found["relative, other network"], found["absolute, other network"], table)


def _hidden_layer(
    pixels: NDArray[np.float64], labels: NDArray[np.int64], images: int, epochs: int, seed: int
) -> NDArray[np.float64]:
    """(N, 32) last hidden layer of a small network trained on the first ``images``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((64, 32), activation="tanh", max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(pixels[:images], labels[:images])
    hidden = pixels
    for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        hidden = np.tanh(hidden @ weight + bias)
    return hidden
