"""pytorch-metric-learning's losses beside the originals: labels, lists, references, memory, reducers, ranks."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import distances, losses as original, miners, reducers, regularizers
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from accuracy import assert_as_accurate
from differential import assert_same, in_dtype, loss_and_gradients, no_stored_scores
from plain_torch import coarse, gradients
from simtile import _pair_lists
from simtile.integrations import metric_learning as ours

NAMES = ("NTXentLoss", "SupConLoss")

LABELS = {
    "classes": lambda B, rng: rng.integers(0, 4, B),
    "pairs": lambda B, rng: np.arange(B) % max(B // 2, 1),
    "unique": lambda B, rng: np.arange(B),
    "one class": lambda B, rng: np.zeros(B, dtype=np.int64),
    "one outsider": lambda B, rng: (np.arange(B) == 0).astype(np.int64),
    "fractions": lambda B, rng: rng.integers(0, 3, B) / 7,
}
REDUCERS = {
    "default": lambda: None,
    "sum": reducers.SumReducer,
    "threshold": lambda: reducers.ThresholdReducer(low=0.5, high=4.0),
    "average of non-zero": reducers.AvgNonZeroReducer,
    "class weights": lambda: reducers.ClassWeightedReducer(torch.linspace(0.5, 2.0, 40)),
    "by anchor": reducers.PerAnchorReducer,
}
DISTANCES = {
    "default": lambda: None,
    "inner product": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
    "unit rows": distances.DotProductSimilarity,
    "l1 norm": lambda: distances.DotProductSimilarity(p=1),
}
MINERS = {
    "none": lambda: None,
    "pairs": miners.MultiSimilarityMiner,
    "hardest triplets": miners.BatchHardMiner,
    "repeated pairs": lambda: miners.TripletMarginMiner(margin=0.3),
}


def embeddings(B, D, seed):
    """Rows of a length about 1: inner products are about as large as cosines, and losses far from saturation."""
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / D**0.5


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@pytest.mark.parametrize("name", NAMES)
@given(
    B=st.integers(1, 24),
    D=st.sampled_from([3, 5, 16]),
    labels=st.sampled_from(list(LABELS)),
    references=st.sampled_from([0, 1, 13]),
    temperature=st.sampled_from([0.3, 1.0]),
    reducer=st.sampled_from(list(REDUCERS)),
    distance=st.sampled_from(list(DISTANCES)),
    miner=st.sampled_from(list(MINERS)),
    regularized=st.booleans(),
)
def test_loss_and_every_gradient_equal_the_originals(
    name, stored, B, D, labels, references, temperature, reducer, distance, miner, regularized
):
    if reducer == "by anchor" and references:
        references = 0  # the reducer itself takes references for anchors
    if reducer == "class weights" and labels == "fractions":
        labels = "classes"  # it looks a label up as an index
    rng = np.random.default_rng(B)
    inputs = {"embeddings": embeddings(B, D, B)}
    fixed = {"labels": torch.from_numpy(LABELS[labels](B, rng))}
    if references:
        inputs["ref_emb"] = embeddings(references, D, references + 100)
        fixed["ref_labels"] = torch.from_numpy(LABELS[labels](references, rng))
    if (mine := MINERS[miner]()) is not None:
        with warnings.catch_warnings(action="ignore"):
            mined = mine(inputs["embeddings"], fixed["labels"], inputs.get("ref_emb"), fixed.get("ref_labels"))
        fixed["indices_tuple"] = mined

    def run(module):
        def loss(**tensors):
            made = getattr(module, name)(
                temperature=temperature,
                reducer=REDUCERS[reducer](),
                distance=DISTANCES[distance](),
                embedding_regularizer=regularizers.LpRegularizer() if regularized else None,
            )
            found = made(**tensors, **fixed)
            return found if found.requires_grad else found + 0 * tensors["embeddings"].sum()

        return loss

    rounded = in_dtype(inputs, torch.float32)
    exact = loss_and_gradients(run(original), in_dtype(rounded, torch.float64))
    for dtype in (torch.float32, torch.float64):
        with no_stored_scores(not stored):
            assert_same(loss_and_gradients(run(ours), in_dtype(rounded, dtype)), exact, dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", [[0, 0], [0, 1], [0], [0, 0, 0], [0, 1, 2]], ids=str)
def test_a_batch_without_a_pair_of_one_kind_has_the_originals_zero(name, labels):
    x = embeddings(len(labels), 3, 0).requires_grad_()
    found = [getattr(module, name)()(x, torch.tensor(labels)) for module in (ours, original)]
    assert found[0] == found[1] == 0
    assert torch.equal(*(torch.autograd.grad(part, x)[0] for part in found))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lists", [([0], [1], [0], [2]), ([0, 0], [1, 1], [0], [2]), ([], [], [0, 0], [2, 1])], ids=str)
def test_short_lists_and_repeated_pairs_count_as_in_the_original(name, lists):
    x = embeddings(4, 3, 1).requires_grad_()
    pairs = tuple(torch.tensor(part, dtype=torch.int64) for part in lists)
    found = [getattr(module, name)()(x, indices_tuple=pairs) for module in (ours, original)]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(*(torch.autograd.grad(part, x)[0] for part in found), rtol=1e-10, atol=1e-14)


def test_a_pair_that_is_positive_and_negative_is_an_error_as_in_the_original():
    pairs = tuple(torch.tensor(part) for part in ([0, 1], [1, 2], [0, 1], [1, 0]))
    for module in (ours, original):
        with pytest.raises(AssertionError, match="either be positive or negative"):
            module.SupConLoss()(embeddings(4, 3, 1), indices_tuple=pairs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("miner", "masked"), [("none", False), ("none", True), ("pairs", False)])
def test_cross_batch_memory_equals_the_original_over_several_steps(name, miner, masked):
    memories = [
        original.CrossBatchMemory(getattr(module, name)(), 5, memory_size=20, miner=MINERS[miner]())
        for module in (ours, original)
    ]
    mask = torch.tensor([True, False] * 4) if masked else None
    for step in range(5):  # the queue wraps around
        labels = torch.arange(8) % 3
        found = []
        for memory in memories:
            x = embeddings(8, 5, step).requires_grad_()
            loss = memory(x, labels, enqueue_mask=mask)
            found.append((loss, torch.autograd.grad(loss, x)[0]))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_collected_and_handed_to_the_reducer_is_the_originals(name):
    x, labels = embeddings(12, 5, 3), torch.arange(12) % 4
    kept, handed = [], []
    for module in (ours, original):
        reducer = reducers.ThresholdReducer(low=1.0, collect_stats=True)
        loss = getattr(module, name)(
            distance=distances.CosineSimilarity(collect_stats=True), reducer=reducer, collect_stats=True
        )
        loss(x, labels)
        kept.append(
            {
                attribute: getattr(part, attribute)
                for part in (loss.distance, loss.reducer)
                for attribute in part._record_these_stats
            }
        )
        handed.append(getattr(module, name)(reducer=reducers.DoNothingReducer())(x, labels)["loss"])
    assert kept[0].keys() == kept[1].keys()
    assert kept[0] == pytest.approx(kept[1])
    assert handed[0]["reduction_type"] == handed[1]["reduction_type"]
    torch.testing.assert_close(handed[0]["losses"], handed[1]["losses"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(handed[0]["indices"], handed[1]["indices"])


@pytest.mark.parametrize("name", NAMES)
def test_another_distance_is_left_to_the_original_with_one_warning(name):
    x, labels = embeddings(9, 4, 5), torch.arange(9) % 3
    mine = getattr(ours, name)(distance=distances.LpDistance(power=2))
    with pytest.warns(UserWarning, match=f"LpDistance.*{name}"):
        found = mine(x, labels)
    torch.testing.assert_close(found, getattr(original, name)(distance=distances.LpDistance(power=2))(x, labels))
    mine(x, labels)


def test_a_mean_over_pairs_that_are_not_listed_equals_the_listed_one(monkeypatch):
    x, labels = embeddings(30, 5, 6), torch.arange(30) % 3
    found = []
    for most in (0, 1 << 19):
        monkeypatch.setattr(ours, "LISTED_PAIRS", most)
        found.append(loss_and_gradients(lambda x: ours.NTXentLoss()(x, labels), {"x": x}))
    assert_same(found[0], found[1], torch.float64)


def test_a_hopeless_pair_keeps_its_loss_and_its_gradient():
    # e^-200 is no float32, where the original's loss ends at 87.3 and its gradient at 0.
    x = torch.tensor([[10.0, 0.0], [-10.0, 0.0], [10.0, 0.0]], requires_grad=True)
    pairs = tuple(torch.tensor(part) for part in ([0, 0], [1, 1], [0], [2]))
    loss = ours.NTXentLoss(temperature=1.0, distance=distances.DotProductSimilarity(normalize_embeddings=False))
    found = loss(x, indices_tuple=pairs)
    assert found.item() == pytest.approx(200.0)
    assert torch.autograd.grad(found, x)[0].abs().sum() > 0


@pytest.mark.parametrize("workspace", [64, 1 << 24], ids=["chunks", "whole"])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["products", "gathered"])
def test_scores_of_listed_pairs_are_those_of_the_whole_matrix(monkeypatch, rng, workspace, share):
    monkeypatch.setattr(_pair_lists, "WORKSPACE_BYTES", workspace)
    monkeypatch.setattr(_pair_lists, "GATHERED_SHARE", share)
    x, y = (torch.from_numpy(rng.normal(size=(rows, 3))).requires_grad_() for rows in (7, 9))
    rows, columns = torch.from_numpy(rng.integers(0, 7, 40)), torch.from_numpy(rng.integers(0, 9, 40))
    weight = torch.from_numpy(rng.normal(size=40))
    found, whole = _pair_lists.listed_scores(x, y, rows, columns), (x @ y.T)[rows, columns]
    torch.testing.assert_close(found, whole)
    mine, exact = (gradients((part * weight).sum(), [x, y]) for part in (found, whole))
    torch.testing.assert_close(mine, exact)

    rows = rows.clamp_min(1)  # the first row is empty, and its gradient zero
    found, whole = _pair_lists.listed_lse(x, y, 0.7, rows, columns), torch.full((7,), -torch.inf, dtype=torch.float64)
    scores = 0.7 * (x @ y.T)[rows, columns]
    lse = torch.stack([scores[rows == row].logsumexp(0) for row in range(1, 7)])
    torch.testing.assert_close(found, torch.cat([whole[:1], lse]))
    mine, exact = (gradients((part * weight[1:7]).sum(), [x, y]) for part in (found[1:], lse))
    torch.testing.assert_close(mine, exact)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["one missing", "one twice", "another order"])
def test_a_list_that_is_nearly_that_of_all_negatives_is_taken_as_it_is(name, change):
    x, labels = embeddings(9, 4, 7).requires_grad_(), torch.arange(9) % 3
    a1, p, a2, n = lmu.get_all_pairs_indices(labels)
    chosen = {
        "one missing": range(1, len(n)),
        "one twice": [*range(len(n) - 1), 0],
        "another order": range(-1, -10, -1),
    }
    chosen = torch.tensor(chosen[change])
    found = [
        getattr(module, name)()(x, labels, indices_tuple=(a1, p, a2[chosen], n[chosen])) for module in (ours, original)
    ]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-13)


def test_the_log_sum_exp_of_a_row_without_pairs_is_empty_and_has_no_gradient():
    scores = torch.tensor([1000.0, 999.0, -1000.0], requires_grad=True)
    found = _pair_lists.segment_lse(scores, torch.tensor([2, 2, 0]), 4)
    torch.testing.assert_close(found, torch.tensor([-1000.0, -torch.inf, 1000.3132617, -torch.inf]))
    (gradient,) = torch.autograd.grad(found[[0, 2]].sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([0.7310586, 0.2689414, 1.0]))


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_as_accurate_as_the_original(name):
    inputs, labels = {"embeddings": embeddings(33, 16, 8).bfloat16()}, torch.arange(33) % 5

    def run(library, inputs):
        return loss_and_gradients(lambda embeddings: getattr(library, name)()(embeddings, labels), inputs)

    exact = run(original, in_dtype(inputs, torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = (run(library, in_dtype(inputs, torch.float32)) for library in (ours, original))
    for part, truth in exact.items():
        size = float(truth.abs().max()) * coarse(torch.bfloat16)
        assert_as_accurate(mine[part], theirs[part], truth.numpy(), magnitude=size)


def test_deepcopies_and_printed_forms_work_as_the_originals():
    for name in NAMES:
        mine = getattr(ours, name)(temperature=0.3)
        assert repr(copy.deepcopy(mine)) == repr(getattr(original, name)(temperature=0.3))
