"""Processes as `subprocess` starts them, without their imports: each is forked from one that has imported torch.

An import of torch and sentence-transformers takes four seconds of a core, and tests start some hundred commands. A
fork is a process like any other: it has its own id, standard streams, arguments, environment and working directory,
and takes signals. Three things differ, and a test of one of them starts a process by `subprocess`:

- What Python or a library reads at its very start is that of the process that forks: the locale, the number of
  threads, variables of huggingface_hub.
- Its peak memory has the imports from the beginning.
- It ends without Python's own tidying up.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

_TESTS = Path(__file__).resolve().parents[1]
# The folder of the socket, and the process that it is there for.
FORKS = "SOLOIST_TEST_FORKS"
_OWNER = "SOLOIST_TEST_FORKS_OWNER"
# Where it is set, the worker of an isolated pass is started, not forked.
STARTED = "SOLOIST_TEST_STARTED_WORKERS"
_DRIVER = "soloist.engine.drivers.isolated"
_PATIENCE_SECONDS = 600  # for imports on a busy machine
_MODES = ("w", "r", "r")


def forks_live_in(folder: Path) -> None:
    """Say where the process that forks has its socket, for this process and those that it starts: they share it."""
    os.environ[FORKS] = str(folder)
    os.environ[_OWNER] = str(os.getpid())


def fork_workers() -> None:
    """From now on the workers of isolated passes are forked too, in this process, where the variable is not set."""
    if driver := sys.modules.get(_DRIVER):
        driver.Popen = _begin_worker  # type: ignore[attr-defined]


def _begin_worker(command: Sequence[object], **options: Any) -> subprocess.Popen[str] | Forked:
    return (subprocess.Popen if os.environ.get(STARTED) else Forked)(command, **options)


class Forked:
    """A process with `subprocess.Popen`'s attributes and methods; its command begins with `sys.executable`.

    `stdin`, `stdout` and `stderr` are None for this process's own, PIPE, DEVNULL, a file or its number; `stderr` is
    STDOUT too, where `stdout` is a file.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | str | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.args = [os.fsdecode(part) if isinstance(part, bytes) else str(part) for part in command]
        assert self.args[0] == sys.executable, "only Python is forked"
        self.returncode: int | None = None
        self._text = text or encoding is not None
        self._encoding = encoding
        self._errors = errors
        self._readers: list[threading.Thread] = []
        self._written: dict[str, Any] = {}
        with contextlib.ExitStack() as theirs:
            stderr = stdout if stderr == subprocess.STDOUT else stderr
            ends = [self._end(number, given, theirs) for number, given in enumerate((stdin, stdout, stderr))]
            request = {
                "arguments": self.args[1:], "env": dict(os.environ if env is None else env),
                "cwd": str(cwd or Path.cwd()), "start_new_session": start_new_session,
            }  # fmt: skip
            self._connection = _connected()
            socket.send_fds(self._connection, [b"."], [child for child, _ in ends])
            self._connection.sendall(json.dumps(request).encode())
            self._connection.shutdown(socket.SHUT_WR)
        self._answers = self._connection.makefile("r")
        self.stdin, self.stdout, self.stderr = (ours for _, ours in ends)
        self.pid = int(self._answers.readline())

    def _end(self, number: int, given: int | IO[Any] | None, theirs: contextlib.ExitStack) -> tuple[int, Any]:
        """The child's end of a stream, and ours where it is a pipe."""
        if given == subprocess.PIPE:
            read, write = os.pipe()
            child, own = (write, read) if number else (read, write)
            theirs.callback(os.close, child)
            if self._text:
                return child, open(own, _MODES[number], encoding=self._encoding, errors=self._errors)
            return child, open(own, f"{_MODES[number]}b")
        if given == subprocess.DEVNULL:
            opened = os.open(os.devnull, os.O_RDWR)
            theirs.callback(os.close, opened)
            return opened, None
        if given is None:
            return number, None
        return given if isinstance(given, int) else given.fileno(), None

    def poll(self) -> int | None:
        """The exit code, -N where signal N killed it; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            line = self._answers.readline()
            assert line, "the process that forks has ended"
            self.returncode = int(line)
            self._answers.close()
            self._connection.close()
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """All that it writes to its pipes, once it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._read_all()
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input if input is not None else "" if self._text else b"")
        for reader in self._readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return self._written.get("stdout"), self._written.get("stderr")

    def _read_all(self) -> None:
        if not self._readers:
            streams = {"stdout": self.stdout, "stderr": self.stderr}
            open_ones = {name: stream for name, stream in streams.items() if stream is not None and not stream.closed}
            self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in open_ones.items()]
            for reader in self._readers:
                reader.start()

    def _read(self, name: str, stream: IO[Any]) -> None:
        with stream:
            self._written[name] = stream.read()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.wait()


def run_forked(
    command: Sequence[object],
    *,
    input: Any = None,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` with a process that is forked."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Forked(command, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)
    if check:
        done.check_returncode()
    return done


def _connected() -> socket.socket:
    """A connection to the process that forks, which is started where there is none yet."""
    folder = Path(os.environ[FORKS])
    address = folder / "socket"
    connection = socket.socket(socket.AF_UNIX)
    with FileLock(folder / "lock"):
        if not address.exists():
            _start(address)
        connection.connect(str(address))
    return connection


def _start(address: Path) -> None:
    paths = [str(_TESTS), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    log = address.with_name("log")
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server", str(address), os.environ[_OWNER]], stdin=subprocess.DEVNULL,
            stdout=written, stderr=written, env=environment, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not address.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    process.returncode = 0  # it outlives this process, and nobody waits for it
