"""A server from its start to its end: the socket, the signals and uvicorn. Knows processes and threads; no paths."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

import uvicorn

from soloist.errors import ConfigError
from soloist.serving.connections import BoundedConnection
from soloist.serving.endpoints import FINGERPRINT_HEADER, Application
from soloist.serving.keys import KEY_VARIABLE, key_for, key_of
from soloist.serving.limits import Limits
from soloist.serving.served import Served
from soloist.wording import count_text, listed

_AT_ONCE = 130
_MOST_PORT = 65_535
_STARTED_SECONDS = 0.02
_KEPT_SECONDS = 30  # that a connection without a request stays; clients keep theirs for the next question


class Listening:
    """A socket that listens, before anything is loaded: a port that is taken is known at once."""

    def __init__(self, host: str, port: int) -> None:
        """Bind the socket.

        Raises:
            ConfigError: the port is taken, or this machine has no such host.
        """
        if not 0 <= port <= _MOST_PORT:
            raise ConfigError(f"the port is {port}: give a number from 0 to {_MOST_PORT}; 0 is any free port")
        self.host = host
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except (OSError, UnicodeError) as exc:
            raise ConfigError(f"this machine does not know the host {host}: give an address of its own") from exc
        self.socket = socket.socket(family, kind, protocol)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(address)
            self.socket.listen(128)
        except OSError as exc:
            self.socket.close()
            raise ConfigError(
                f"the port {port} of {host} cannot be had ({exc.strerror}): give --port another number, or 0 for any "
                "free port"
            ) from exc

    @property
    def url(self) -> str:
        """Where clients of this machine ask."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.socket.getsockname()[1]}"


class Server(uvicorn.Server):
    """Uvicorn's server, ended by signals as soloist's commands are: the first finishes, and the second ends at once."""

    def __init__(
        self, application: Application, listening: Listening, limits: Limits, say: Callable[[str], object]
    ) -> None:
        """`say` gets one line once clients may ask."""
        protocol = functools.partial(
            BoundedConnection, limits=limits, answer_headers={FINGERPRINT_HEADER: application.served.fingerprint}
        )
        super().__init__(
            uvicorn.Config(
                application.asgi,
                http=cast(Any, protocol),
                ws="none",
                lifespan="on",
                loop="asyncio",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=limits.connections,
                timeout_keep_alive=_KEPT_SECONDS,
                timeout_graceful_shutdown=round(limits.finish_seconds),
            )
        )
        self._application = application
        self._listening = listening
        self._say = say

    @property
    def url(self) -> str:
        """Where clients of this machine ask."""
        return self._listening.url

    def serve_until_stopped(self) -> None:
        """Serve until a signal or `should_exit` asks for the end, and finish what is in work.

        Raises:
            SoloistError: why a model could not answer its first question.
        """
        self.run(sockets=[self._listening.socket])
        if threading.current_thread() is not threading.main_thread():
            self._application.join()  # a thread of a library that is at work when a process ends aborts it
        if self._application.failure is not None:
            raise self._application.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        key = f"clients need the key of {KEY_VARIABLE}" if self._application.has_key else "no key is needed"
        self._say(f"{self.url} answers by {listed(self._application.served.names)}; {key}")

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; also where a model cannot answer."""
        return await super().on_tick(counter) or self._application.failure is not None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Within this, SIGINT and SIGTERM end the server. Uvicorn would raise the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks for the end, and the second one ends the process."""
        if self.should_exit:
            os._exit(_AT_ONCE)
        self.should_exit = True
        if texts := self._application.waiting_texts:
            left = f"soloist: {count_text(texts, 'text')} in work, then the server ends; a second signal ends it now\n"
            with contextlib.suppress(OSError):
                os.write(2, left.encode())


class RunningServer:
    """A server in a thread of this process, from `soloist.serving.start`. `with` stops it at its end."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, name="soloist-server", daemon=True)
        self._thread.start()
        while not server.started and self._thread.is_alive():
            self._thread.join(_STARTED_SECONDS)
        if self._errors:
            raise self._errors.pop()

    @property
    def url(self) -> str:
        """Where clients of this machine ask, e.g. `http://127.0.0.1:8000`."""
        return self._server.url

    @property
    def is_alive(self) -> bool:
        """Whether the server runs. It ends by itself where a model cannot answer; `stop` says why."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish what is in work, and end.

        Raises:
            SoloistError: why a model could not answer its first question.
        """
        self._server.should_exit = True
        self._thread.join()
        if self._errors:
            raise self._errors.pop()

    def _serve(self) -> None:
        try:
            self._server.serve_until_stopped()
        except BaseException as exc:  # for the thread that calls `stop`
            self._errors.append(exc)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def opened_server(
    directory: Path,
    *,
    host: str,
    port: int,
    api_key: str | None,
    catalogue: Path | None,
    limits: Limits,
    debug: bool,
    say: Callable[[str], object] = lambda _: None,
) -> Server:
    """A server that is about to serve: its socket listens, and its folder is open.

    Raises:
        SoloistError: see `soloist.serving.serve`.
    """
    key = key_for(host, api_key)
    listening = Listening(host, port)
    try:
        return Server(Application(Served.open(directory, catalogue), key, limits, debug), listening, limits, say)
    except BaseException:
        listening.socket.close()
        raise


def application(
    directory: Path, api_key: str | None, catalogue: Path | None, limits: Limits, debug: bool
) -> Application:
    """The application alone, see `soloist.serving.app`."""
    key = None if api_key is None else key_of(api_key)
    return Application(Served.open(directory, catalogue), key, limits, debug)
