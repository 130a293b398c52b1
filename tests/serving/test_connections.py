"""Connections that hold a server by doing little: each ends, and no client that goes on is cut off."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server_processes import embeddings_request, until_closed

import soloist.serving
from soloist.serving import Limits

pytestmark = pytest.mark.process


@contextlib.contextmanager
def connected(served: Path, limits: Limits) -> Iterator[socket.socket]:
    """A connection to a server with these limits."""
    with soloist.serving.start(served, port=0, limits=limits) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            yield connection


@pytest.mark.parametrize("first", [b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_the_rest_of_a_request_behind_another_is_not_awaited_for_ever(served: Path, first: bytes) -> None:
    """A request whose beginning came with the one before it has no timer, and holds a connection without a key."""
    half = embeddings_request({"model": "bert", "input": "a"})[:-5]
    with connected(served, Limits(receive_seconds=0.3)) as connection:
        connection.sendall(first + half)
        said = until_closed(connection)
        assert said.count(b"HTTP/1.1 ") == 2 and b"HTTP/1.1 408 " in said


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(served: Path) -> None:
    """Answers that nobody takes would fill the memory."""
    request = embeddings_request({"model": "wordllama", "input": ["a word"] * 2_000})
    with connected(served, Limits(send_seconds=0.3)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(request)
        said = connection.recv(1)
        time.sleep(1)
        assert len(said + until_closed(connection)) < 11_000_000


def test_a_client_that_takes_its_answer_slowly_has_all_of_it(served: Path) -> None:
    """A large answer over a slow line would be cut off, though the client takes what it can."""
    request = embeddings_request({"model": "wordllama", "input": ["a word"] * 2_000})
    with connected(served, Limits(send_seconds=0.5)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(request)
        said = b""
        while part := connection.recv(1 << 17):
            said += part
            time.sleep(0.02)
    head, _, body = said.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert len(body) == length


def test_many_refused_bodies_on_a_connection(served: Path) -> None:
    """A client that keeps its connection would be cut off, without an answer, at the fifth body that is too large."""
    body = b"x" * (2 << 20)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with connected(served, Limits(body_bytes=1_000)) as connection:
        for _ in range(10):
            connection.sendall(head + body)
            said = b""
            while b"\r\n\r\n" not in said or not said.endswith(b"}}"):
                part = connection.recv(1 << 16)
                assert part
                said += part
            assert said.startswith(b"HTTP/1.1 413 ")
