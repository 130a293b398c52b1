"""The paths of a server, as an ASGI application: bytes of requests in, bytes of answers out. Knows starlette."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soloist.encoding.core_threads import core_threads
from soloist.errors import SoloistError
from soloist.jsontext import json_text
from soloist.reports.hits import hit_values
from soloist.serving.asked import EmbeddingsAsked, embeddings_asked, search_asked
from soloist.serving.figures import CONTENT_TYPE, Figures
from soloist.serving.guard import HEALTH, Asgi, Guard, Receive, Scope, Send
from soloist.serving.joining import Joiner
from soloist.serving.keys import Key
from soloist.serving.limits import Limits
from soloist.serving.receiving import body_of, unless_gone
from soloist.serving.refusals import ClientGoneError, RefusedError, refusal_of
from soloist.serving.served import FIRST_QUESTION, Embedded, HitsOf, Readiness, Served, VectorsOf
from soloist.wording import listed

FINGERPRINT_HEADER = "X-Soloist-Fingerprint"
EMBEDDINGS, SEARCH, MODELS, METRICS = "/v1/embeddings", "/v1/search", "/v1/models", "/metrics"
_JSON = "application/json"
_PATHS = (EMBEDDINGS, SEARCH, MODELS, HEALTH, METRICS)
_METHOD = 405  # the status of a wrong method
_FIRST_OF_SERVER = 500
_ROWS_AT_ONCE = 16  # that are written as JSON before others have their turn
_GONE = 499  # nobody sees this status, but the figures count it


class Application:
    """The endpoints and what they share. `asgi` is the application that a server takes."""

    def __init__(self, served: Served, key: Key | None, limits: Limits, debug: bool = False) -> None:
        self.served = served
        self.has_key = key is not None
        self.failure: Exception | None = None  # why a model could not answer its first question
        self._limits = limits
        self._debug = debug
        self._is_ready = False
        self._figures = Figures(lambda: self.waiting_texts, lambda: self._is_ready)
        told = functools.partial(_count_turn, self._figures)
        self._joiner = Joiner(served.compute, limits, core_threads().count, told)
        self._first: asyncio.Task[None] | None = None
        endpoints = {
            EMBEDDINGS: (self._embeddings, "POST"), SEARCH: (self._search, "POST"), MODELS: (self._models, "GET"),
            f"{MODELS}/{{name:path}}": (self._model, "GET"), HEALTH: (self._health, "GET"),
            METRICS: (self._metrics, "GET"),
        }  # fmt: skip
        handlers = {HTTPException: _not_found, ClientGoneError: _gone} | dict.fromkeys(
            (RefusedError, Exception), self._refused
        )
        starlette = Starlette(
            routes=[Route(path, endpoint, methods=[method]) for path, (endpoint, method) in endpoints.items()],
            exception_handlers=handlers,
            lifespan=self._lifespan,
        )
        starlette.router.redirect_slashes = False
        paths = {endpoint: path for path, (endpoint, _) in endpoints.items()}
        self.asgi = Guard(
            _beginning(self._begin, starlette), key, self._figures, {FINGERPRINT_HEADER: served.fingerprint}, paths
        )

    @property
    def waiting_texts(self) -> int:
        """The texts that are not answered yet."""
        return self._joiner.waiting_texts

    def join(self) -> None:
        """Return once nothing computes any more, after the end of the application."""
        self._joiner.join()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._begin()
        yield
        self._is_ready = False
        if self._first is not None:
            self._first.cancel()
        self._joiner.close()

    def _begin(self) -> None:
        """Below another application this one is told of no beginning: then it begins at the first request."""
        if self._first is None:
            self._joiner.start()
            self._first = asyncio.create_task(self._answer_first_question())

    async def _answer_first_question(self) -> None:
        try:
            await self._joiner.answers_in_one_turn(Readiness(), [FIRST_QUESTION])
            self._is_ready = True
        except Exception as exc:
            self.failure = exc

    async def _embeddings(self, request: Request) -> Response:
        asked = embeddings_asked(await body_of(request, self._limits.body_bytes), self._limits)
        self.served.require_dense(asked.model, asked.dimensions)
        read = 0

        def count(answers: Sequence[Embedded]) -> None:
            nonlocal read
            tokens = sum(answer.read for answer in answers)
            self._figures.tokens(asked.model, tokens)
            read += tokens
            if read > self._limits.tokens:
                raise RefusedError(
                    400,
                    f"the texts of the request have more than {self._limits.tokens:,} tokens: send several requests",
                    param="input",
                )

        key = VectorsOf(asked.model, asked.role)
        answers = await self._answered(request, self._joiner.answers(key, asked.texts, count), "input")
        headers = {FINGERPRINT_HEADER: self.served.questions.fingerprints[asked.model]}
        return Response(await embeddings_body(asked, answers), media_type=_JSON, headers=headers)

    async def _search(self, request: Request) -> Response:
        asked = search_asked(await body_of(request, self._limits.body_bytes), self._limits)
        key = self.served.hits_of(asked)
        (hits,) = await self._answered(request, self._joiner.answers(key, [asked.question]), None)
        return _json({"object": "list", "data": [hit_values(hit) for hit in hits]})

    async def _answered(self, request: Request, work: Awaitable[list[Any]], param: str | None) -> list[Any]:
        """The answers. `param` is the field of the request that is at fault where its texts are.

        Raises:
            RefusedError: the work raised an error.
            ClientGoneError: the client has gone.
        """
        try:
            return await unless_gone(request, work)
        except SoloistError as exc:
            refusal = refusal_of(exc, param)
            if refusal.status >= _FIRST_OF_SERVER:
                self._say(exc)
            raise refusal from exc

    async def _models(self, _: Request) -> Response:
        return _json({"object": "list", "data": [self.served.model_values(name) for name in self.served.names]})

    async def _model(self, request: Request) -> Response:
        return _json(self.served.model_values(request.path_params["name"]))

    async def _health(self, _: Request) -> Response:
        is_ready = self._is_ready and self._joiner.is_alive
        status = "ready" if is_ready else "failed" if self.failure or not self._joiner.is_alive else "starting"
        return _json({"status": status, "models": list(self.served.names)}, 200 if is_ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._figures.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _refused(self, _: Request, exc: Exception) -> Response:
        if not isinstance(exc, RefusedError):
            self._say(exc)
        return _refusal_response(refusal_of(exc, None))

    def _say(self, exc: Exception) -> None:
        """Tell the person who runs the server; a message may have a path or a text in it, so only with `debug`."""
        if self._debug:
            traceback.print_exception(exc, file=sys.stderr)
            return
        print(
            f"soloist: a request failed ({type(exc).__name__}): start the server with --debug to see more",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _beginning(begin: Callable[[], None], app: Asgi) -> Asgi:
    async def begun(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            begin()
        await app(scope, receive, send)

    return begun


def _count_turn(figures: Figures, key: VectorsOf | HitsOf | Readiness, texts: int, seconds: float) -> None:
    if not isinstance(key, Readiness):
        figures.turn(key.name if isinstance(key, VectorsOf) else "search", texts, seconds)


async def _gone(_: Request, exc: Exception) -> Response:
    """Nobody reads it, but the figures count it."""
    return Response(status_code=_GONE)


async def _not_found(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow", "")
    if exc.status_code == _METHOD:
        methods = listed(sorted(allowed.split(", ")), "or")
        return _refusal_response(
            RefusedError(_METHOD, f"this path has no such method: send the request by {methods}", headers=exc.headers)
        )
    return _refusal_response(RefusedError(404, f"there is nothing at this path: choose {listed(_PATHS, 'or')}"))


async def embeddings_body(asked: EmbeddingsAsked, answers: Sequence[Embedded]) -> bytes:
    """The answer as OpenAI's clients read it; other requests have their turn in between."""
    parts: list[str] = []
    for index, (vector, _, _) in enumerate(answers):
        if index and index % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if asked.encoding == "base64":
            value = f'"{base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()}"'
        else:
            value = json_text(vector.tolist())
        parts.append(f'{{"object": "embedding", "index": {index}, "embedding": {value}}}')
    read, cut = sum(answer.read for answer in answers), sum(answer.cut for answer in answers)
    usage = json_text({"prompt_tokens": read, "total_tokens": read, "cut_tokens": cut})
    data = ", ".join(parts)
    return f'{{"object": "list", "data": [{data}], "model": {json_text(asked.model)}, "usage": {usage}}}'.encode()


def _json(values: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json_text(values), status, media_type=_JSON)


def _refusal_response(refusal: RefusedError) -> Response:
    """The answer of a request that gets none."""
    return Response(refusal.body(), refusal.status, refusal.headers, media_type=_JSON)
