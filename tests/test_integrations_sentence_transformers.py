"""sentence-transformers' in-batch losses beside the originals: every option, real training steps, wrappers."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st

pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer import losses as original
from sentence_transformers.util import cos_sim, dot_score, euclidean_sim

from accuracy import assert_as_accurate
from differential import assert_same, in_dtype, loss_and_gradients, no_stored_scores
from plain_torch import coarse
from simtile.integrations import sentence_transformers as ours
from tiny_sentence_model import WIDTH, Given, sentence_model

DIRECTIONS = ("query_to_query", "doc_to_query", "doc_to_doc")
MODES = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


def columns(B, D, count, seed=0):
    """(count) columns of rows of a length about 1: anchors, partners at a cosine of about 0.7, unrelated negatives."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(B, D, generator=generator, dtype=torch.float64) / D**0.5 for _ in range(count)]
    rows[1] = (rows[0] + rows[1]) / 2**0.5
    return {f"column{number}": part.float() for number, part in enumerate(rows)}


@st.composite
def ranking_options(draw):
    directions = draw(st.sets(st.sampled_from(DIRECTIONS)))
    partitions = ["joint"] if directions & {"query_to_query", "doc_to_doc"} else ["joint", "per_direction"]
    return {
        "scale": draw(st.sampled_from([1.0, 7.0])),
        "similarity_fct": draw(st.sampled_from([cos_sim, dot_score])),
        "directions": ("query_to_doc", *sorted(directions)),
        "partition_mode": draw(st.sampled_from(partitions)),
        "hardness_mode": draw(st.sampled_from(MODES)),
        "hardness_strength": draw(st.sampled_from([0.5, 4.0])),
    }


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@given(B=st.integers(2, 30), D=st.sampled_from([3, 8, 17]), negatives=st.integers(0, 2), options=ranking_options())
def test_ranking_loss_and_every_gradient_equal_the_originals(stored, B, D, negatives, options):
    inputs = columns(B, D, 2 + negatives, B)

    def run(module):
        loss = module.MultipleNegativesRankingLoss(None, **options)
        return lambda **tensors: loss.compute_loss_from_embeddings(list(tensors.values()), None)

    exact = loss_and_gradients(run(original), in_dtype(inputs, torch.float64))
    for dtype in (torch.float32, torch.float64):
        with no_stored_scores(not stored):
            found = loss_and_gradients(run(ours), in_dtype(inputs, dtype))
        assert found["loss"].dtype == dtype
        assert_same(found, exact, dtype)


@pytest.mark.parametrize("directions", [(), DIRECTIONS], ids=["one direction", "all directions"])
@pytest.mark.parametrize("negatives", [0, 1])
def test_a_single_pair_has_the_originals_loss(directions, negatives):
    embeddings = list(in_dtype(columns(1, 4, 2 + negatives), torch.float64).values())
    found = [
        module.MultipleNegativesRankingLoss(
            None, scale=2.0, directions=("query_to_doc", *directions)
        ).compute_loss_from_embeddings(embeddings, None)
        for module in (ours, original)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two encoders of the same tokens, and one of others."""
    folders = [tmp_path_factory.mktemp(name) for name in ("model", "guide", "foreign")]
    foreign = ("bird", "a", "red", "green", "small", "large", "stone", "river", "sleeps", "shines", "runs", "over")
    return {
        "model": sentence_model(folders[0]),
        "guide": sentence_model(folders[1], seed=1),
        "foreign guide": sentence_model(folders[2], seed=2, words=foreign),
    }


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@given(
    B=st.integers(2, 24),
    D=st.sampled_from([3, 8]),
    negatives=st.integers(0, 2),
    temperature=st.sampled_from([0.2, 1.0]),
    options=st.fixed_dictionaries(
        {
            "margin_strategy": st.sampled_from(["absolute", "relative"]),
            "margin": st.sampled_from([-0.4, 0.0, 0.1, 0.6]),
            "contrast_anchors": st.booleans(),
            "contrast_positives": st.booleans(),
        }
    ),
)
def test_guided_loss_and_every_gradient_equal_the_originals(stored, B, D, negatives, temperature, options):
    model, guide = Given("embedding"), Given("guide")
    inputs, guides = columns(B, D, 2 + negatives, B), columns(B, 6, 2 + negatives, B + 1)

    def run(module, dtype):
        def loss(**tensors):
            seen = [part.to(dtype) for part in guides.values()]
            if negatives < 2:
                made = module.GISTEmbedLoss(model, guide, temperature=temperature, **options)
                features = zip(tensors.values(), seen, strict=True)
                return made([{"embedding": mine, "guide": other} for mine, other in features], None)
            made = module.CachedGISTEmbedLoss(model, guide, temperature=temperature, mini_batch_size=5, **options)
            return made.calculate_loss(*([list(part.split(7)) for part in side] for side in (tensors.values(), seen)))

        return loss

    exact = loss_and_gradients(run(original, torch.float64), in_dtype(inputs, torch.float64))
    for dtype in (torch.float32, torch.float64):
        with no_stored_scores(not stored):
            assert_same(loss_and_gradients(run(ours, dtype), in_dtype(inputs, dtype)), exact, dtype)


def test_a_copy_of_the_positive_is_as_similar_to_the_guide_and_stays_a_candidate():
    inputs = columns(6, 32, 2)
    guide = torch.nn.functional.normalize(columns(6, 33, 2)["column1"])
    guide[3] = guide[1]  # exactly as similar to anchor 1 as its positive is
    features = [
        {"embedding": inputs["column0"], "guide": columns(6, 33, 2)["column0"]},
        {"embedding": inputs["column1"], "guide": guide},
    ]
    found = [
        module.GISTEmbedLoss(Given("embedding"), Given("guide"), temperature=0.5)(features, None)
        for module in (ours, original)
    ]
    torch.testing.assert_close(*found)


TEXTS = (
    ("a red bird", "green stone", "small river runs", "large bird sleeps", "a stone", "river over stone"),
    ("red bird sleeps", "a green stone shines", "river runs", "large bird", "small stone", "river runs over stone"),
    ("green river", "large bird runs", "a small bird", "red stone", "river shines", "a bird over a river"),
)
WRAPPED = {
    "ranking": lambda m, module, guide: module.MultipleNegativesRankingLoss(m),
    "cached ranking": lambda m, module, guide: module.CachedMultipleNegativesRankingLoss(
        m, mini_batch_size=4, directions=("query_to_doc", "doc_to_query"), hardness_mode="all_negatives",
        hardness_strength=2.0,
    ),
    "guided": lambda m, module, guide: module.GISTEmbedLoss(m, guide, temperature=0.1),
    "cached guided": lambda m, module, guide: module.CachedGISTEmbedLoss(m, guide, temperature=0.1, mini_batch_size=4),
}  # fmt: skip


def trained(model, loss, steps=2):
    """Losses of a few steps of gradient descent, and the weights after them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for _ in range(steps):
        value = loss([model.preprocess(list(column)) for column in TEXTS], None)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.detach())
    return found, [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("matryoshka", [False, True], ids=["plain", "in MatryoshkaLoss"])
@pytest.mark.parametrize("name", WRAPPED)
def test_a_model_trained_with_the_drop_in_is_the_one_trained_with_the_original(models, name, matryoshka):
    found = []
    for module in (ours, original):
        model = copy.deepcopy(models["model"]).double().train()
        loss = WRAPPED[name](model, module, models["guide"])
        if matryoshka:
            loss = original.MatryoshkaLoss(model, loss, [WIDTH, 8, 4], matryoshka_weights=[1.0, 0.5, 2.0])
        found.append(trained(model, loss))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "tiles"])
@pytest.mark.parametrize("per_step", [-1, 2])
@given(
    B=st.integers(2, 30),
    negatives=st.integers(0, 2),
    similarity=st.sampled_from([cos_sim, dot_score]),
    symmetric=st.booleans(),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=15)
def test_prefixes_in_one_sweep_equal_the_originals(stored, per_step, B, negatives, similarity, symmetric, mode):
    inputs = columns(B, 12, 2 + negatives, B)
    options = {"scale": 3.0, "similarity_fct": similarity, "hardness_mode": mode, "hardness_strength": 1.5}
    if symmetric:
        options |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    model = Given("embedding")

    def run(module):
        inner = module.MultipleNegativesRankingLoss(model, **options)
        loss = module.MatryoshkaLoss(model, inner, [5, 12, 4], [0.5, 1.0, 2.0], n_dims_per_step=per_step)

        def seeded(**tensors):
            random.seed(7)
            return loss([{"embedding": part} for part in tensors.values()], None)

        return seeded

    exact = loss_and_gradients(run(original), in_dtype(inputs, torch.float64))
    for dtype in (torch.float32, torch.float64):
        with no_stored_scores(not stored):
            assert_same(loss_and_gradients(run(ours), in_dtype(inputs, dtype)), exact, dtype)


def test_matryoshka_loss_around_other_losses_is_the_originals(models):
    for make in WRAPPED.values():
        found = []
        for module in (ours, original):
            model = copy.deepcopy(models["model"]).double().train()
            loss = module.MatryoshkaLoss(model, make(model, module, models["guide"]), [WIDTH, 8])
            assert loss.get_config_dict()["matryoshka_dims"] == (WIDTH, 8)
            found.append(trained(model, loss))
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_a_guide_of_other_tokens_reads_the_same_texts(models):
    found = []
    for module in (ours, original):
        model = copy.deepcopy(models["model"]).double().train()
        loss = module.GISTEmbedLoss(model, models["foreign guide"])
        assert loss.must_retokenize
        found.append(trained(model, loss, steps=1))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_evaluation_without_gradients_gives_the_same_loss(models):
    features = [models["model"].preprocess(list(column)) for column in TEXTS]
    for make in WRAPPED.values():
        with torch.no_grad():
            found = [make(models["model"], module, models["guide"])(features, None) for module in (ours, original)]
        torch.testing.assert_close(*found)
        assert not found[0].requires_grad


def test_what_the_library_reads_off_a_loss_is_the_originals(models):
    for make in WRAPPED.values():
        mine, theirs = (make(models["model"], module, models["guide"]) for module in (ours, original))
        assert type(mine).__name__ == type(theirs).__name__
        assert mine.get_config_dict() == theirs.get_config_dict()
        assert mine.model is models["model"]
        for attribute in ("citation", "temperature", "uses_gradient_cache"):
            assert getattr(mine, attribute, None) == getattr(theirs, attribute, None)


def test_another_similarity_is_left_to_the_original_with_one_warning():
    embeddings = list(columns(7, 4, 3).values())
    mine = ours.MultipleNegativesRankingLoss(None, similarity_fct=euclidean_sim)
    with pytest.warns(UserWarning, match="similarity_fct=euclidean_sim"):
        found = mine.compute_loss_from_embeddings(embeddings, None)
    theirs = original.MultipleNegativesRankingLoss(None, similarity_fct=euclidean_sim)
    torch.testing.assert_close(found, theirs.compute_loss_from_embeddings(embeddings, None))
    mine.compute_loss_from_embeddings(embeddings, None)


def test_wrong_numbers_of_columns_are_errors_as_in_the_original(models):
    one = [models["model"].preprocess(list(TEXTS[0]))]
    with pytest.raises(ValueError, match="Expected at least 2 embeddings, got 1"):
        ours.MultipleNegativesRankingLoss(models["model"])(one, None)
    with pytest.raises(ValueError, match="Expected 2 or 3 embeddings, got 1"):
        ours.GISTEmbedLoss(models["model"], models["guide"])(one, None)


def test_16_bit_embeddings_are_compared_in_float32_as_in_the_original():
    embeddings = [part.bfloat16() for part in columns(9, 8, 2).values()]
    found = [
        module.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(embeddings, None)
        for module in (ours, original)
    ]
    torch.testing.assert_close(*found)


def test_under_autocast_as_accurate_as_the_original():
    inputs = {name: part.bfloat16() for name, part in columns(33, 16, 2).items()}

    def run(library, inputs):
        loss = library.MultipleNegativesRankingLoss(None, directions=("query_to_doc", "doc_to_query"))
        return loss_and_gradients(lambda **e: loss.compute_loss_from_embeddings(list(e.values()), None), inputs)

    exact = run(original, in_dtype(inputs, torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = (run(library, in_dtype(inputs, torch.float32)) for library in (ours, original))
    for part, truth in exact.items():
        size = float(truth.abs().max()) * coarse(torch.bfloat16)
        assert_as_accurate(mine[part], theirs[part], truth.numpy(), magnitude=size)


def test_the_librarys_trainer_takes_the_drop_in(models, tmp_path):
    pytest.importorskip("accelerate")
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    data = datasets.Dataset.from_dict(dict(zip(("anchor", "positive", "negative"), TEXTS, strict=True)))
    logged = []
    for module in (ours, original):
        model = copy.deepcopy(models["model"])
        arguments = SentenceTransformerTrainingArguments(
            output_dir=tmp_path, max_steps=2, per_device_train_batch_size=6, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True, seed=3,
        )  # fmt: skip
        loss = module.MultipleNegativesRankingLoss(model)
        with warnings.catch_warnings(action="ignore"):
            trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss)
            trainer.train()
        logged.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert "MultipleNegativesRankingLoss" in model.model_card_data.to_dict()["tags"][-1]
    assert len(logged[0]) == 2
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)
