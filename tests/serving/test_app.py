"""The application in servers that are not uvicorn's, and below a path of another application."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

import soloist.serving


async def asked(app: Any, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST" if body else "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()],
    }  # fmt: skip
    said: list[Any] = []
    whole = False

    async def receive() -> dict[str, Any]:
        nonlocal whole
        if whole:
            await asyncio.Event().wait()
        whole = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said[0]["status"], json.loads(b"".join(message.get("body", b"") for message in said[1:]))


def test_below_a_path_of_another_application(served: Path) -> None:
    """Another application does not tell those below it that it begins: they would say for ever that they end."""

    async def test() -> None:
        app = Starlette(routes=[Mount("/soloist", app=soloist.serving.app(served, api_key="key"))])
        body = json.dumps({"model": "bert", "input": "a"}).encode()
        status, answer = await asked(app, "/soloist/v1/embeddings", body, authorization="Bearer key")
        assert status == 200 and len(answer["data"]) == 1
        while (await asked(app, "/soloist/health"))[0] != 200:
            await asyncio.sleep(0.01)
        assert (await asked(app, "/soloist/metrics"))[0] == 401
        assert (await asked(app, "/soloist/health/"))[0] == 401

    asyncio.run(test())
