"""`soloist serve` in a process of its own, and raw requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.forks import Forked

_PATIENCE_SECONDS = 60.0


class ServerProcess:
    """A server on a free port. `output` is the file with what it wrote; `said` is its first line."""

    def __init__(self, directory: Path, output: Path, *, key: str | None = None) -> None:
        self.output = output
        environment = {name: value for name, value in os.environ.items() if name != "SOLOIST_API_KEY"}
        if key is not None:
            environment["SOLOIST_API_KEY"] = key
        with output.open("wb") as errors:
            self._process = Forked(
                [sys.executable, "-m", "soloist", "serve", directory, "--port", "0"],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip
        self.said = self._process.stdout.readline().strip()
        assert self.said, output.read_text()
        self.url = self.said.split()[0]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (or text) and headers of the answer to a request, whose body is bytes or JSON-ready."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)
        with contextlib.closing(connection):
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            text = answer.read().decode()
            found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(text) if "json" in found.get("content-type", "") else text, found

    def raw(self, *parts: bytes) -> bytes:
        """All that the server says to these bytes, until it closes the connection or the answer is complete."""
        with self.connected() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    connection.sendall(part)
            return until_closed(connection)

    def connected(self) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_SECONDS)

    def wait_until_ready(self) -> None:
        """Return once every model has answered a question."""
        while self.ask("GET", "/health")[0] != 200:
            assert self._process.poll() is None, self.output.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(_PATIENCE_SECONDS)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            said += part
    return said


def embeddings_request(values: Any, **headers: str) -> bytes:
    """A whole request for vectors, after whose answer the server closes the connection."""
    body = json.dumps(values).encode()
    lines = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/embeddings HTTP/1.1\r\n{head}\r\n".encode() + body
