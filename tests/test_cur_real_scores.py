"""The engine on scores of a real cross-encoder: the first blocks of the matrix in benches/data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, Report, evaluate

pytest.importorskip("tokenizers")
BENCHES = Path(__file__).parents[1] / "benches"
sys.path.insert(0, str(BENCHES))

import cross_encoder_data  # noqa: E402

N_BUILD, N_ROWS = 24, 48


@pytest.fixture(scope="module")
def matrix() -> cross_encoder_data.CrossEncoderMatrix:
    return cross_encoder_data.load_matrix()


@pytest.fixture(scope="module")
def report(matrix: cross_encoder_data.CrossEncoderMatrix) -> Report:
    scores = matrix.scores[:N_ROWS].astype(np.float64)
    scorer = CallableScorer(
        lambda pairs: [scores[q, i] for q, i in pairs], version="rows", limits=Limits(batch_size=9999)
    )
    index = CrossEncoderIndex.build(
        range(scores.shape[1]),
        scorer,
        queries=range(N_BUILD),
        query_embeddings=matrix.query_embeddings[:N_BUILD],
        item_embeddings=matrix.item_embeddings,
        dense=True,
    )
    return evaluate(
        index,
        range(N_BUILD, N_ROWS),
        scores[N_BUILD:],
        query_embeddings=matrix.query_embeddings[N_BUILD:N_ROWS],
        methods=("rerank", "auto"),
        budgets=(200,),
        ks=(10, 100),
    )


def test_every_finished_block_has_its_checksum(matrix: cross_encoder_data.CrossEncoderMatrix) -> None:
    job = json.loads((cross_encoder_data.FOLDER / "job.json").read_text())
    blocks = cross_encoder_data.finished_blocks(job)
    assert len(blocks) == len(list(cross_encoder_data.FOLDER.glob("block-*.npy"))) >= N_ROWS // 8
    assert sorted(blocks)[: N_ROWS // 8] == list(range(N_ROWS // 8))
    assert matrix.scores.shape == (8 * len(blocks), 2500) and np.isfinite(matrix.scores).all()
    # A query's own function is among the best tenth of a per cent far more often than by chance.
    own = matrix.scores[np.arange(len(matrix.scores)), matrix.partner]
    ranks = (matrix.scores > own[:, None]).sum(axis=1)
    assert (ranks < 25).mean() > 0.5


@pytest.mark.parametrize("target", ["raw", "centred"])
@pytest.mark.parametrize("k", [10, 100])
def test_auto_is_no_worse_than_reranking_and_beats_popularity(report: Report, target: str, k: int) -> None:
    key = (target, 200, k, "auto")
    gain, error = report.gain(key, "rerank")  # type: ignore[arg-type]
    assert gain >= -error
    for control in ("popularity", "half_and_half"):
        gain, error = report.gain(key, control)  # type: ignore[arg-type]
        assert gain > error
