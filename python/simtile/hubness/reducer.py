"""The reducer: fit on a gallery and a bank, search with the correction, or export it to another index."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtile.executors import Executor
from simtile.executors._base import as_executor
from simtile.hubness._candidates import rerank
from simtile.hubness._checks import (
    NotFittedError,
    candidates,
    further_betas,
    given_banks,
    positions,
    settings_of,
    vectors,
)
from simtile.hubness._files import load, save
from simtile.hubness._methods import GATED, PAIRWISE, PAPER_DEFAULTS, Method, Settings
from simtile.hubness._model import Model
from simtile.hubness._search import shared_out
from simtile.hubness._summary import How, Metric, Precision, prepare
from simtile.hubness._tune import Objective, tune
from simtile.search._arrays import as_mask, like, thread_count

Array = Any
"""A NumPy array or a torch tensor on the CPU."""


class HubnessReducer:
    """Correct the scores of items that are near to every query, from how they look to a bank of other queries.

    Parameters
    ----------
    method : str      the correction; the formula of each is in :mod:`simtile.hubness.reference`
    beta, beta_gallery : float      inverse temperatures of the softmax methods; None: as ``beta``
    k : int      neighbours of csls, nnn, local_scaling, nicdm, dissim_local
    alpha : float      share of the correction of nnn and distribution_normalization
    tau, iterations : float, int      sinkhorn
    activation_k : int      dynamic methods: the items that are among the best ``activation_k`` of a bank row open the
        gate
    metric : {"cosine", "ip"}      "cosine" brings gallery, banks and queries to unit length itself
    precision : {"float32", "bfloat16", "int8"}      of the products with the bank; searches are exact in any case
    compat : {None, "qbnorm", "dbnorm"}      scores as the released code gives them (docs/hubness.md says what is wrong
        with them)
    bank_folder : path      where the bank is kept; None: as references to the arrays given
    num_threads : int or None      None: all processors this process may use
    executor : Executor or None      where blocks of the bank and of queries are computed (:mod:`simtile.executors`);
        None: in this process

    Notes
    -----
    ``fit`` is one streaming pass over bank x gallery and keeps a few numbers an item: nothing of size bank x gallery or
    queries x gallery is made. Gallery and banks are referred to, not copied, where they are C-contiguous float32: leave
    them unchanged. Parameters are checked in ``fit``; ``get_params``, ``set_params`` and ``sklearn.base.clone`` work.

    Examples
    --------
    >>> gallery = np.eye(3, dtype=np.float32)
    >>> bank = np.array([[1, 1, 0], [1, 0, 1]], dtype=np.float32)
    >>> reducer = HubnessReducer("nnn", k=2).fit(gallery, query_bank=bank)
    >>> query = np.array([[0.6, 0.5, 0.0]], dtype=np.float32)
    >>> reducer.search(query, 1)[1]  # item 0 is near to the whole bank
    array([[1]])
    """

    def __init__(
        self,
        method: Method = "inverted_softmax",
        *,
        beta: float = 20.0,
        beta_gallery: float | None = None,
        k: int = 10,
        alpha: float = 0.75,
        tau: float = 0.05,
        iterations: int = 10,
        activation_k: int = 1,
        metric: Metric = "cosine",
        precision: Precision = "float32",
        compat: str | None = None,
        bank_folder: str | Path | None = None,
        num_threads: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.method = method
        self.beta = beta
        self.beta_gallery = beta_gallery
        self.k = k
        self.alpha = alpha
        self.tau = tau
        self.iterations = iterations
        self.activation_k = activation_k
        self.metric = metric
        self.precision = precision
        self.compat = compat
        self.bank_folder = bank_folder
        self.num_threads = num_threads
        self.executor = executor

    @classmethod
    def from_paper(cls, method: Method, **options: Any) -> HubnessReducer:
        """With the parameters of the method's paper or released code (``PAPER_DEFAULTS``), and these options."""
        return cls(method, **{**PAPER_DEFAULTS.get(method, {}), **options})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name (scikit-learn)."""
        return {name: getattr(self, name) for name in inspect.signature(HubnessReducer).parameters}

    def set_params(self, **params: Any) -> HubnessReducer:
        """Change the constructor's arguments; they hold from the next ``fit`` on."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{name}: one of {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        fresh = HubnessReducer().get_params()
        changed = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items() if k != "method" and v != fresh[k])
        return f"HubnessReducer({self.method!r}{', ' + changed if changed else ''})"

    def fit(
        self,
        gallery: Array,
        *,
        query_bank: Array | None = None,
        gallery_bank: Array | None = None,
        betas: Sequence[float] = (),
    ) -> HubnessReducer:
        """Collect what the method needs to know of each item of the gallery.

        Parameters
        ----------
        gallery : array or Tensor (N, D)      the items that will be searched
        query_bank : (B, D)      other queries, like those to come; at least k
        gallery_bank : (B', D)      other items: dual_is and dual_dis need them; sinkhorn adds them to its bank
        betas : floats      further inverse temperatures to collect in the same pass, for :meth:`tune`

        Raises
        ------
        TypeError, ValueError      naming the argument: wrong shape or dtype, NaN, a bank that is missing, empty or
            smaller than k, a parameter out of range
        """
        settings = settings_of(self.get_params())
        items = vectors("gallery", gallery, unit_for=_unit_for(settings, self.metric))
        banks = given_banks(settings, self.metric, query_bank, gallery_bank, items.shape[1])
        for bank in settings.banks:
            if bank not in banks:
                raise ValueError(f"{bank}_bank: method {settings.method!r} needs one, got None")
            if len(banks[bank]) < settings.least_bank:
                raise ValueError(f"{bank}_bank: at least {settings.least_bank} rows, got {len(banks[bank])}")
        model = Model(
            settings,
            How(self.metric, self.precision, thread_count(self.num_threads), as_executor(self.executor)),
            items,
            betas=further_betas(settings, betas),
            bank_folder=None if self.bank_folder is None else Path(self.bank_folder),
        )
        for bank, rows in banks.items():
            model.add_bank(bank, rows)
        self._model = model
        return self

    def partial_fit(self, *, query_bank: Array | None = None, gallery_bank: Array | None = None) -> HubnessReducer:
        """Add rows to the banks: as one fit with all of them, up to rounding, at the cost of the new rows alone.

        Sinkhorn's potentials depend on all rows together and are made again at the next search.
        """
        model = self._fitted()
        banks = given_banks(model.settings, model.how.metric, query_bank, gallery_bank, self.n_features_in_)
        if not banks:
            raise ValueError("query_bank: rows to add to a bank, got None for both banks")
        for bank, rows in banks.items():
            model.add_bank(bank, rows)
        return self

    def add_gallery(self, gallery: Array) -> NDArray[np.int64]:
        """Append items; returns their positions. One pass of the kept banks over the new items alone."""
        model = self._fitted()
        first = len(model.gallery)
        columns, unit_for = self.n_features_in_, _unit_for(model.settings, model.how.metric)
        model.add_items(vectors("gallery", gallery, columns=columns, unit_for=unit_for))
        return np.arange(first, len(model.gallery))

    def remove_gallery(self, ids: Array) -> HubnessReducer:
        """Remove the items at these positions; those behind move up, as in ``np.delete``."""
        model = self._fitted()
        keep = np.ones(len(model.gallery), dtype=bool)
        keep[positions("ids", ids, len(keep))] = False
        model.remove_items(keep)
        return self

    def search(
        self, queries: Array, k: int, *, filter: Array | None = None, num_threads: int | None = None
    ) -> tuple[Array, Array]:
        """The k best items of each query by the corrected score.

        Parameters
        ----------
        queries : array or Tensor (M, D), or (D,) for one
        k : int      beyond the number of items, results are padded
        filter : bool (N,) or integer (any length)      the items that may be returned, as a mask or as positions

        Returns
        -------
        scores : float32 (M, k)      descending, padded with -inf; one scale for all queries: see docs/hubness.md
        ids : int64 (M, k)      positions in the gallery, padded with -1

        Notes
        -----
        ``dual_softmax`` takes the queries of one call as its bank.
        """
        model = self._fitted()
        unit_for = _unit_for(model.settings, model.how.metric)
        rows = vectors("queries", queries, columns=self.n_features_in_, unit_for=unit_for)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"k: an integer, got {type(k).__name__}")
        if k < 0:
            raise ValueError(f"k: at least 0, got {k}")
        mask = as_mask(filter, len(model.gallery))
        threads = thread_count(self.num_threads if num_threads is None else num_threads)
        allowed = None if mask is None else mask.astype(bool)
        scores, ids = shared_out(model, rows, int(k), allowed, compat=self.compat, num_threads=threads)
        scores = scores.astype(np.float32)
        if queries.ndim == 1:
            scores, ids = scores[0], ids[0]
        return like(queries, scores), like(queries, ids)

    def transform(
        self, scores: Array, ids: Array, *, queries: Array | None = None, k: int | None = None
    ) -> tuple[Array, Array]:
        """Correct and sort again the candidate lists of any other index.

        Parameters
        ----------
        scores, ids : (M, C)      raw scores by this reducer's metric, and positions in the gallery; -1 is padding
        queries : (M, D)      mutual_proximity needs them
        k : int or None      candidates returned of each query; None: all

        Raises
        ------
        ValueError      an id twice in a row; a method that needs more than the lists (dual_softmax,
            mutual_proximity_empirical)

        Warns
        -----
        ShortListWarning      if items beyond the lists are likely among the corrected best (k, or 10)

        Notes
        -----
        Re-ranking is a makeshift: an item that the raw score ranks below C cannot come back. :meth:`augment` has no
        such limit. globally_corrected knows ranks up to 128 here; deeper ones count as equal.
        """
        model = self._fitted()
        values, items = candidates(scores, ids, len(model.gallery))
        rows = None if queries is None else vectors("queries", queries, columns=self.n_features_in_)
        if rows is not None and len(rows) != len(values):
            raise ValueError(f"queries: {len(values)} rows as scores has, got {len(rows)}")
        values, items = rerank(model, values, items, rows, k, compat=self.compat)
        return like(scores, values.astype(np.float32)), like(ids, items)

    def augment(self, gallery: Array | None = None) -> NDArray[np.float32]:
        """(N, D + 1) vectors whose inner product with :meth:`augment_queries` is the corrected score, for any index.

        Parameters
        ----------
        gallery : (N, D) or None      the fitted gallery (None), or its vectors as another index holds them

        Raises
        ------
        ValueError      for the methods that are not affine: dynamic, mutual proximity, globally corrected, dual softmax
        """
        scale, bias = self._affine()
        rows = self.gallery_ if gallery is None else vectors("gallery", gallery, columns=self.n_features_in_)
        if len(rows) != len(bias):
            raise ValueError(f"gallery: the {len(bias)} items that were fitted, got {len(rows)}")
        rows = prepare(rows, self._fitted().how.metric)
        return np.hstack([rows if scale is None else scale[:, None] * rows, bias[:, None]])

    def augment_queries(self, queries: Array) -> NDArray[np.float32]:
        """(M, D + 1) queries for an index of :meth:`augment`: of unit length for the cosine, and a 1."""
        self._affine()
        metric = self._fitted().how.metric
        rows = prepare(vectors("queries", queries, columns=self.n_features_in_), metric)
        return np.hstack([rows, np.ones((len(rows), 1), np.float32)])

    def tune(
        self,
        dev_queries: Array,
        ground_truth: Array,
        *,
        betas: Sequence[float] | None = None,
        ks: Sequence[int] | None = None,
        alphas: Sequence[float] | None = None,
        objective: Objective = "recall_at_1",
    ) -> list[dict[str, float]]:
        """Choose beta, k or alpha on queries with known answers, from the statistics of one pass; the best is kept.

        Parameters
        ----------
        dev_queries : (M, D)      none of them in the bank
        ground_truth : integers (M,)      each query's right item
        betas, ks, alphas      values to try; None: a grid, of what the method has. Values of beta that ``fit`` did not
            collect, and k beyond its own, take one pass over the bank, all in the same
        objective : {"recall_at_1", "recall_at_10", "mrr"}      equal scores count as the middle of their ranks

        Returns
        -------
        One row a setting: its parameters and all three objectives, best first

        Raises
        ------
        ValueError      for the methods whose statistics do not hold several settings: see docs/hubness.md
        """
        model = self._fitted()
        rows = vectors("dev_queries", dev_queries, columns=self.n_features_in_)
        table, best = tune(model, rows, ground_truth, betas=betas, ks=ks, alphas=alphas, objective=objective)
        self.set_params(**best)
        return table

    def save(self, path: str | Path) -> None:
        """Write parameters, statistics, gallery and banks to a safetensors file (needs the package of that name)."""
        save(self._fitted(), self.get_params(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> HubnessReducer:
        """Read what :meth:`save` wrote. Raises ValueError for another file."""
        params, model = load(Path(path))
        reducer = cls(**params)
        reducer._model = model
        return reducer

    @property
    def gallery_(self) -> NDArray[np.float32]:
        """(N, D) as it was given."""
        return self._fitted().gallery

    @property
    def n_features_in_(self) -> int:
        """D of the gallery."""
        return int(self.gallery_.shape[1])

    @property
    def item_scale_(self) -> NDArray[np.float32] | None:
        """(N,), or None for 1: items rank by ``item_scale_ * score + item_bias_`` (affine methods)."""
        return self._affine()[0]

    @property
    def item_bias_(self) -> NDArray[np.float32]:
        """(N,) see :attr:`item_scale_`."""
        return self._affine()[1]

    def _affine(self) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
        model = self._fitted()
        if model.settings.method in GATED | PAIRWISE:
            raise ValueError(f"method: {model.settings.method!r} is not affine, it has no scale and bias of each item")
        return model.correction.affine()

    def _fitted(self) -> Model:
        if not hasattr(self, "_model"):
            raise NotFittedError(f"{type(self).__name__}: call fit first")
        return self._model


def _unit_for(settings: Settings, metric: Metric) -> Method | None:
    """The method, where the vectors are taken as they come and might have to be of unit length for it."""
    return settings.method if metric == "ip" else None
