"""HTTP rerankers against a local server with the limits and moods of a real one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from simtile.cur import CallStats, CrossEncoderIndex, HTTPRerankScorer, Limits, ScoreCountError, ScorerError
from simtile.cur.calls import score_pairs
from simtile.cur.http_reranker import _seconds

TEXTS = [f"item {i}" for i in range(70)]
PAIRS = [(query, text) for query in ("query 1", "query 2") for text in TEXTS]


def true_score(query: str, text: str) -> float:
    return float(query.split()[1]) * 100 + float(text.split()[1])


class Server:
    """A reranker with a cap of 32 texts; ``mood(request number, body)`` may answer (status, headers, body) instead."""

    def __init__(self) -> None:
        self.mood: Any = lambda number, body: None
        self.sizes: list[int] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                texts = body["texts"] if "texts" in body else body["documents"]
                server.times.append(time.monotonic())
                server.sizes.append(len(texts))
                server.headers.append(dict(self.headers))
                answer = server.mood(len(server.sizes), body)
                if answer is None and len(texts) > 32:
                    answer = (413, {}, {"error": "batch size 32"})
                if answer is None:
                    scores = [true_score(body["query"], text) for text in texts]
                    order = np.argsort(scores)[::-1].tolist()  # as servers do: best first
                    if self.path == "/tei":
                        answer = (200, {}, [{"index": i, "score": scores[i]} for i in order])
                    else:
                        answer = (200, {}, {"results": [{"index": i, "relevance_score": scores[i]} for i in order]})
                status, headers, content = answer
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def run(server: Server, *, style: Any = "tei", **limits: Any) -> tuple[np.ndarray, CallStats]:
    stats = CallStats()
    scorer = HTTPRerankScorer(f"{server.url}/{style}", style=style, limits=Limits(**{"backoff": 0.01, **limits}))
    return score_pairs(scorer, PAIRS, stats=stats), stats


@pytest.mark.parametrize("style", ["tei", "cohere"])
def test_scores_come_back_in_the_order_of_the_texts(server: Server, style: str) -> None:
    scores, stats = run(server, style=style, concurrency=4)
    np.testing.assert_array_equal(scores, [true_score(*pair) for pair in PAIRS])
    assert sorted(server.sizes) == [6, 6, 32, 32, 32, 32]  # a request holds texts of one query
    assert stats.scored == 140


def test_a_cap_of_32_texts_is_honoured(server: Server) -> None:
    scores, stats = run(server, batch_size=100)
    assert np.isfinite(scores).all() and stats.failed == 0
    assert server.sizes[0] == 70 and max(server.sizes[5:]) <= 32


@pytest.mark.parametrize("as_date", [False, True])
def test_too_many_requests_wait_as_long_as_the_server_says(server: Server, as_date: bool) -> None:
    wait = formatdate(time.time() + 2.0, usegmt=True) if as_date else "0.3"
    server.mood = lambda number, body: (429, {"Retry-After": wait}, {}) if number == 1 else None
    scores, stats = run(server)
    assert np.isfinite(scores).all() and stats.retries == 1
    assert server.times[1] - server.times[0] >= (0.9 if as_date else 0.3)  # a date has whole seconds


def test_server_errors_and_broken_answers_are_tried_again(server: Server) -> None:
    moods = {1: (503, {}, {}), 2: (500, {}, b"oops"), 3: (200, {}, b"{not json")}
    server.mood = lambda number, body: moods.get(number)
    scores, stats = run(server)
    assert np.isfinite(scores).all() and stats.retries == 3


def test_a_text_that_the_server_cannot_take_fails_alone(server: Server) -> None:
    server.mood = lambda number, body: (422, {}, {"error": "too long"}) if TEXTS[5] in body["texts"] else None
    scores, stats = run(server)
    assert [PAIRS[i][1] for i in np.flatnonzero(np.isnan(scores))] == [TEXTS[5]] * 2
    assert stats.failed == 2 and "too long" in stats.last_error


def test_a_refused_key_ends_the_run_at_once(server: Server) -> None:
    server.mood = lambda number, body: (401, {}, {"error": "no key"})
    with pytest.raises(ScorerError, match=r"401.*no key"):
        run(server)
    assert len(server.sizes) == 1


def test_missing_scores_are_an_error_and_a_null_one_a_failure(server: Server) -> None:
    server.mood = lambda number, body: (200, {}, [{"index": 0, "score": 1.0}])
    with pytest.raises(ScoreCountError, match="32 scores for 32 texts, got 1"):
        run(server)
    server.mood = lambda number, body: (200, {}, [{"index": i, "score": None} for i in range(len(body["texts"]))])
    assert run(server)[1].not_finite == 140


def test_a_server_that_is_gone_is_an_error(server: Server) -> None:
    server.stop()
    with pytest.raises(ScorerError, match="none of 140 pairs"):
        run(server, retries=0, backoff=0.0)


def test_headers_and_model_are_sent(server: Server) -> None:
    bodies = []
    server.mood = lambda number, body: bodies.append(body)
    scorer = HTTPRerankScorer(
        f"{server.url}/cohere", style="cohere", model="m-1", headers={"Authorization": "Bearer key"}
    )
    assert list(scorer.score(PAIRS[:2])) == [100.0, 101.0]
    assert bodies[0] == {"query": "query 1", "documents": TEXTS[:2], "top_n": 2, "model": "m-1"}
    assert server.headers[0]["Authorization"] == "Bearer key" and scorer.version.endswith("m-1")


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert _seconds("1.5") == 1.5 and _seconds(None) is None and _seconds("soon") is None
    assert _seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0


def test_an_index_over_http_finds_the_best_and_survives_a_flaky_server(server: Server) -> None:
    rng = np.random.default_rng(0)
    server.mood = lambda number, body: (503, {}, {}) if rng.random() < 0.2 else None
    scorer = HTTPRerankScorer(f"{server.url}/tei", limits=Limits(backoff=0.001, concurrency=4))
    index = CrossEncoderIndex.build(TEXTS, scorer, queries=[f"query {i}" for i in range(2, 12)], dense=True)
    hits = index.search(["query 1"], 5, budget=40)
    assert [hit["corpus_id"] for hit in hits[0]] == [69, 68, 67, 66, 65]
    assert index.stats.failed == 0 and index.stats.retries > 0
