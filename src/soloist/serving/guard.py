"""What every request passes: the key, the name of the host, the header of every answer, and the figures. Pure ASGI."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from soloist.serving.figures import Figures
from soloist.serving.keys import Key, names_loopback
from soloist.serving.refusals import RefusedError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/health"  # which says nothing that a key protects, and is asked by what has no key
_OTHER = "other"  # in figures: a path that there is not


class Guard:
    """An ASGI application before another one.

    With a key, every path but /health wants it. Without a key, the request has to name this machine as its host, and
    must not come from a page of another one.
    """

    def __init__(
        self, app: Asgi, key: Key | None, figures: Figures, headers: Mapping[str, str], paths: Mapping[Any, str]
    ) -> None:
        """`headers` are those of every answer that does not set them. `paths` says the path of each endpoint."""
        self._app = app
        self._key = key
        self._figures = figures
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._paths = dict(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                there = {name.lower() for name, _ in headers}
                message["headers"] = headers + [each for each in self._headers if each[0] not in there]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await send_refusal(refusal, send_and_see)
        else:
            try:
                await self._app(scope, receive, send_and_see)
            except Exception:  # which the application has told of, and has answered
                if not status:
                    raise
        route = self._paths.get(scope.get("endpoint"), _OTHER)
        self._figures.answered(route, status, time.monotonic() - began)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        if scope["path"].removeprefix(scope.get("root_path", "")) == HEALTH:
            return None
        if self._key is None:
            # A browser says from which page a request comes, also where the page may not read the answer.
            origin = _header(scope, b"origin").decode("latin-1")
            hosts = [_header(scope, b"host").decode("latin-1"), *([origin.rpartition("//")[2]] if origin else [])]
            return None if all(map(names_loopback, hosts)) else _foreign_host()
        return None if self._key.is_given(_header(scope, b"authorization")) else _wrong_key()


async def send_refusal(refusal: RefusedError, send: Send) -> None:
    """Answer with a refusal."""
    body = refusal.body()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for each, value in scope["headers"] if each == name), b"")


def _foreign_host() -> RefusedError:
    return RefusedError(
        403,
        "the request names another host than this machine, or comes from its page, and the server has no key: ask "
        "127.0.0.1 or localhost, or start the server with a key",
    )


def _wrong_key() -> RefusedError:
    return RefusedError(
        401,
        "the request has no key, or a wrong one: send the header Authorization with Bearer and the server's key",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
