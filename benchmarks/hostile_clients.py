"""Clients that no server wants: requests that it has to refuse, and connections that only hold a place."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

_SENDERS = 4
_PAUSE_SECONDS = 0.02  # of a sender between two requests: so there are some 200 a second, less what the server delays
_SLOW_CONNECTIONS = 50
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


@contextlib.contextmanager
def beside(port: int) -> Iterator[dict[str, list[int]]]:
    """Within this they ask, in threads. For each kind of request: how often it was refused, and how often it was not.

    A connection that the server ends without an answer counts as refused.
    """
    counts: dict[str, list[int]] = {name: [0, 0] for name in REQUESTS}
    ended = threading.Event()
    jobs: list[Callable[[], None]] = [lambda: _send(port, counts, ended) for _ in range(_SENDERS)]
    threads = [threading.Thread(target=job) for job in (*jobs, lambda: _hold(port, ended))]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _send(port: int, counts: dict[str, list[int]], ended: threading.Event) -> None:
    while True:
        for name, request in REQUESTS.items():
            if ended.wait(_PAUSE_SECONDS):
                return
            counts[name][0 if _is_refused(port, request) else 1] += 1


def _is_refused(port: int, request: bytes) -> bool:
    """Whether the answer is an error of the client's, or that there is no room, or none."""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):  # it may be refused before all of it is sent
            connection.sendall(request)
        head = connection.recv(1 << 16)
        return not head or head.split(b" ", 2)[1][:1] == b"4" or b" 503 " in head[:16]
    return True


def _hold(port: int, ended: threading.Event) -> None:
    """Connections that send a byte now and then, and some whose sending side is closed after half a request."""
    held: list[socket.socket] = []
    start = _request(b"", length=1_000)
    with contextlib.ExitStack() as closing:
        while not ended.is_set():
            while len(held) < _SLOW_CONNECTIONS:
                connection = closing.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                connection.sendall(start[: len(start) // 2])
                if len(held) % 5 == 0:
                    connection.shutdown(socket.SHUT_WR)
                held.append(connection)
            held = [connection for connection in held if _takes(connection)]
            time.sleep(0.5)


def _takes(connection: socket.socket) -> bool:
    """Whether a byte more can be sent: neither side has closed the connection."""
    try:
        connection.sendall(b"a")
    except OSError:
        return False
    return True
