"""An edit judged against the least change that makes a source the target: its projection onto the plane between them.

    w, b: the widest margin between source and target attributes        v* = v - (<w, v> + b) w / |w|²

Kim et al. 2024, AugCLIP, arXiv:2410.11374: the attributes are embeddings of texts that a language model wrote about the
source image and the target caption, v embeds the source image, and cos(edited image, v*) scores the edit. v* is the
nearest point to v that a linear classifier would no longer call source.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simtile._extras import missing_extra
from simtile.evaluation._rows import Float, as_rows, unit

__all__ = ["edit_scores", "project", "separating_hyperplane"]


def separating_hyperplane(source: Any, target: Any, *, C: float = 1.0) -> tuple[Float, float]:
    """The plane <w, x> + b = 0 of a linear support vector machine, target on the positive side.

    Parameters
    ----------
    source, target : array or CPU tensor (S, D), (T, D)      attribute embeddings
    C : float      of ``sklearn.svm.SVC``: the larger, the harder the margin

    Returns
    -------
    (w (D,), b)

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    try:
        from sklearn.svm import SVC
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None

    first = as_rows("source", source)
    second = as_rows("target", target, first.shape[1])
    if not (len(first) and len(second)):
        raise ValueError(f"source, target: at least one each, got {len(first)} and {len(second)}")
    side = np.repeat([0, 1], [len(first), len(second)])
    machine = SVC(kernel="linear", C=C).fit(np.vstack([first, second]), side)
    return np.asarray(machine.coef_[0]), float(machine.intercept_[0])


def project(x: Any, w: Any, b: float) -> Float:
    """Rows (N, D) moved at right angles onto the plane <w, x> + b = 0.

    Examples
    --------
    >>> project(np.array([[2.0, 5.0]]), np.array([1.0, 0.0]), -1.0)
    array([[1., 5.]])
    """
    normal = np.asarray(w, np.float64)
    rows = as_rows("x", x)
    if normal.shape != rows.shape[1:] or not normal.any():
        raise ValueError(f"w: shape ({rows.shape[1]},) and not 0, got {normal.shape}")
    return np.asarray(rows - ((rows @ normal + b) / (normal @ normal))[:, None] * normal)


def edit_scores(edited: Any, original: Any, w: Any, b: float) -> Float:
    """(N,) cosines of edited embeddings (N, D) with the projections of their originals (N, D)."""
    aim = project(original, w, b)
    rows = as_rows("edited", edited, aim.shape[1])
    if rows.shape != aim.shape:
        raise ValueError(f"edited: {len(aim)} rows, got {len(rows)}")
    return np.asarray((unit(rows) * unit(aim)).sum(axis=1))
