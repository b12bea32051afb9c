"""The examples on the pages of the losses run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (
    "amcl", "cached_loss", "clip_rocket", "cmim", "contrastive_gap", "cwcl", "dcl", "deep_boosting",
    "distillation_loss", "filtered_info_nce", "focal_info_nce", "gated_info_nce", "hcl", "info_nce",
    "late_interaction", "layers", "listwise", "margin_info_nce", "matryoshka_2d", "meta_contrast", "mixing",
    "momentum_queue", "multi_positive", "multitask", "nt_xent", "progressive_info_nce", "score_losses",
    "sigmoid_loss", "sup_con", "swav", "targets", "word_repetition",
)  # fmt: skip
B, K, D, E = 12, 4, 8, 5


def names() -> dict[str, object]:
    """What the examples take as given."""
    learnt = ("view_a", "view_b", "embeddings", "speech", "text", "image", "query", "key", "x", "y")
    frozen = (
        "text_features", "image_features", "guide_query", "guide_key", "teacher_image", "teacher_text", "features",
        "images", "texts",
    )  # fmt: skip
    return {
        **{name: torch.randn(B, D).requires_grad_() for name in learnt},
        **{name: torch.randn(B, D) for name in frozen},
        **{name: torch.nn.Linear(D, 256) for name in ("encoder", "key_encoder", "image_tower", "text_tower")},
        "torch": torch, "B": B, "K": K, "D": D, "hard": torch.randn(B, K, D), "labels": torch.arange(B) // 3,
        "cluster_of_item": torch.arange(B) // 3, "bank": torch.randn(20, D), "bank_labels": torch.arange(20) // 4,
        "documents": torch.randn(20, D), "indptr": torch.arange(B + 1), "indices": torch.arange(B),
        "batches": [torch.randn(B, D)] * 2, "augment": lambda images: images + 0.1,
        **{name: torch.randn(B, K, D) for name in ("candidates", "positives", "rewrites")},
        **{name: torch.randn(B, K, D) for name in ("query_tokens", "target_tokens")},
        **{name: torch.randn(B, K) for name in ("reward", "teacher_margin")}, "classes": torch.arange(B),
        **{name: torch.rand(B) for name in ("item_scores", "relevance", "grades")}, "positive": torch.randn(B, D),
        **{name: torch.rand(B, B) for name in ("scores", "errors")}, "document_indptr": torch.tensor([0, 3, 4, 20]),
        **{name: torch.nn.Linear(D, 256) for name in ("first", "second")},
        **{name: torch.utils.data.TensorDataset(torch.randn(300, D)) for name in ("retrieval", "graded")},
        "tokens": torch.randn(B, D), "document_tokens": torch.randn(20, D),
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        found = names()
        exec(compile(block, page, "exec"), found)
        if "loss" in found:
            assert torch.isfinite(found["loss"])
