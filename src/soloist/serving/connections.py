"""Connections that are slow, broken or too many. Knows uvicorn's protocol, whose timers end with a request's last byte.

Uvicorn has no time limit for a request that arrives byte by byte, nor for a client that does not take its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from soloist.serving.limits import Limits
from soloist.serving.refusals import RefusedError, overloaded

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 503: b"Service Unavailable"}
_UNREAD_BYTES = (
    16 << 20
)  # of a body whose request has been refused; a client reads the answer once it has sent its body
_LEAST_TAKEN_BYTES = 256 << 10  # of an answer, in `Limits.send_seconds`


class BoundedConnection(H11Protocol):
    """A connection of HTTP/1.1 with an end to how long a client may take.

    A request has to arrive in `Limits.receive_seconds`, also one that began to arrive before the answer of another. Of
    an answer, the client has to take 256 KiB, or the rest, in each `Limits.send_seconds`.
    """

    def __init__(self, *arguments: Any, limits: Limits, answer_headers: Mapping[str, str], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._answer_headers = answer_headers
        self._arriving: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._left_bytes = 0
        self._unread_of: object = None
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._end(overloaded(1, of="open connections"))
        else:
            self._arriving = self.loop.call_later(self._limits.receive_seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop(self._arriving, self._leaving)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came of a request."""
        if self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            if self._unread_of is not self.cycle:
                self._unread_of, self._unread_bytes = self.cycle, 0
            self._unread_bytes += len(data)
            if self._unread_bytes > _UNREAD_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def handle_events(self) -> None:
        """Take what came of requests, now or before the last answer, and wait for the rest of one that has begun."""
        super().handle_events()
        if not self._awaits_more():
            self._stop(self._arriving)
            self._arriving = None
        elif self._arriving is None and not self.transport.is_closing():
            self._arriving = self.loop.call_later(self._limits.receive_seconds, self._too_slow)

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent."""
        super().pause_writing()
        self._stop(self._leaving)
        self._wait_for_taking()

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        self._stop(self._leaving)
        self._leaving = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._end(RefusedError(400, "the request is not HTTP/1.1: send a request as the page on the server shows"))

    def _awaits_more(self) -> bool:
        """Whether a request has begun to arrive, and is not complete."""
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return begun or self.conn.their_state is h11.SEND_BODY

    def _wait_for_taking(self) -> None:
        self._left_bytes = self.transport.get_write_buffer_size()
        self._leaving = self.loop.call_later(self._limits.send_seconds, self._see_taken)

    def _see_taken(self) -> None:
        if self._left_bytes - self.transport.get_write_buffer_size() < _LEAST_TAKEN_BYTES:
            self.transport.abort()
        else:
            self._wait_for_taking()

    def _too_slow(self) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        seconds = f"{self._limits.receive_seconds:g}"
        self._end(RefusedError(408, f"the request did not arrive within {seconds} s: send it at once"))

    def _end(self, refusal: RefusedError) -> None:
        """Send an answer that no application gives, and close the connection. Where another was begun, only close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = refusal.body()
        headers = {
            "content-type": "application/json", "content-length": str(len(body)), "connection": "close",
            **refusal.headers, **self._answer_headers,
        }  # fmt: skip
        event = h11.Response(
            status_code=refusal.status,
            headers=[(name.lower().encode(), value.encode()) for name, value in headers.items()],
            reason=_REASONS[refusal.status],
        )
        for each in (event, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(each) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # its application has nothing to send any more
            self.cycle.message_event.set()
        self.transport.close()

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()
