"""Free embeddings: capacities that geometry proves, found by training; a curve that solves every set in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simtile.evaluation.limit import all_sets, capacity, fit, moment_curve, share_solved

FAST = {"learning_rate": 0.1, "steps": 120, "restarts": 2}
"""Ten times the authors' rate: what can be solved at these sizes is solved within 60 steps."""


@pytest.mark.parametrize(("d", "exact"), [(2, 3), (3, 4)], ids=["circle", "sphere"])
def test_pairs_have_the_capacity_that_planarity_proves(d, exact):
    assert capacity(d, **FAST) == exact


@pytest.mark.parametrize("d", [2, 3])
def test_no_arrangement_on_circle_or_sphere_serves_more_pairs_than_its_delaunay_graph_has_edges(rng, d):
    """The upper bound behind the capacity: n edges on a circle, 3n - 6 on a sphere, fewer than C(n, 2) from here on."""
    n = 4 if d == 2 else 5
    for _ in range(20):
        documents = rng.normal(size=(n, d))
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
        best = np.argsort(rng.normal(size=(20_000, d)) @ documents.T, axis=1)[:, -2:]
        assert len(np.unique(np.sort(best, axis=1), axis=0)) <= (n if d == 2 else 3 * n - 6) < n * (n - 1) / 2


@pytest.mark.parametrize(("n", "k"), [(3, 2), (10, 2), (60, 2), (9, 3), (8, 4)])
def test_the_moment_curve_solves_every_set_in_2k_dimensions(n, k):
    queries, documents = moment_curve(n, k=k)
    assert queries.shape[1] == documents.shape[1] == 2 * k
    for rows in (queries, documents):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-14)
    assert share_solved(torch.from_numpy(queries), torch.from_numpy(documents), all_sets(n, k)) == 1.0


def test_a_fit_returns_unit_vectors_and_what_they_solve():
    found = fit(4, 3, seed=3, learning_rate=0.1)
    for rows in (found.queries, found.documents):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert found.solved == 1.0
    best = (found.queries @ found.documents.T).topk(2).indices.sort(dim=1).values
    np.testing.assert_array_equal(best, all_sets(4, 2))


def test_a_tie_is_not_solved():
    same = torch.ones(3, 2)
    assert share_solved(same, same, all_sets(3, 2)) == 0.0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k: 1 to n - 1 = 2, got 3"):
        all_sets(3, 3)
    with pytest.raises(ValueError, match="d: at least 1"):
        fit(3, 0)
    with pytest.raises(ValueError, match="restarts: at least 1"):
        capacity(2, restarts=0)
