"""Text classification without labels: a class is a vector of its keywords, then of the texts nearest to them.

    label_c = mean of the documents nearest to mean(keywords of c)        class of x = argmax_c cos(x, label_c)

Keywords alone are single words; the documents near to them say how the corpus writes about the class [1]. The nearest
are those within a similarity threshold, between a least and a largest number, after local outliers were taken out.

[1] Schopf, Braun & Matthes 2022, Lbl2Vec and Lbl2TransformerVec, arXiv:2211.16285. The released Lbl2TransformerVec
    averages a vector's coordinates where ``clean_outliers`` is set, and looks at the first ``max_num_docs`` documents
    rather than the nearest; neither is meant, so neither is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra
from simtile.evaluation._rows import Float, as_rows, unit
from simtile.hubness.cutoff import cut
from simtile.search import ExactIndex

__all__ = ["classify", "label_vectors"]

OUTLIER_NEIGHBOURS = 20


def label_vectors(
    keywords: Sequence[Any], documents: Any, *, least: int = 1, most: int | None = None,
    threshold: float | None = None, offset: float = 0.0, clean: bool = True, num_threads: int | None = None,
) -> Float:  # fmt: skip
    """One vector a class, from its keywords and the documents near to them.

    Parameters
    ----------
    keywords : sequence of C arrays (K_c, D)      embeddings of each class's keywords
    documents : array or CPU tensor (N, D)      embeddings of unlabelled texts
    least, most : int      documents a class is made of; ``most`` None: no limit
    threshold : float      cosine with the keywords' mean from which on a document counts; None: the best document's
        cosine less ``offset``
    clean : bool      leave out local outliers among them (needs scikit-learn; from 3 documents on)

    Returns
    -------
    (C, D) float64      not normalised

    Raises
    ------
    TypeError, ValueError      naming the argument

    Examples
    --------
    >>> documents = np.array([[1.0, 0.1], [1.0, 0.3], [0.0, 1.0]])
    >>> label_vectors([[[1.0, 0.0]], [[0.0, 1.0]]], documents, least=2, clean=False)[0]
    array([1. , 0.2])
    """
    rows = as_rows("documents", documents)
    if not len(keywords):
        raise ValueError("keywords: at least one class, got none")
    means = [as_rows(f"keywords[{c}]", np.asarray(part), rows.shape[1]).mean(axis=0) for c, part in enumerate(keywords)]
    most = len(rows) if most is None else most
    if not 1 <= least <= most <= len(rows):
        raise ValueError(f"least, most: 1 <= least <= most <= {len(rows)}, got {least} and {most}")
    scores, ids = ExactIndex(rows, metric="cosine").search(np.stack(means), most, num_threads=num_threads)
    limits = scores[:, :1] - offset if threshold is None else threshold
    near = cut(scores - limits, ids, 0.0, min_k=least)
    found = []
    for c in range(len(means)):
        chosen = rows[near[c][0]]
        found.append((_inliers(chosen) if clean else chosen).mean(axis=0))
    return np.stack(found)


def classify(x: Any, labels: Any) -> tuple[NDArray[np.int64], Float]:
    """Nearest label of each text (N, D) by cosine, (N,), and all cosines (N, C)."""
    vectors = as_rows("labels", labels)
    cosines = unit(as_rows("x", x, vectors.shape[1])) @ unit(vectors).T
    return cosines.argmax(axis=1), cosines


def _inliers(rows: Float) -> Float:
    """Without those of a local outlier factor that scikit-learn calls outliers (Breunig et al. 2000)."""
    if len(rows) < 3:
        return rows
    try:
        from sklearn.neighbors import LocalOutlierFactor
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None

    kept = LocalOutlierFactor(n_neighbors=min(OUTLIER_NEIGHBOURS, len(rows) - 1)).fit_predict(rows) == 1
    return rows[kept] if kept.any() else rows
