"""A request as it arrives, and its client while the answer is computed. Knows starlette's requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from soloist.serving.refusals import ClientGoneError, RefusedError

Answer = TypeVar("Answer")
_DIGITS = 18  # a length with more of them is larger than any limit


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request, of up to `most` bytes.

    Raises:
        RefusedError: it has more.
        ClientGoneError: the client has gone.
    """
    length = request.headers.get("content-length", "")
    is_number = length.isascii() and length.isdigit()
    if is_number and (len(length) > _DIGITS or int(length) > most):
        raise _too_large(most)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
    except ClientDisconnect as exc:
        raise ClientGoneError from exc
    return b"".join(parts)


async def unless_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """The result of some work, which is cancelled where the client of the request goes away.

    Raises:
        ClientGoneError: the client has gone.
    """
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientGoneError
    finally:
        answering.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body of the request has more than {most:,} bytes: send several requests")
