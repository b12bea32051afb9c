"""Docstrings search functions: hubs corrected, thresholds per query, a second opinion, few calls of a costly scorer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simtile.cur import CallableScorer, CrossEncoderIndex, Limits, MaxSimScorer, evaluate
from simtile.hubness import HubnessReducer, hubness_report, ranks_in_lists, retrieval_report
from simtile.hubness.cosine_adapter import CosineAdapter
from simtile.hubness.cutoff import choose_threshold, cut
from simtile.recipes.claim import Outcome
from simtile.recipes.code_vectors import code_vectors, token_vectors
from simtile.search import ExactIndex

Floats = NDArray[np.floating]


def dbnorm(*, max_pairs: int, beta: float, beta_gallery: float) -> Outcome:
    """recall@10 with DualIS: a bank of other docstrings, a bank of functions of other modules."""
    pairs = code_vectors(max_pairs)
    asked, truth = pairs.query[::2], np.arange(0, len(pairs.query), 2)
    reducers = {
        "raw cosine": None,
        "inverted softmax": HubnessReducer("inverted_softmax", beta=beta),
        "DualIS": HubnessReducer("dual_is", beta=beta, beta_gallery=beta_gallery),
        "DualDIS, the paper's parameters": HubnessReducer.from_paper("dual_dis"),
    }
    table, recalls = {}, {}
    for name, reducer in reducers.items():
        if reducer is None:
            _, ids = ExactIndex(pairs.code, metric="cosine").search(asked, 10)
        else:
            other = pairs.other_code if "Dual" in name else None
            reducer.fit(pairs.code, query_bank=pairs.query[1::2], gallery_bank=other)
            _, ids = reducer.search(asked, 10)
        recalls[name] = retrieval_report(ranks_in_lists(ids, truth)).recall_at[10]
        table[f"recall@10, {name}"] = recalls[name]
        table[f"skewness of k-occurrence, {name}"] = hubness_report(ids, len(pairs.code)).skewness
    return Outcome(recalls["DualIS"], recalls["raw cosine"], table)


def cosadapter(*, max_pairs: int, k: int, epochs: int, seed: int) -> Outcome:
    """Average precision of "relevant" over all queries' results together, by probability and by raw cosine."""
    pairs = code_vectors(max_pairs)
    scores, ids = ExactIndex(pairs.code, metric="cosine").search(pairs.query, k)
    relevant = ids == np.arange(len(ids))[:, None]
    train = np.arange(len(ids)) % 2 == 0
    unit = pairs.query / np.linalg.norm(pairs.query, axis=1, keepdims=True)
    queries, cosines, labels = (torch.from_numpy(part) for part in (unit, scores, relevant.astype(np.float32)))
    torch.manual_seed(seed)
    adapter = CosineAdapter(unit.shape[1])
    adapter.fit(queries[train], cosines[train], labels[train], epochs=epochs, batch=32, seed=seed)
    with torch.no_grad():
        mapped = adapter(queries, cosines).double().numpy()
    test = ~train
    found = {}
    for name, values in (("raw cosine", scores), ("adapted", mapped)):
        found[name] = _average_precision(values[test], relevant[test])
        threshold = choose_threshold(values[train], relevant[train])
        found[f"F1 at the threshold of the training queries, {name}"] = _f1(values[test], relevant[test], threshold)
    return Outcome(found["adapted"], found["raw cosine"], found)


def rs_rerank(*, max_pairs: int, queries: int, candidates: int, most: int, seed: int) -> Outcome:
    """F1 of what is kept: candidates by cosine, scored again by late interaction, up to ``most`` above a threshold."""
    pairs = code_vectors(max_pairs)
    asked = np.random.default_rng(seed).choice(len(pairs.query), queries, replace=False)
    scores, ids = ExactIndex(pairs.code, metric="cosine").search(pairs.query[asked], candidates)
    opinion = MaxSimScorer(version="word vectors")
    tokens = {int(j): token_vectors(pairs.code_tokens, int(j)) for j in np.unique(ids)}
    again = np.empty(scores.shape)
    for row, query in enumerate(asked):
        words = token_vectors(pairs.query_tokens, int(query))
        again[row] = np.array(opinion.score([(words, tokens[int(j)]) for j in ids[row]])) / len(words)
    order = np.argsort(-again, axis=1, kind="stable")
    lists = {
        "cosine": (scores, ids),
        "scored again": (np.take_along_axis(again, order, 1), np.take_along_axis(ids, order, 1)),
    }
    table, found = {}, {}
    for name, (values, listed) in lists.items():
        relevant = listed == asked[:, None]
        tune, test = np.arange(queries) % 2 == 0, np.arange(queries) % 2 == 1
        threshold = choose_threshold(values[tune, :most], relevant[tune, :most])
        kept = cut(values[test], listed[test], threshold, max_k=most)
        hits = sum(int(asked[test][i] in kept[i][0]) for i in range(len(kept)))
        found[name] = 2 * hits / (len(kept.ids) + test.sum())
        table[f"results kept of each query, {name}"] = len(kept.ids) / len(kept)
        table[f"F1 of always {most}, {name}"] = float(2 * relevant[test, :most].sum() / ((most + 1) * test.sum()))
        table[f"recall@1, {name}"] = float(relevant[test, 0].mean())
    return Outcome(found["scored again"], found["cosine"], table)


def anncur(*, max_pairs: int, rank: int, build: int, searched: int, budget: int, k: int) -> Outcome:
    """recall of the k best of a scorer of low rank: docstring times function in ``rank`` principal directions."""
    pairs = code_vectors(max_pairs)
    rows = np.vstack([pairs.query, pairs.code]).astype(np.float64)
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    query, code = (part @ axes[:rank].T for part in (pairs.query, pairs.code))
    matrix = query[: build + searched] @ code.T
    scorer = CallableScorer(
        lambda asked: [matrix[q, i] for q, i in asked], version="low rank", limits=Limits(batch_size=100_000)
    )
    index = CrossEncoderIndex.build(
        range(len(code)), scorer, queries=range(build), dense=True, rank=rank,
        query_embeddings=pairs.query[:build], item_embeddings=pairs.code,
    )  # fmt: skip
    asked = slice(build, build + searched)
    report = evaluate(
        index, range(build, build + searched), matrix[asked], query_embeddings=pairs.query[asked],
        methods=("rerank", "anncur", "adacur"), budgets=(budget,), ks=(k,), targets=("raw",),
    )  # fmt: skip
    recalls = {name: report.mean(("raw", budget, k, name))[0] for name in ("rerank", "anncur", "adacur", "popularity")}
    return Outcome(recalls["anncur"], 1.0, {f"recall@{k}, {name}": value for name, value in recalls.items()})


def _average_precision(scores: Floats, relevant: NDArray[np.bool_]) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(relevant.ravel(), scores.ravel()))


def _f1(scores: Floats, relevant: NDArray[np.bool_], threshold: float) -> float:
    taken = scores >= threshold
    return float(2 * (taken & relevant).sum() / max(taken.sum() + relevant.sum(), 1))
