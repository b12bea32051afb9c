"""Views, whitened patches, edits, score maps and correspondences against their equations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from loss_checks import LargestTensor
from simtile.evaluation.correspondence import correlation_volume, soft_argmax
from simtile.evaluation.hyperplane import edit_scores, project, separating_hyperplane
from simtile.evaluation.patches import patch_distances
from simtile.evaluation.score_maps import masked_mass, score_map, score_map_loss
from simtile.evaluation.views import entropy, marginal_entropy, select_views
from simtile.evaluation.whitening import Whitener


def double(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape))


def test_entropy_is_that_of_the_softmax_at_any_scale(rng):
    logits = double(rng, 5, 7)
    for scale in (1e-6, 1.0, 30.0):
        p = torch.softmax(scale * logits, -1)
        torch.testing.assert_close(entropy(scale * logits), -torch.special.xlogy(p, p).sum(-1))
    assert entropy(torch.tensor([1e4, 0.0, -torch.inf])).item() == 0.0
    assert torch.autograd.gradcheck(entropy, logits.requires_grad_())


def test_marginal_entropy_is_that_of_the_mean_prediction(rng):
    logits = double(rng, 2, 6, 4).requires_grad_()
    p = torch.softmax(logits, -1).mean(-2)
    torch.testing.assert_close(marginal_entropy(logits), -(p * p.log()).sum(-1))
    assert torch.autograd.gradcheck(marginal_entropy, logits)


def test_views_are_selected_as_the_authors_do(rng):
    """Their three steps, spelled out: 0.8 of the others by cosine of logits, with the original, 0.3 of those."""
    logits = double(rng, 31, 10)
    cosines = torch.stack([F.cosine_similarity(logits[0], other, dim=0) for other in logits[1:]])
    near = torch.cat([torch.tensor([0]), cosines.argsort(descending=True)[:24] + 1])
    p = torch.softmax(logits[near], 1)
    want = near[(-(p * p.log()).sum(1)).argsort()[:7]]
    assert select_views(logits).tolist() == want.tolist()
    assert select_views(logits[:1]).tolist() == [0]
    assert select_views(logits, similar=0.0, confident=1.0).tolist() == [0]
    with pytest.raises(ValueError, match="similar, confident"):
        select_views(logits, confident=0.0)
    with pytest.raises(ValueError, match="logits: shape"):
        marginal_entropy(logits[0])


def test_whitening_is_scikit_learns_between_two_normalisations(rng):
    x, new = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12)), rng.normal(size=(5, 12))
    pca = PCA(6, whiten=True, svd_solver="full").fit(x / np.linalg.norm(x, axis=1, keepdims=True))
    white = pca.transform(new / np.linalg.norm(new, axis=1, keepdims=True))
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    whitener = Whitener(6).fit(x)
    got = whitener(new)
    np.testing.assert_allclose(np.abs(got), white**2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(Whitener(6, power=1.0).fit(x)(new), np.sign(got) * np.sqrt(np.abs(got)), atol=1e-9)
    for run, message in (
        (lambda: Whitener(0), "n_components: at least 1"),
        (lambda: Whitener(2, power=0.0), "power: above 0"),
        (lambda: Whitener(9).fit(x[:5]), "n_components: at most 4"),
        (lambda: Whitener(2)(x), "fit the Whitener first"),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_patch_distances_are_the_mean_of_the_nearest(rng, monkeypatch):
    q, r = rng.normal(size=(9, 4)), rng.normal(size=(14, 4))
    starts, ends = np.array([0, 2, 3, 9]), np.array([0, 5, 6, 14])
    far = np.linalg.norm(q[:, None] - r[None], axis=2)
    want = [[far[a:b, c:d].min(1).mean() for c, d in itertools.pairwise(ends)] for a, b in itertools.pairwise(starts)]
    np.testing.assert_allclose(patch_distances(q, starts, r, ends), want, rtol=1e-12)
    monkeypatch.setattr("simtile.evaluation.patches.BLOCK_BYTES", 8 * 14 * 2)
    np.testing.assert_allclose(patch_distances(q, starts, r, ends), want, rtol=1e-12)
    np.testing.assert_allclose(patch_distances(q, starts, q, starts).diagonal(), 0, atol=1e-7)
    with pytest.raises(ValueError, match="item_indptr: offsets"):
        patch_distances(q, starts, r, starts)


def test_a_projection_is_the_nearest_point_of_the_plane(rng):
    w, x = rng.normal(size=5), rng.normal(size=(20, 5))
    moved = project(x, w, 0.7)
    np.testing.assert_allclose(moved @ w + 0.7, 0, atol=1e-12)
    np.testing.assert_allclose(project(moved, w, 0.7), moved, atol=1e-12)
    along = (x - moved) - np.outer((x - moved) @ w, w) / (w @ w)
    np.testing.assert_allclose(along, 0, atol=1e-12)
    with pytest.raises(ValueError, match="w: shape"):
        project(x, w[:3], 0.0)


def test_the_plane_parts_the_attributes_and_its_projection_scores_best(rng):
    source, target = rng.normal(size=(12, 6)) + 2, rng.normal(size=(9, 6)) - 2
    w, b = separating_hyperplane(source, target)
    assert (source @ w + b < 0).all() and (target @ w + b > 0).all()
    aim = project(source, w, b)
    np.testing.assert_allclose(edit_scores(3 * aim, source, w, b), 1, rtol=1e-12)
    assert (edit_scores(source, source, w, b) < 1).all()


def test_score_maps_are_cosines_and_their_loss_is_the_cross_entropy_per_pixel(rng):
    pixels, text = double(rng, 2, 5, 3, 4).requires_grad_(), double(rng, 7, 5).requires_grad_()
    want = torch.einsum("bchw,kc->bkhw", F.normalize(pixels, dim=1), F.normalize(text, dim=1))
    torch.testing.assert_close(score_map(pixels, text), want)
    own = torch.stack([text, -text])
    torch.testing.assert_close(score_map(pixels, own), torch.stack([want[0], -want[1]]))
    labels = torch.from_numpy(rng.integers(-1, 7, (2, 3, 4)))
    dense = F.cross_entropy(want / 0.07, labels, ignore_index=-1)
    fused = score_map_loss(pixels, text, labels)
    torch.testing.assert_close(fused, dense)
    for a, b in zip(*(torch.autograd.grad(loss, [pixels, text]) for loss in (fused, dense)), strict=True):
        torch.testing.assert_close(a, b)
    for run, message in (
        (lambda: score_map(pixels[0], text), "pixels: shape"),
        (lambda: score_map(pixels, text[:, :3]), r"text: shape \(K, 5\)"),
        (lambda: score_map_loss(pixels, text, labels * 0 - 1), "labels: at least one pixel"),
        (lambda: score_map_loss(pixels, text, labels[0]), "labels: shape"),
        (lambda: score_map_loss(pixels, own, labels), r"text: shape \(K, C\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_the_mass_in_a_region_is_the_sum_of_its_attention(rng):
    query, key = double(rng, 4, 5).requires_grad_(), double(rng, 9, 5).requires_grad_()
    region = torch.from_numpy(rng.random(9) < 0.4)
    attention = torch.softmax(2.0 * query @ key.T, 1)
    got = masked_mass(query, key, region, scale=2.0)
    torch.testing.assert_close(got, attention[:, region].sum(1))
    for a, b in zip(
        *(torch.autograd.grad(s.sum(), [query, key]) for s in (got, attention[:, region].sum(1))), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    outside = torch.tensor([0, 2, 2, 3, 4]), torch.tensor([1, 4, 0, 8])
    kept = torch.ones(4, 9, dtype=torch.bool)
    kept[[0, 0, 2, 3], [1, 4, 0, 8]] = False
    torch.testing.assert_close(masked_mass(query, key, outside, scale=2.0), (attention * kept).sum(1))
    assert (masked_mass(query, key, torch.zeros(9, dtype=torch.bool)) == 0).all()
    with pytest.raises(ValueError, match="region: bool"):
        masked_mass(query, key, region[:3])


@pytest.mark.parametrize("chunk", [None, 5])
def test_soft_argmax_is_the_expectation_under_the_volume(rng, chunk):
    source, target = double(rng, 6, 4, 5).requires_grad_(), double(rng, 6, 3, 7).requires_grad_()
    volume = correlation_volume(source, target)
    assert volume.shape == (4, 5, 3, 7) and (volume >= 0).all()
    p = torch.softmax(volume.flatten(2) / 0.05, 2)
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(7.0)).double()
    got = soft_argmax(source, target, temperature=0.05, chunk=chunk)
    torch.testing.assert_close(got, p @ grid)
    for a, b in zip(*(torch.autograd.grad((flow**2).sum(), [source, target]) for flow in (got, p @ grid)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_gradchecks_of_maps_masses_and_flows(rng):
    pixels, text, query, key = (
        double(rng, *shape).requires_grad_() for shape in ((1, 3, 2, 2), (4, 3), (2, 3), (5, 3))
    )  # fmt: skip
    source, target = (double(rng, *shape).requires_grad_() for shape in ((4, 2, 2), (4, 2, 3)))
    labels, region = torch.tensor([[[0, 3], [-1, 1]]]), torch.tensor([True, False, True, True, False])
    check = torch.autograd.gradcheck
    assert check(lambda x, t: score_map_loss(x, t, labels, temperature=0.5), [pixels, text])
    assert check(lambda q, k: masked_mass(q, k, region, scale=1.5), [query, key])
    assert check(lambda a, b: soft_argmax(a, b, temperature=0.5, chunk=3), [source, target])


def test_neither_volume_nor_map_is_stored():
    """48 x 48 positions have a volume of 5.3 million numbers; 9,216 pixels and 1,000 texts a map of 9.2 million."""
    source, target = (torch.randn(16, 48, 48, requires_grad=True) for _ in range(2))
    with LargestTensor() as largest:
        soft_argmax(source, target, chunk=100).sum().backward()
    assert largest.elements < 600_000
    pixels, text = torch.randn(4, 16, 48, 48, requires_grad=True), torch.randn(1_000, 16, requires_grad=True)
    with LargestTensor() as largest:
        score_map_loss(pixels, text, torch.randint(1_000, (4, 48, 48))).backward()
        masked_mass(pixels[0].flatten(1).T, pixels[1].flatten(1).T, torch.arange(2_304) < 9).sum().backward()
    assert largest.elements < 4_200_000


def test_soft_argmax_counts_beyond_what_bfloat16_can():
    x = torch.zeros(2, 1, 300, dtype=torch.bfloat16)
    x[0, 0, 299], x[1, 0, :299] = 1.0, 1.0
    flow = soft_argmax(x[:, :, 299:], x, temperature=0.01)
    torch.testing.assert_close(flow, torch.tensor([[[0.0, 299.0]]]), atol=1e-2, rtol=0)


def test_soft_argmax_finds_where_everything_went():
    x = torch.eye(12).view(12, 3, 4)
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    flow = soft_argmax(x, x.roll((1, 1), (1, 2)))
    torch.testing.assert_close(flow, torch.stack([(rows + 1) % 3, (columns + 1) % 4], 2), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="target: 12 channels"):
        soft_argmax(x, x[:3])
    with pytest.raises(ValueError, match="temperature: above 0"):
        soft_argmax(x, x, temperature=0.0)
