"""The process that has imported torch and soloist, and forks a child for each command that a test asks for.

It runs no operation of torch and has no thread but the allocator's, so that a child finds nothing locked. It ends
with the process of pytest that it belongs to. `support.forks` is the tests' end: one connection for each command.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from support.forks import fork_workers

import soloist

_NETWORKS = ("bert", "qwen2", "xlm_roberta")  # of the tiny models
_LOOK_SECONDS = 1.0


def serve(address: str, owner: int) -> None:
    """Fork a child for each connection. The child says its id there, and this process its status when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the commands
    for name in _imports():
        importlib.import_module(name)
    assert threading.active_count() == 1, "threads do not survive a fork, and what they hold stays locked"
    fork_workers()
    # What is imported stays: no collection of a child looks through it, or writes to its pages.
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)  # whoever finds it there is answered
    _Server(listener, owner).run()


def _imports() -> Iterator[str]:
    """All of soloist, since commands import much of it late, and the networks. Adapters would bring frameworks."""
    for module in pkgutil.walk_packages(soloist.__path__, "soloist."):
        if not module.name.endswith("__main__") and not module.name.startswith("soloist.integrations."):
            yield module.name
    for name in _NETWORKS:
        yield f"transformers.models.{name}.modeling_{name}"


class _Server:
    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._listener = listener
        self._owner = owner
        self._connections: dict[int, socket.socket] = {}
        self._ended, self._wakes = os.pipe()
        for end in (self._ended, self._wakes):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until pytest has ended."""
        while _is_alive(self._owner):
            ready, _, _ = select.select([self._listener, self._ended], [], [], _LOOK_SECONDS)
            if self._ended in ready:
                os.read(self._ended, 4096)
                self._tell_of_the_ended()
            if self._listener in ready:
                self._fork(self._listener.accept()[0])

    def _fork(self, connection: socket.socket) -> None:
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as said:
            request = json.loads(said.read())
        child = os.fork()
        if not child:
            self._close()
            _be_the_command(request, files, connection)
        for file in files:
            os.close(file)
        self._connections[child] = connection

    def _tell_of_the_ended(self) -> None:
        while self._connections:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            with self._connections.pop(child) as connection:
                _say(connection, os.waitstatus_to_exitcode(status))

    def _close(self) -> None:
        """In a child: nothing of this may be closed later, when the command has a file of the same number."""
        signal.set_wakeup_fd(-1)
        self._listener.close()
        for connection in self._connections.values():
            connection.close()
        for end in (self._ended, self._wakes):
            os.close(end)


def _say(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # a test that failed listens no more
        connection.sendall(f"{number}\n".encode())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _be_the_command(request: dict[str, Any], files: list[int], connection: socket.socket) -> NoReturn:
    """What Python does from its start until the command's first line."""
    if request["start_new_session"]:
        os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with connection:
        _say(connection, os.getpid())  # who knows it may send a signal, to the group too
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in dict.fromkeys(paths) if path and path not in sys.path]
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = _streams()
    os._exit(_code_of(request["arguments"]))


def _code_of(arguments: list[str]) -> int:
    """Run the command and what it left for its exit; not Python's own tidying up, which takes longer than both."""
    code = 0
    try:
        _run(arguments)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
    except BaseException as exc:
        sys.excepthook(type(exc), exc, exc.__traceback__)
        code = 128 + signal.SIGINT if isinstance(exc, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


def _streams() -> tuple[io.TextIOWrapper, ...]:
    encoding, _, wanted = os.environ.get("PYTHONIOENCODING", "").partition(":")
    errors = (wanted or "strict", wanted or "strict", "backslashreplace")
    files = [open(number, "wb" if number else "rb", closefd=False) for number in range(3)]  # noqa: SIM115
    return tuple(
        io.TextIOWrapper(
            file, encoding=encoding or "utf-8", errors=how, line_buffering=file.isatty() or file.fileno() == 2
        )
        for file, how in zip(files, errors, strict=True)
    )


def _run(arguments: list[str]) -> None:
    """`-m MODULE`, `-c CODE` or a script, each with its arguments."""
    how, *more = arguments
    if how == "-m":
        sys.argv = more
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *more[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(more[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(how).resolve().parent)
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
