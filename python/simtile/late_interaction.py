"""Late interaction (MaxSim): texts and images as sets of token vectors; each token of a query finds its best match.

    S[q, n] = Σ_{t in q} max_{u in n} <x_t, y_u>        queries q, documents n, tokens x_t, y_u

The matrix of all token pairs is a thousand times that of S. It is made a chunk at a time, maximised and thrown away;
the backward pass makes each chunk again, finds the maxima and uses only these. Documents and queries go through in the
order of their lengths, a few at a time, padded to the longest among them with copies of a token: a copy changes no
maximum, and in a query it weighs nothing.

Khattab & Zaharia 2020, ColBERT, arXiv:2004.12832, eq. 3. For scores of a query against candidates in NumPy, as a scorer
of :mod:`simtile.cur`, see :class:`simtile.cur.MaxSimScorer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
    from torch.autograd import Function
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

from simtile._first_order import apply, first_order
from simtile._losses.scores import score_info_nce
from simtile._pairs import Scale, as_ids, check_choice, check_like, check_matrix, loss_dtype
from simtile._plan import WORKSPACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simtile.functional import Reduction

__all__ = ["maxsim", "maxsim_info_nce"]

_DOCUMENT_TOKENS = 4096
"""Of a chunk; a chunk of queries takes what the workspace leaves."""


def maxsim(
    query: Tensor,
    document: Tensor,
    *,
    query_indptr: Tensor | None = None,
    document_indptr: Tensor | None = None,
    aggregate: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Scores of all queries against all documents, each a set of token vectors.

    Parameters
    ----------
    query : Tensor (Q, T, D), or (tokens, D) with ``query_indptr``
    document : Tensor (N, U, D), or (tokens, D) with ``document_indptr``      as they are: normalise first for cosines
    query_indptr, document_indptr : integer Tensor (Q + 1,), (N + 1,)      query q holds the tokens indptr[q] to
        indptr[q + 1] - 1, at least one; so that lengths differ and padding is left out
    aggregate : {"sum", "mean"}      of the query's tokens

    Returns
    -------
    Tensor (Q, N)      float32, or float64 for float64 inputs. Of equal matches the first gets the gradient

    Raises
    ------
    TypeError, ValueError      naming the argument

    Notes
    -----
    4u of 2·(query tokens)·(document tokens)·D forward and backward. Extra memory O(Q·N), 16 MiB, and copies of the
    tokens of a chunk, 4,096 of documents and fewer of queries, unless a single set has more. 16-bit tokens are
    multiplied in float32. On a GPU lengths are waited for.

    Examples
    --------
    >>> document = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, -1.0]]])
    >>> maxsim(torch.eye(2)[None], document)
    tensor([[1.8000, 1.0000]])
    """
    check_choice("aggregate", aggregate, ("sum", "mean"))
    queries = _as_sets("query", query, query_indptr)
    documents = _as_sets("document", document, document_indptr)
    check_like("document", documents.tokens, "query", queries.tokens)
    scores: Tensor = apply(_MaxSim, queries.tokens, documents.tokens, queries, documents, aggregate == "mean")
    return scores


def maxsim_info_nce(
    query: Tensor,
    document: Tensor,
    *,
    query_indptr: Tensor | None = None,
    document_indptr: Tensor | None = None,
    aggregate: Literal["sum", "mean"] = "sum",
    temperature: Scale = 1.0,
    targets: Tensor | None = None,
    symmetric: bool = False,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE of late-interaction scores over the batch: ColBERT's loss with in-batch negatives.

    With one-token queries, ``temperature=0.07`` and 32 tokens of each target the fusion loss of SPRC, arXiv:2310.05473.

    Parameters
    ----------
    query, document, query_indptr, document_indptr, aggregate      see :func:`maxsim`
    temperature, targets, symmetric, weight, reduction      see :func:`simtile.functional.score_info_nce`; query q
        belongs to document q unless ``targets`` say otherwise

    Returns
    -------
    Tensor () or (Q,)      float32, or float64 for float64 inputs

    Raises
    ------
    TypeError, ValueError      naming the argument
    """
    scores = maxsim(
        query, document, query_indptr=query_indptr, document_indptr=document_indptr, aggregate=aggregate
    )  # fmt: skip
    return score_info_nce(
        scores, targets=targets, temperature=temperature, symmetric=symmetric, weight=weight, reduction=reduction
    )


class _Sets(NamedTuple):
    """Sets of tokens, one after the other."""

    tokens: Tensor  # (T, D)
    starts: Tensor  # (G,) int64, on the CPU
    lengths: Tensor  # (G,)
    order: Tensor  # (G,) by length


class _Padded(NamedTuple):
    """A few sets, all padded to one length."""

    sets: Tensor  # (g,) which
    tokens: Tensor  # (g, length) the numbers of their tokens
    kept: Tensor  # (g, length) 1, and 0 for the copies


def _as_sets(name: str, tokens: Tensor, indptr: Tensor | None) -> _Sets:
    if indptr is None:
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] == 0:
            got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(f"{name}: a Tensor (sets, tokens, D) unless {name}_indptr is given, got {got}")
        number, length = tokens.shape[:2]
        lengths = torch.full((number,), length)
        tokens = tokens.flatten(0, 1)
        check_matrix(name, tokens)
        return _Sets(tokens, torch.arange(number) * length, lengths, torch.arange(number))
    check_matrix(name, tokens)
    if not isinstance(indptr, Tensor) or indptr.ndim != 1 or indptr.shape[0] == 0:
        raise ValueError(f"{name}_indptr: a tensor (sets + 1,)")
    bounds = as_ids(f"{name}_indptr", indptr, indptr.shape[0], tokens).cpu()
    lengths = bounds.diff()
    if int(bounds[0]) != 0 or int(bounds[-1]) != tokens.shape[0] or bool((lengths < 1).any()):
        raise ValueError(f"{name}_indptr: rising from 0 to the {tokens.shape[0]} tokens, at least one in each set")
    return _Sets(tokens, bounds[:-1], lengths, torch.argsort(lengths, stable=True))


def _chunks(sets: _Sets, most: int) -> Iterator[_Padded]:
    """A few sets of like lengths at a time, at most ``most`` tokens with the copies, and at least one set."""
    first, device = 0, sets.tokens.device
    ordered = sets.lengths[sets.order].tolist()
    while first < len(ordered):
        last = first + 1
        while last < len(ordered) and ordered[last] * (last + 1 - first) <= most:
            last += 1
        chosen = sets.order[first:last]
        place = torch.arange(ordered[last - 1])
        lengths = sets.lengths[chosen, None]
        index = sets.starts[chosen, None] + torch.minimum(place, lengths - 1)
        yield _Padded(chosen.to(device), index.to(device), (place < lengths).to(device))
        first = last


def _walk(queries: _Sets, documents: _Sets) -> Iterator[tuple[_Padded, Tensor, _Padded, Tensor]]:
    """All pairs of chunks (queries, their tokens, documents, their tokens), documents in the outer loop."""
    dtype = loss_dtype(queries.tokens)
    for several in _chunks(documents, _DOCUMENT_TOKENS):
        y = documents.tokens[several.tokens.flatten()].to(dtype)
        # Twice the product: what is made of it, too, must fit.
        for few in _chunks(queries, WORKSPACE_BYTES // (2 * dtype.itemsize * y.shape[0])):
            yield few, queries.tokens[few.tokens.flatten()].to(dtype), several, y


def _matches(x: Tensor, y: Tensor, documents: _Padded) -> Tensor:
    """(query tokens, documents, document tokens) inner products."""
    return (x @ y.T).view(x.shape[0], *documents.tokens.shape)


def _shares(queries: _Padded, dtype: torch.dtype, mean: bool) -> Tensor:
    """(g, length) what a token's best match counts."""
    shares = queries.kept.to(dtype)
    return shares / shares.sum(1, keepdim=True) if mean else shares


class _MaxSim(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, document: Tensor, queries: _Sets, documents: _Sets, mean: bool) -> Tensor:
        ctx.save_for_backward(query, document)
        ctx.sets, ctx.mean = (queries._replace(tokens=query[:0]), documents._replace(tokens=document[:0])), mean
        scores = query.new_zeros((len(queries.lengths), len(documents.lengths)), dtype=loss_dtype(query))
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            for few, x, several, y in _walk(queries, documents):
                best = _matches(x, y, several).amax(2).view(*few.tokens.shape, -1)
                shares = _shares(few, scores.dtype, mean)
                scores[few.sets[:, None], several.sets] = (best * shares[:, :, None]).sum(1)
        return scores

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,), (query, document) = grads, ctx.saved_tensors
        assert grad is not None
        queries, documents = (s._replace(tokens=t) for s, t in zip(ctx.sets, (query, document), strict=True))
        dtype = loss_dtype(query)
        by_query, by_document = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (query, document))
        with torch.autocast(query.device.type, enabled=False):
            for few, x, several, y in _walk(queries, documents):
                matches = _matches(x, y, several)
                best = matches.argmax(2, keepdim=True)
                upstream = grad[few.sets[:, None], several.sets][:, None, :] * _shares(few, dtype, ctx.mean)[:, :, None]
                # Copies of a token have coefficient 0: the first of equal matches is chosen, and a query's weigh 0.
                coefficients = matches.zero_().scatter_(2, best, upstream.reshape(x.shape[0], -1, 1)).flatten(1)
                if ctx.needs_input_grad[0]:
                    by_query.index_add_(0, few.tokens.flatten(), coefficients @ y)
                if ctx.needs_input_grad[1]:
                    by_document.index_add_(0, several.tokens.flatten(), coefficients.T @ x)
        return by_query.to(query.dtype), by_document.to(document.dtype), None, None, None
