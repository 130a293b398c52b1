"""Clients that no server wants: requests that it has to refuse, and connections that only hold a place."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

_SENDERS = 4
_PAUSE_SECONDS = 0.02  # of a sender between two requests: so there are some 200 a second, less what the server delays
_HELD_CONNECTIONS = 50
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
_PATH = "/v1/embeddings"


def _request(body: bytes, path: str = _PATH, method: str = "POST", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode() + body


REQUESTS: dict[str, bytes] = {
    "bad JSON": _request(b'{"model": "fused", "input": '),
    "a body that is announced as huge": _request(b"{", length=1 << 40),
    "a body of 8 MB": _request(b'{"model": "fused", "input": "' + b"a" * (8 << 20) + b'"}'),
    "deep nesting": _request(b"[" * 100_000),
    "10,000 texts": _request(json.dumps({"model": "fused", "input": ["a"] * 10_000}).encode()),
    "half a character": _request(b'{"model": "fused", "input": "\\ud800"}'),
    "an unknown model": _request(b'{"model": "no such model", "input": "a"}'),
    "an unknown path": _request(b"{}", path="/v1/no/such/path"),
    "another method": _request(b"{}", method="DELETE"),
    "no HTTP": b"\x16\x03\x01 a handshake of something else\r\n\r\n",
}


@dataclass(slots=True)
class Attack:
    """For each kind of request how often it was refused, and how often it was not. `fewest_held` are the connections
    that were open at a look, at the least.
    """

    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in REQUESTS})
    fewest_held: int = _HELD_CONNECTIONS


@contextlib.contextmanager
def beside(port: int) -> Iterator[Attack]:
    """Within this they ask, in threads. A connection that the server ends without an answer counts as refused.

    Raises:
        OSError: the server takes no connection. So nothing is measured beside fewer clients.
    """
    attack, ended = Attack(), threading.Event()
    with ThreadPoolExecutor(_SENDERS + 1) as pool:
        jobs = [pool.submit(_send, port, attack.counts, ended) for _ in range(_SENDERS)]
        jobs.append(pool.submit(_hold, port, attack, ended))
        try:
            yield attack
        finally:
            ended.set()
    for job in jobs:
        job.result()


def _send(port: int, counts: dict[str, list[int]], ended: threading.Event) -> None:
    while True:
        for name, request in REQUESTS.items():
            if ended.wait(_PAUSE_SECONDS):
                return
            counts[name][0 if _is_refused(port, request) else 1] += 1


def _is_refused(port: int, request: bytes) -> bool:
    """Whether the answer is an error of the client's, or that there is no room, or none. Silence is no refusal."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
            with contextlib.suppress(ConnectionError):  # it may be refused before all of it is sent
                connection.sendall(request)
            head = connection.recv(1 << 16)
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return not head or re.match(rb"HTTP/1.1 (4..|503) ", head) is not None


def _hold(port: int, attack: Attack, ended: threading.Event) -> None:
    """Connections that send a byte now and then, and every fifth one with its sending side closed after half a request.
    Whatever the server closes is opened again.
    """
    slow: list[socket.socket] = []
    half_closed: list[socket.socket] = []
    start = _request(b"", length=1_000)
    with contextlib.ExitStack() as closing:
        while not ended.wait(_LOOK_SECONDS if slow else 0):
            if slow:
                slow, half_closed = list(filter(_takes, slow)), list(filter(_is_open, half_closed))
                attack.fewest_held = min(attack.fewest_held, len(slow) + len(half_closed))
            while len(slow) + len(half_closed) < _HELD_CONNECTIONS:
                connection = closing.enter_context(
                    socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS)
                )
                connection.sendall(start[: len(start) // 2])
                if 4 * len(half_closed) < len(slow):
                    connection.shutdown(socket.SHUT_WR)
                    half_closed.append(connection)
                else:
                    slow.append(connection)


def _takes(connection: socket.socket) -> bool:
    """Whether a byte more can be sent: the server has not closed the connection."""
    try:
        connection.sendall(b"a")
    except OSError:
        return False
    return True


def _is_open(connection: socket.socket) -> bool:
    """Whether the server has neither answered nor closed the connection."""
    try:
        connection.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
