"""The algebra of the published methods against their formulas, and all methods on exactly low-rank scores."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits
from simtile.cur.factorize import SparseScores, alternating_least_squares, singular_factors
from simtile.cur.latent import pinv_latent, posterior_latent, ridge_latent

N_BUILD, N_ITEMS, N_TEST, RANK = 40, 300, 7, 6


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float64]:
    """(N_BUILD + N_TEST, N_ITEMS) scores of rank 6."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_BUILD + N_TEST, RANK)) @ rng.normal(size=(RANK, N_ITEMS))


def scorer_of(matrix: NDArray[np.float64]) -> CallableScorer:
    return CallableScorer(
        lambda pairs: [matrix[q, i] for q, i in pairs], version="matrix", limits=Limits(batch_size=999)
    )


def sparse(matrix: NDArray[np.float64], there: NDArray[np.bool_]) -> SparseScores:
    return SparseScores(*np.nonzero(there), matrix[there], matrix.shape)


def top(scores: NDArray[np.float64], k: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:k].tolist()


def test_anncur_predicts_c_pinv_s_r(matrix: NDArray[np.float64], rng: np.random.Generator) -> None:
    R, C = matrix[:N_BUILD], matrix[N_BUILD:]
    anchors = rng.choice(N_ITEMS, 12, replace=False)
    latent = pinv_latent(C[:, anchors], R[:, anchors])
    expected = C[:, anchors] @ np.linalg.pinv(R[:, anchors], rcond=1e-9) @ R
    np.testing.assert_allclose(latent @ R, expected, atol=1e-10)
    np.testing.assert_allclose(latent @ R, C, atol=1e-6)  # rank 6, seen through 12 anchors: nothing is lost


@pytest.mark.parametrize("t", [5, 40, 90], ids=["fewer anchors than queries", "as many", "more"])
def test_a_ridge_tends_to_the_pseudo_inverse_and_shrinks(rng: np.random.Generator, t: int) -> None:
    S, c = rng.normal(size=(40, t)), rng.normal(size=(1, t))
    gram = S.T @ S
    for ridge in (1e-9, 0.3):
        level = ridge * np.trace(gram) / t
        expected = (
            c @ np.linalg.solve(gram + level * np.eye(t), S.T)
            if t <= 40
            else c @ S.T @ np.linalg.inv(S @ S.T + level * np.eye(40))
        )
        np.testing.assert_allclose(pinv_latent(c, S, ridge=ridge), expected, rtol=1e-6, atol=1e-9)
    if t != 40:  # square, its inverse is too large for a ridge of 1e-9 to be small
        np.testing.assert_allclose(pinv_latent(c, S, ridge=1e-9), pinv_latent(c, S), rtol=1e-4, atol=1e-6)


def test_axn_is_ridge_least_squares(rng: np.random.Generator) -> None:
    V, c = rng.normal(size=(20, 5)), rng.normal(size=20)
    u = ridge_latent(c, V, ridge=0.7)
    padded = np.linalg.lstsq(np.r_[V, np.sqrt(0.7) * np.eye(5)], np.r_[c, np.zeros(5)], rcond=None)[0]
    np.testing.assert_allclose(u, padded, atol=1e-12)
    np.testing.assert_allclose(ridge_latent(c, V, ridge=0.0), np.linalg.lstsq(V, c, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize("t", [3, 30], ids=["fewer scores than features", "more"])
def test_the_posterior_is_that_of_the_gaussian_model(rng: np.random.Generator, t: int) -> None:
    phi, c, mean = rng.normal(size=(2, t, 8)), rng.normal(size=(2, t)), rng.normal(size=(2, 8))
    variance, noise = rng.uniform(0.1, 2.0, 8), 0.3
    c[1, 1] = np.nan
    actual = posterior_latent(c, phi, mean, variance, noise)
    for i, keep in enumerate([np.ones(t, bool), np.arange(t) != 1]):
        A = phi[i][keep]
        precision = A.T @ A / noise + np.diag(1 / variance)
        expected = np.linalg.solve(precision, A.T @ c[i][keep] / noise + mean[i] / variance)
        np.testing.assert_allclose(actual[i], expected, atol=1e-10)


def test_axn_is_the_posterior_without_embeddings_and_means(rng: np.random.Generator) -> None:
    V, c = rng.normal(size=(20, 5)), rng.normal(size=20)
    posterior = posterior_latent(c[None], V[None], np.zeros((1, 5)), np.ones(5), 0.7)
    np.testing.assert_allclose(posterior[0], ridge_latent(c, V, ridge=0.7), atol=1e-12)


def test_singular_factors_are_the_best_approximation(matrix: NDArray[np.float64]) -> None:
    left, factors = singular_factors(matrix, 4)
    u, s, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(left @ factors.T, (u[:, :4] * s[:4]) @ vt[:4], atol=1e-9)
    np.testing.assert_allclose((left**2).mean(axis=0), 1.0)
    assert singular_factors(matrix, 50)[1].shape == (N_ITEMS, RANK)
    np.testing.assert_allclose(np.matmul(*(a.T if i else a for i, a in enumerate(singular_factors(matrix.T, 4)))),
                               (left @ factors.T).T, atol=1e-9)  # fmt: skip


def test_alternating_least_squares_fills_in_a_low_rank_matrix(
    matrix: NDArray[np.float64], rng: np.random.Generator
) -> None:
    model = alternating_least_squares(
        sparse(matrix, rng.random(matrix.shape) < 0.6), rng.normal(size=(N_ITEMS, RANK + 4)), iterations=60
    )
    np.testing.assert_allclose(model.left @ model.factors.T, matrix, atol=0.01)
    # The factors that the scores do not need have died out.
    np.testing.assert_allclose(model.left.T @ model.left / len(matrix), np.diag([1.0] * RANK + [0.0] * 4), atol=1e-6)


def test_the_noise_and_the_number_of_factors_are_found(rng: np.random.Generator) -> None:
    truth = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 400))
    noisy, there = truth + 0.7 * rng.normal(size=truth.shape), rng.random(truth.shape) < 0.4
    model = alternating_least_squares(sparse(noisy, there), rng.normal(size=(400, 12)), iterations=30)
    assert model.noise == pytest.approx(0.49, rel=0.25)
    size = (model.factors**2).mean(axis=0)
    assert size[:3].min() > 20 * size[3:].max()
    unseen = (model.left @ model.factors.T - truth)[~there]
    assert unseen.std() < 0.45


def test_a_half_step_is_a_ridge_regression_for_every_row(rng: np.random.Generator) -> None:
    g, there = rng.normal(size=(30, 50)), rng.random((30, 50)) < np.linspace(0.0, 0.9, 50)  # columns of every length
    u, prior, ridge = rng.normal(size=(30, 3)), rng.normal(size=(50, 3)), np.array([0.1, 1.0, 5.0])
    v = sparse(g, there).by_column().solve(u, ridge, prior)
    for j in range(50):
        A, b = u[there[:, j]], g[there[:, j], j]
        np.testing.assert_allclose(
            v[j], np.linalg.solve(A.T @ A + np.diag(ridge), A.T @ b + ridge * prior[j]), atol=1e-10
        )


def test_an_item_without_scores_gets_what_its_features_say(rng: np.random.Generator) -> None:
    features = rng.normal(size=(300, 4))
    matrix = rng.normal(size=(40, 2)) @ (features @ rng.normal(size=(4, 2))).T
    there = rng.random(matrix.shape) < 0.3
    there[:, 200:] = False
    model = alternating_least_squares(
        sparse(matrix, there), rng.normal(size=(300, 2)), features=features, iterations=30
    )
    predicted = (model.left @ model.factors.T)[:, 200:]
    assert np.corrcoef(predicted.ravel(), matrix[:, 200:].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("method", ["anncur", "adacur", "axn", "auto"])
def test_every_method_recovers_exactly_low_rank_scores(matrix: NDArray[np.float64], method: str) -> None:
    index = CrossEncoderIndex.build(range(N_ITEMS), scorer_of(matrix), queries=range(N_BUILD), dense=True, rank=16)
    options = {"ridge": 0.0} if method == "axn" else {}
    queries = range(N_BUILD, N_BUILD + N_TEST)
    hits = index.search(queries, 10, budget=60, method=method, **options)  # type: ignore[arg-type]
    for found, exact in zip(hits, matrix[N_BUILD:], strict=True):
        assert [hit["corpus_id"] for hit in found] == top(exact, 10)
        assert [hit["score"] for hit in found] == exact[top(exact, 10)].tolist()


def test_adacur_equals_a_naive_implementation(matrix: NDArray[np.float64], rng: np.random.Generator) -> None:
    noisy = (matrix + 0.5 * rng.normal(size=matrix.shape)).astype(np.float32).astype(np.float64)
    first = rng.permutation(N_ITEMS)
    index = CrossEncoderIndex.build(
        range(N_ITEMS),
        scorer_of(noisy),
        queries=range(N_BUILD),
        dense=True,
        retriever=lambda queries, k: [first[:k]] * len(queries),
    )
    hits = index.search([N_BUILD], 30, budget=30, rounds=5, method="adacur")

    R, c = noisy[:N_BUILD], noisy[N_BUILD]
    anchors = first[:6].tolist()
    for _ in range(4):
        predicted = c[anchors] @ np.linalg.pinv(R[:, anchors]) @ R
        predicted[anchors] = -np.inf
        anchors += top(predicted, 6)
    assert {hit["corpus_id"] for hit in hits[0]} == set(anchors)
