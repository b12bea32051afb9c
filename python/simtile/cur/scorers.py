"""What an index calls to get scores: a function of (query, item) pairs, and how often it may be called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["CallableScorer", "Limits", "Pair", "Scorer"]

Pair: TypeAlias = tuple[Any, Any]
"""(query, item): texts, arrays, whatever the scorer takes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a scorer may be called.

    Parameters
    ----------
    batch_size : int      most pairs in one call; it sinks by itself when calls are rejected as too large
    concurrency : int      calls in flight at once; above 1 the scorer must be safe to call from several threads
    calls_per_second : float or None      over all threads
    retries : int      further attempts for a call that failed, before it is split
    backoff, max_backoff : float      seconds before the first retry, doubled each time up to the second
    """

    batch_size: int = 32
    concurrency: int = 1
    calls_per_second: float | None = None
    retries: int = 4
    backoff: float = 0.2
    max_backoff: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("concurrency", 1), ("retries", 0), ("backoff", 0), ("max_backoff", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: at least {least}, got {getattr(self, name)}")
        if self.calls_per_second is not None and self.calls_per_second <= 0:
            raise ValueError(f"calls_per_second: above 0 or None, got {self.calls_per_second}")


class Scorer(ABC):
    """An expensive function of (query, item); larger is better.

    Attributes
    ----------
    version : str      names the function: scores are journaled and cached under it, so change it with the model
    limits : Limits
    one_query_per_call : bool      whether all pairs of a call must share their query, as HTTP rerankers want
    """

    version: str
    limits: Limits
    one_query_per_call: bool = False

    @abstractmethod
    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        """One score a pair, in order.

        May raise :class:`TransientScorerError` (asked again later), :class:`BatchRejectedError` (asked again in
        halves), :class:`ScorerError` (given up at once), or anything else, which is tried again and then in halves.
        """


class CallableScorer(Scorer):
    """A scorer made of any function of a list of pairs.

    Parameters
    ----------
    fn : callable (list of (query, item)) -> sequence of float
    version : str, optional      by default the function's qualified name
    limits : Limits, optional

    Examples
    --------
    >>> CallableScorer(lambda pairs: [float(len(query) - len(item)) for query, item in pairs]).score([("abc", "d")])
    [2.0]
    """

    def __init__(
        self, fn: Callable[[list[Pair]], Sequence[float]], *, version: str | None = None, limits: Limits | None = None
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn: a callable, got {type(fn).__name__}")
        self._fn = fn
        self.version = version or f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__name__)}"
        self.limits = limits or Limits()

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        return self._fn(list(pairs))
