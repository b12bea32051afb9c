"""What can go wrong between an index, a scorer and a journal."""

from __future__ import annotations

__all__ = ["BatchRejectedError", "JournalError", "ScoreCountError", "ScorerError", "TransientScorerError"]


class ScorerError(RuntimeError):
    """A scorer failed for good: nothing it was asked came back, or it said that asking again is useless."""


class ScoreCountError(ScorerError):
    """A scorer returned more or fewer scores than pairs: no score can be given to a pair, so nothing is guessed."""


class TransientScorerError(ScorerError):
    """Worth another try, after ``retry_after`` seconds if the scorer named them."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BatchRejectedError(ScorerError):
    """A batch was refused as a whole: smaller ones may pass.

    ``lowers_cap`` says that it was its size (HTTP 413, 422), so that later batches begin smaller.
    """

    def __init__(self, message: str, *, lowers_cap: bool = True) -> None:
        super().__init__(message)
        self.lowers_cap = lowers_cap


class JournalError(ValueError):
    """A journal of scores is damaged before its end, is locked, or belongs to another scorer."""
