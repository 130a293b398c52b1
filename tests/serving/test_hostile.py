"""Requests that mean harm: each has a 4xx or 503 with one sentence, and the server lives."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.collections import some_words
from support.server_processes import ServerProcess, embeddings_request, until_closed

import soloist.serving
from soloist.serving import Limits

pytestmark = pytest.mark.process
KEY = "a key of the tests"
HEAD = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def server(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(served, tmp_path_factory.mktemp("server") / "output", key=KEY)
    process.wait_until_ready()
    with contextlib.closing(process):
        yield process


@pytest.fixture(autouse=True)
def the_server_lives(server: ServerProcess) -> Iterator[None]:
    """After each request it answers, and has written of no failure."""
    yield
    status, answer, _ = server.ask(
        "POST", "/v1/embeddings", {"model": "bert", "input": "a"}, Authorization=f"Bearer {KEY}"
    )
    assert status == 200 and len(answer["data"]) == 1
    assert server.output.read_text() == ""


def refused(said: bytes) -> tuple[int, str]:
    """Status and sentence of an answer that refuses, of OpenAI's form."""
    head, _, body = said.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"] and ": " in error["message"]
    return int(head.split()[1]), error["message"]


def posted(body: bytes, path: str = "/v1/embeddings", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\n{HEAD}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (posted(b""), 400),
        (posted(b"{"), 400),
        (posted(b"[" * 1_000_000), 400),
        (posted(b'{"model":' * 100_000), 400),
        (posted(b'{"model": "bert", "input": "\\ud800"}'), 400),
        (posted(b'{"model": "bert", "input": "\xff"}'), 400),
        (posted(b'{"model": "bert", "input": [1e999, NaN]}'), 400),
        (posted(json.dumps({"model": "bert", "input": ["a"] * 10_000}).encode()), 400),
        (posted(json.dumps({"model": "bert", "input": "a" * 1_000_000}).encode()), 400),
        (posted(json.dumps({"question": "a", "by": "\ud800"}).encode(), "/v1/search"), 400),
        (posted(b'{"a":1}', "/v1/search", "Content-Encoding: gzip\r\n"), 400),
        (f"POST /v1/embeddings HTTP/1.1\r\n{HEAD}Content-Length: {10**30}\r\n\r\n".encode(), 400),
        (f"POST /v1/embeddings HTTP/1.1\r\n{HEAD}Content-Length: {10**12}\r\n\r\n{{".encode(), 413),
        (f"POST /v1/embeddings HTTP/1.1\r\n{HEAD}Content-Length: -1\r\n\r\n".encode(), 400),
        (f"POST /v1/embeddings HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(), 400),
        (f"DELETE /v1/embeddings HTTP/1.1\r\n{HEAD}\r\n".encode(), 405),
        (f"GET /../../etc/passwd HTTP/1.1\r\n{HEAD}\r\n".encode(), 404),
        (f"GET /v1/models/%00%ff HTTP/1.1\r\n{HEAD}\r\n".encode(), 404),
        (f"GET /v1/embeddings/ HTTP/1.1\r\n{HEAD}\r\n".encode(), 404),
        (f"GET /metrics HTTP/1.1\r\n{HEAD}X: {'a' * 1_000_000}\r\n\r\n".encode(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\r\n\r\n\x00\xff\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n", 401),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 401),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nConnection: close\r\n\r\n", 401),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xff\xfe\r\nConnection: close\r\n\r\n", 401),
    ],
)
def test_a_hostile_request_has_one_sentence(server: ServerProcess, request_: bytes, status: int) -> None:
    """A stranger's bytes end the server, or are answered with a page of its insides."""
    assert refused(server.raw(request_))[0] == status


def test_a_body_that_grows_without_end(server: ServerProcess) -> None:
    """A body in pieces says no length: all of it would be taken into memory."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    begin = f"POST /v1/embeddings HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    status, sentence = refused(server.raw(begin, *[chunk] * 80, b"0\r\n\r\n"))
    assert (status, sentence[:36]) == (413, "the body of the request has more tha")
    assert b" 413 " in server.raw(begin, *[chunk] * 80, b"zz\r\n")
    server.raw(begin, *[chunk] * 1_000)  # the server closes the connection; there may be no answer to read


def test_half_closed_and_broken_off(server: ServerProcess) -> None:
    """A connection whose client is silent, or gone, would be kept for ever."""
    body = embeddings_request({"model": "bert", "input": "a"}, Authorization=f"Bearer {KEY}")
    for end in (1, 20, len(body) - 1, len(body)):
        with server.connected() as connection:
            connection.sendall(body[:end])
            connection.shutdown(socket.SHUT_WR)
            until_closed(connection)
        with server.connected() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # ends with a reset
            connection.sendall(body[:end])


def test_requests_behind_each_other(server: ServerProcess) -> None:
    """Requests that come before the answer of the first: each has its own, in order."""
    one = embeddings_request({"model": "bert", "input": "a"}, Authorization=f"Bearer {KEY}", Connection="keep-alive")
    bad = posted(b"{", more="").replace(b"Connection: close\r\n", b"")
    last = embeddings_request({"model": "wordllama", "input": "a"}, Authorization=f"Bearer {KEY}")
    said = server.raw(one + bad + last)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", said) == [b"200", b"400", b"200"]


def test_seeded_mutations(server: ServerProcess) -> None:
    """Requests with bytes that were changed, left out, doubled or cut: an answer of the server's own, or none."""
    drawn = random.Random(20)
    whole = embeddings_request({"model": "bert", "input": ["a", "b"]}, Authorization=f"Bearer {KEY}")
    statuses = set()
    for _ in range(150):
        request = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            at = drawn.randrange(len(request))
            how = drawn.randrange(4)
            if how == 0:
                request[at] = drawn.randrange(256)
            elif how == 1:
                del request[at : at + drawn.randint(1, 8)]
            elif how == 2:
                request[at:at] = request[at : at + drawn.randint(1, 30)]
            else:
                request[at:at] = drawn.randbytes(3)
        with server.connected() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)  # else a request that lacks a byte is waited for
            said = until_closed(connection)
        if said:
            status = int(said.split()[1])
            statuses.add(status)
            assert status == 200 or refused(said)[0] == status
            assert status < 500
    assert {400, 401} <= statuses


def test_a_slow_sender_is_told_so(served: Path) -> None:
    """Clients that send a byte now and then would hold all connections of the server."""
    whole = embeddings_request({"model": "bert", "input": some_words(100)})
    with soloist.serving.start(served, port=0, limits=Limits(receive_seconds=0.3)) as slow:
        port = int(slow.url.rpartition(":")[2])
        for begin in (b"", whole[:10], whole[:-10]):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(begin)
                status, sentence = refused(until_closed(connection))
                assert (status, sentence) == (408, "the request did not arrive within 0.3 s: send it at once")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            with contextlib.suppress(OSError):
                for byte in whole:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.01)
            assert b"408" in until_closed(connection)


def test_too_much_at_once(served: Path) -> None:
    """Connections and texts without an end take all memory."""
    limits = Limits(connections=2, waiting_texts=3, tokens=50)
    with soloist.serving.start(served, port=0, limits=limits) as small, contextlib.ExitStack() as held:
        port = int(small.url.rpartition(":")[2])

        def connected() -> socket.socket:
            return held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))

        for texts, status in ((["a"] * 4, 503), ([some_words(60)] * 2, 400), (["a"] * 3, 200)):
            connection = connected()
            connection.sendall(embeddings_request({"model": "bert", "input": texts}))
            said = until_closed(connection)
            assert int(said.split()[1]) == status
            if status == 503:
                assert b"\r\nretry-after: " in said
        idle = [connected() for _ in range(2)]
        status, sentence = refused(until_closed(connected()))
        assert (status, sentence) == (503, "the server has as many open connections as it takes: ask again in 1 s")
        assert idle


def test_without_a_key_only_this_machine_is_named(served: Path) -> None:
    """A page in a browser whose name was turned to 127.0.0.1 would read the chunks of the run."""
    with soloist.serving.start(served, port=0) as keyless:
        port = int(keyless.url.rpartition(":")[2])
        for host, status in (("evil.example", 403), ("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:80", 200)):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(embeddings_request({"model": "bert", "input": "a"}, Host=host))
                assert int(until_closed(connection).split()[1]) == status, host
        origins = {"http://evil.example": 403, "null": 403, "http://localhost:3000": 200, "https://[::1]": 200}
        for origin, status in origins.items():
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(embeddings_request({"model": "bert", "input": "a"}, Origin=origin))
                assert int(until_closed(connection).split()[1]) == status, origin
