"""Rerankers behind HTTP: Text Embeddings Inference and the Cohere style, with the standard library alone.

    TEI       POST {"query", "texts", "raw_scores"}                 -> [{"index", "score"}, …]
    Cohere    POST {"model", "query", "documents", "top_n"}         -> {"results": [{"index", "relevance_score"}, …]}

Jina, Voyage, Mixedbread, vLLM and Infinity speak the second. A request is one query with several documents; requests
run side by side as ``limits.concurrency`` allows.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from simtile.cur.errors import BatchRejectedError, ScoreCountError, ScorerError, TransientScorerError
from simtile.cur.scorers import Limits, Pair, Scorer

__all__ = ["HTTPRerankScorer"]

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_TOO_LARGE = {413, 422}
_HOPELESS = {401, 402, 403, 404, 405}


class HTTPRerankScorer(Scorer):
    """A reranking endpoint as a scorer of texts.

    Parameters
    ----------
    url : str      the endpoint itself, such as ``http://localhost:8080/rerank``
    style : {"tei", "cohere"}
    model : str, optional      sent with a Cohere-style request
    headers : mapping, optional      such as ``{"Authorization": "Bearer …"}``
    timeout : float      seconds a request may take
    version : str, optional      by default the URL and the model
    limits : Limits, optional      by default 32 documents a request (TEI's own cap) and 8 requests at once

    Notes
    -----
    408, 425, 429, 5xx, time-outs and broken connections are tried again, after ``Retry-After`` where the server sends
    it; 413 and 422 halve the batch and lower its size from then on; 401–405 end the run; any other status halves the
    batch, so that the document at fault fails alone.
    """

    one_query_per_call = True

    def __init__(
        self,
        url: str,
        *,
        style: Literal["tei", "cohere"] = "tei",
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        version: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: http:// or https://, got {url!r}")
        if style not in ("tei", "cohere"):
            raise ValueError(f'style: "tei" or "cohere", got {style!r}')
        self._url, self._style, self._model, self._timeout = url, style, model, timeout
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self.version = version or f"{url} {model or ''}".strip()
        self.limits = limits or Limits(batch_size=32, concurrency=8)

    def score(self, pairs: Sequence[Pair]) -> Sequence[float]:
        query, texts = pairs[0][0], [item for _, item in pairs]
        if self._style == "tei":
            body: dict[str, Any] = {"query": query, "texts": texts, "raw_scores": True}
        else:
            body = {"query": query, "documents": texts, "top_n": len(texts)}
            if self._model is not None:
                body["model"] = self._model
        answer = self._post(body)
        try:
            rows = answer if self._style == "tei" else answer["results"]
            found = {int(row["index"]): row["score" if self._style == "tei" else "relevance_score"] for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise ScorerError(f"{self._url}: not an answer in the {self._style} style: {str(answer)[:200]}") from error
        if sorted(found) != list(range(len(texts))):
            raise ScoreCountError(f"{self._url}: {len(texts)} scores for {len(texts)} texts, got {len(found)}")
        return [math.nan if found[i] is None else float(found[i]) for i in range(len(texts))]

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                message = f"{self._url}: HTTP {error.code}: {error.read(300).decode(errors='replace')}"
                if error.code in _TRANSIENT:
                    retry_after = _seconds(error.headers.get("Retry-After"))
                    raise TransientScorerError(message, retry_after=retry_after) from error
                if error.code in _HOPELESS:
                    raise ScorerError(message) from error
                raise BatchRejectedError(message, lowers_cap=error.code in _TOO_LARGE) from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise TransientScorerError(f"{self._url}: {error}") from error
        except ValueError as error:
            raise TransientScorerError(f"{self._url}: not JSON: {error}") from error


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds from now: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None
