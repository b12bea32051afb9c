"""Labels without labelled texts, and probes on what was retrieved for a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simtile.evaluation.label_vectors import classify, label_vectors
from simtile.evaluation.retrieved_probe import average_weights, linear_probe, retrieve_for_classes


@pytest.fixture
def topics(rng):
    """Three topics of 40 texts in 16 dimensions, and keywords that lie half-way to the next topic."""
    means = np.eye(3, 16)
    documents = np.repeat(means, 40, axis=0) + 0.2 * rng.normal(size=(120, 16))
    keywords = [means[c] + 0.8 * means[(c + 1) % 3] + 0.1 * rng.normal(size=(4, 16)) for c in range(3)]
    return keywords, documents, np.repeat(np.arange(3), 40)


def test_a_label_is_the_mean_of_the_documents_within_the_threshold(topics):
    keywords, documents, _ = topics
    mean = keywords[1].mean(0)
    cosines = documents @ mean / np.linalg.norm(documents, axis=1) / np.linalg.norm(mean)
    order = np.argsort(-cosines)
    for how, chosen in (
        ({"threshold": 0.6}, cosines >= 0.6),
        ({"offset": 0.1}, cosines >= cosines.max() - 0.1),
        ({"offset": 0.5, "most": 7}, np.isin(np.arange(120), order[:7])),
        ({"threshold": 2.0, "least": 5}, np.isin(np.arange(120), order[:5])),
    ):
        got = label_vectors(keywords, documents, clean=False, **how)
        np.testing.assert_allclose(got[1], documents[chosen].mean(0), rtol=1e-9, err_msg=str(how))


def test_documents_correct_what_keywords_get_wrong(topics):
    keywords, documents, truth = topics
    by_keywords = (classify(documents, np.stack([part.mean(0) for part in keywords]))[0] == truth).mean()
    by_labels = (classify(documents, label_vectors(keywords, documents, least=10))[0] == truth).mean()
    assert by_labels > by_keywords + 0.02


def test_cleaning_leaves_out_a_document_far_from_the_others(topics):
    keywords, documents, _ = topics
    stray = np.vstack([documents, 50 * (keywords[0].mean(0)[None] + 0.3)])
    dirty, clean = (label_vectors(keywords, stray, least=40, clean=c)[0] for c in (False, True))
    assert np.linalg.norm(clean) < 2 < np.linalg.norm(dirty)


def test_wrong_label_arguments_are_named(topics):
    keywords, documents, _ = topics
    for run, message in (
        (lambda: label_vectors([], documents), "keywords: at least one class"),
        (lambda: label_vectors([np.ones((1, 3))], documents), r"keywords\[0\]: shape \(N, 16\)"),
        (lambda: label_vectors(keywords, documents, least=3, most=2), "least, most"),
        (lambda: classify(documents[:, :3], documents), "x: shape"),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_what_is_retrieved_is_near_its_class_and_above_the_threshold(topics):
    _, documents, truth = topics
    prompts = np.eye(3, 16)
    found = retrieve_for_classes(prompts, documents, per_class=20, threshold=0.2)
    for c in range(3):
        ids, scores = found[c]
        assert len(ids) == 20 and (truth[ids] == c).all() and (scores >= 0.2).all()
        assert (np.diff(scores) <= 0).all()
    assert len(retrieve_for_classes(-prompts, documents, threshold=0.99).ids) == 0
    with pytest.raises(ValueError, match="prompts: 16 columns"):
        retrieve_for_classes(prompts[:, :3], documents)


def test_the_probe_is_the_minimum_of_its_function(topics):
    _, documents, truth = topics
    start, x = torch.eye(3, 16, dtype=torch.float64), torch.from_numpy(documents)
    labels = torch.from_numpy(truth)
    weights = linear_probe(start, x, labels, scale=10.0, weight_decay=0.1).requires_grad_()
    loss = F.cross_entropy(10 * F.normalize(x) @ weights.T, labels) + 0.05 * (weights - start).square().sum()
    assert torch.autograd.grad(loss, weights)[0].abs().max() < 1e-4
    stuck = linear_probe(start, x, labels, weight_decay=1e12)
    torch.testing.assert_close(stuck, start, atol=1e-6, rtol=0)


def test_averaged_weights_lie_between(rng):
    a, b = (torch.from_numpy(rng.normal(size=(3, 5))) for _ in range(2))
    for alpha, want in ((0.0, F.normalize(a)), (1.0, F.normalize(b)), (0.5, (F.normalize(a) + F.normalize(b)) / 2)):
        torch.testing.assert_close(average_weights(a, 7 * b, alpha=alpha), want)
    with pytest.raises(ValueError, match="alpha: 0 to 1"):
        average_weights(a, b, alpha=2.0)
    with pytest.raises(ValueError, match="labels: shape"):
        linear_probe(a, b, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="features: finite"):
        linear_probe(a, b * torch.nan, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="scale, weight_decay"):
        linear_probe(a, b, torch.zeros(3, dtype=torch.int64), weight_decay=-1.0)
