"""What a fitted reducer knows: gallery, banks, their summaries, and what is made from these on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simtile.executors import InProcess
from simtile.hubness._bank import BankRows
from simtile.hubness._gated import GatedIndex
from simtile.hubness._methods import GATED, SOFT, Bank, Correction, Settings, correction
from simtile.hubness._pairwise import Corpus
from simtile.hubness._summary import (
    How,
    Need,
    Rows,
    Summary,
    fewer_items,
    more_bank,
    more_items,
    potentials,
    prepare,
    summarise,
)
from simtile.kernels.reference import Stats
from simtile.search import ExactIndex


class Model:
    """State of a fit; every argument is checked by the caller."""

    def __init__(
        self, settings: Settings, how: How, gallery: Rows, *, betas: tuple[float, ...], bank_folder: Path | None
    ) -> None:
        self.settings = settings
        self.how = how
        self.gallery = gallery
        self.betas = betas
        self.depth = settings.depth
        self.bank_folder = bank_folder
        self.banks: dict[Bank, BankRows] = {}
        self.summaries: dict[Bank, Summary] = {}
        self._made: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: the index is made again there, and the executor stays."""
        return {**vars(self), "how": replace(self.how, executor=InProcess()), "_made": {}}

    def need(self, bank: Bank) -> Need:
        """What a pass over this bank collects."""
        method = self.settings.method
        slopes = {self.settings.slope(bank), *self.betas} if method in SOFT else set()
        return Need(
            betas=tuple(sorted(slopes)),
            depth=self.depth,
            activation_k=self.settings.activation_k if method in GATED else 0,
            neighbours=self.settings.k if method == "dissim_local" else 0,
        )

    def add_bank(self, bank: Bank, rows: Rows) -> None:
        """Rows of a bank that exists, or the first of a new one."""
        new = summarise([rows], self.gallery, self.need(bank), self.how)
        if bank not in self.banks:
            self.banks[bank] = BankRows(self.bank_folder, bank)
        self.summaries[bank] = more_bank(self.summaries[bank], new) if bank in self.summaries else new
        self.banks[bank].append(rows)
        self._made.clear()

    def add_items(self, items: Rows) -> None:
        """Behind those there are."""
        for bank, rows in self.banks.items():
            new = summarise(rows.parts, items, self.need(bank), self.how)
            self.summaries[bank] = more_items(self.summaries[bank], new)
        self.gallery = np.concatenate([self.gallery, items])
        self._made.clear()

    def remove_items(self, keep: NDArray[np.bool_]) -> None:
        """Those where ``keep`` (N,) does not hold."""
        self.gallery = np.ascontiguousarray(self.gallery[keep])
        for bank, summary in self.summaries.items():
            self.summaries[bank] = fewer_items(summary, keep, self.banks[bank].parts, self.gallery, self.how)
        self._made.clear()

    def collect(self, betas: tuple[float, ...], depth: int) -> None:
        """Have statistics at these betas and depths too: nothing, or one more pass over the banks."""
        missing = not set(betas) <= set(self.betas) | {self.settings.beta} or depth > self.depth
        if not missing:
            return
        self.betas = tuple(sorted({*self.betas, *betas}))
        self.depth = max(depth, self.depth)
        for bank, rows in self.banks.items():
            self.summaries[bank] = summarise(rows.parts, self.gallery, self.need(bank), self.how)

    def choose(self, settings: Settings) -> None:
        """Other parameters, for which the statistics have been collected."""
        self.settings = settings
        self._made.clear()

    @property
    def stats(self) -> Mapping[Bank, Stats]:
        """Of each bank."""
        return {bank: summary.stats for bank, summary in self.summaries.items()}

    @property
    def correction(self) -> Correction:
        """Of an affine or dynamic method."""
        if "correction" not in self._made:
            self._made["correction"] = self._correction()
        return cast("Correction", self._made["correction"])

    def _correction(self) -> Correction:
        if self.settings.method == "sinkhorn":
            parts = [part for rows in self.banks.values() for part in rows.parts]
            tau, iterations = self.settings.tau, self.settings.iterations
            v = potentials(parts, self.gallery, tau, iterations, self.how)
            return Correction(None, (tau * (v - v.mean() if len(v) else v),))
        if self.settings.method == "dissim_local":
            return Correction(np.full(len(self.gallery), 2.0), (self._locality(),))
        return correction(self.settings, self.stats)

    def _locality(self) -> NDArray[np.float64]:
        """(N,) |g - c(g)|² - |g|² with c the centroid of the nearest bank rows: |c|² - 2 <g, c>."""
        lists = self.summaries["query"].neighbours
        assert lists is not None
        bank, found = self.banks["query"].joined(), np.empty(len(self.gallery))
        step = max(1, 2**22 // max(1, self.settings.k * self.gallery.shape[1]))
        for j in range(0, len(found), step):
            near = lists.ids[j : j + step]
            rows = prepare(bank[near.ravel()], self.how.metric).reshape(*near.shape, -1)
            c = rows.mean(axis=1, dtype=np.float64)
            g = prepare(self.gallery[j : j + step], self.how.metric)
            found[j : j + step] = ((c - 2 * g) * c).sum(axis=1)
        return found

    @property
    def index(self) -> ExactIndex:
        """Of an affine method."""
        if "index" not in self._made:
            scale, bias = self.correction.affine()
            self._made["index"] = ExactIndex(
                self.gallery, metric=self.how.metric, item_scale=scale, item_bias=bias, copy=False
            )
        return cast("ExactIndex", self._made["index"])

    @property
    def gated(self) -> GatedIndex:
        """Of a dynamic method."""
        if "gated" not in self._made:
            lists = [summary.activation for summary in (self.summaries[bank] for bank in self.settings.banks)]
            activation = tuple(found for found in lists if found is not None)
            gallery = prepare(self.gallery, self.how.metric)
            self._made["gated"] = GatedIndex.build(gallery, self.correction, activation)
        return cast("GatedIndex", self._made["gated"])

    @property
    def corpus(self) -> Corpus:
        """Of a method that is not affine."""
        if "corpus" not in self._made:
            bank, gallery = self.banks.get("query"), np.ascontiguousarray(prepare(self.gallery, self.how.metric))
            parts = [] if bank is None else bank.parts
            self._made["corpus"] = Corpus(gallery, self.stats.get("query"), parts, self.how)
        return cast("Corpus", self._made["corpus"])
