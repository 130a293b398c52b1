"""A process that works for another one, and the lines of JSON between them. Knows nothing of the work.

The parent starts a worker and sends it one line. The worker sends events and words, one line each, and at the end what
became of its work. It ends when its standard input does, so that a killed parent leaves no worker behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from subprocess import PIPE, Popen, TimeoutExpired
from types import TracebackType
from typing import Any

from soloist.child_processes import SAFE_PATH
from soloist.errors import EncodingError, SoloistError
from soloist.events import Event, EventSink, event_from_dict, event_to_dict
from soloist.jsontext import json_text
from soloist.told_errors import error_from_dict, error_to_dict
from soloist.workers import WorkerThread

_LAST_LINES_SECONDS = 10  # what a worker has written is read at once, unless a process that it started has its stdout
_PULSE_SECONDS = 0.2
_END = "end"
_STOP = "stop "
_FAILED = "failed"
_ENDED_BY_PARENT = 70  # the exit code of a worker whose parent has ended, or wants it to end at once
_INTERRUPTED = 130


class WorkerProcess:
    """The parent's end of a worker process, as a context manager around its work.

    A thread reads the worker's lines to their end, and hands events on. A signal's handler may raise in the main thread
    at any moment, and there it would lose a line that was read.

    Args:
        code: what the worker runs. It ends in `work_for_parent`.
        request: what the worker receives first.
        sink: gets the worker's events, in that thread.
        lost: the error if the worker ends without a word. It is given how the worker has ended.
        unexpected: the error for what the worker raised without meaning to.
        patience: the seconds that a worker may take to end when it is told to. Then it is killed.

    Raises:
        OSError: on entering, the process cannot be started.
        RuntimeError: on entering, no thread can be started.
    """

    def __init__(
        self,
        code: str,
        request: Mapping[str, Any],
        sink: EventSink,
        *,
        lost: Callable[[str], SoloistError],
        unexpected: Callable[[str], SoloistError] = EncodingError,
        patience: float = 0.0,
    ) -> None:
        self._code = code
        self._request = request
        self._sink = sink
        self._lost = lost
        self._unexpected = unexpected
        self._patience = patience
        self._reader: WorkerThread | None = None
        # What the worker says besides events, or an error of the sink; None once it says no more.
        self._words: queue.SimpleQueue[Mapping[str, Any] | BaseException | None] = queue.SimpleQueue()

    def __enter__(self) -> WorkerProcess:
        command = (sys.executable, "-c", SAFE_PATH + self._code)
        path = os.pathsep.join(folder for folder in sys.path if folder and isinstance(folder, str))
        # In a process session of its own, Ctrl-C reaches the worker only through us, once, and in order.
        self._process = Popen(
            command, stdin=PIPE, stdout=PIPE, encoding="utf-8", errors="backslashreplace", start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": str(int(sys.flags.utf8_mode))},
        )  # fmt: skip
        try:
            self._reader = WorkerThread("soloist-lines")
            self._reader.submit(self._read)
            self.send(self._request)
        except BaseException:  # by a signal, or for want of a thread: there is no exit without an entry
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, message: object) -> None:
        """Send one line to the worker; why a worker has ended shows when its lines are read."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: closed by us
            self._process.stdin.write(json_text(message) + "\n")
            self._process.stdin.flush()

    def stop(self, why: str) -> None:
        """Tell the worker to end as soon as nothing is lost by it."""
        self.send(_STOP + why)

    def follow(self, *until: str, check: Callable[[], object] = lambda: None) -> Mapping[str, Any]:
        """Wait until the worker says one of these words, while its events are handed on; what it says with it.

        `check` is called while this waits, and may raise.

        Raises:
            SoloistError: what the worker raised instead, or that it ended.
            BaseException: what the sink raised.
        """
        while (said := self._said(check)) is not None:
            if isinstance(said, BaseException):
                raise said
            if said["word"] in until:
                return said
            if said["word"] == _FAILED:
                raise error_from_dict(said, self._unexpected)
        code = self._process.wait()
        raise self._lost(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

    def _said(self, check: Callable[[], object]) -> Mapping[str, Any] | BaseException | None:
        """The next word. Python runs a signal's handler between two waits, whichever thread got the signal."""
        while True:
            check()
            with contextlib.suppress(queue.Empty):
                return self._words.get(timeout=_PULSE_SECONDS)

    def _read(self) -> None:
        """The work of the thread. After an error of the sink it reads on, so that the worker can write to its end."""
        assert self._process.stdout is not None
        takes_events = True
        with self._process.stdout as lines:
            try:
                for line in lines:
                    message = _message(line)
                    if isinstance(message, Event):
                        takes_events = takes_events and self._hand_on(message)
                    elif message is not None:
                        self._words.put(message)
            finally:
                self._words.put(None)

    def _hand_on(self, event: Event) -> bool:
        """Whether the sink took an event."""
        try:
            self._sink.emit(event)
        except BaseException as exc:  # `follow` raises it in the main thread, an interrupt by the sink too
            self._words.put(exc)
            return False
        return True

    def close(self) -> None:
        """End the worker and wait for its end, which frees all that it has.

        A worker that is given time ends when its input ends, or else is killed. Before that, this process sends a word.
        It tells the worker that this process was not killed, so the worker may write what it has computed.
        """
        assert self._process.stdin is not None
        try:
            self.send(_END)
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait(self._patience)
        except BaseException as exc:
            self._kill()
            if not isinstance(exc, TimeoutExpired):
                raise
        finally:
            if self._reader is not None:
                self._reader.close_within(_LAST_LINES_SECONDS)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._reader is not None:
            self._reader.close_later()  # it closes stdout
        for pipe in (self._process.stdin, self._process.stdout if self._reader is None else None):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _message(line: str) -> Event | Mapping[str, Any] | None:
    """What a worker says in a line; None for a line of something else in its process, and for one that broke off."""
    if not line.endswith("\n"):
        return None
    try:
        message = json.loads(line)
        if isinstance(message, dict):
            return message if "word" in message else event_from_dict(message)
    except (TypeError, ValueError):
        pass
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is no stderr, or it is closed
        if line.strip():
            sys.stderr.write(line)
    return None


class ParentProcess:
    """The worker's end: lines come in, lines go out, and the end of the input is the end of the process.

    A sink of events, like any other.
    """

    def __init__(self) -> None:
        # Whatever the work prints goes to stderr: stdout is the parent's.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(2, 1)
        self._out.write("\n")  # something may have been printed before, without an end of its line
        self._out.flush()
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="soloist-parent", daemon=True).start()

    def receive(self) -> Any:
        """The next line's value."""
        return json.loads(self._requests.get())

    def say(self, word: str, **more: Any) -> None:
        """One word to the parent, with what belongs to it."""
        self._write({"word": word, **more})

    def emit(self, event: Event) -> None:
        """Hand an event on."""
        self._write(event_to_dict(event, 0.0))

    def stopped(self, why: str) -> None:
        """The parent wants the work to end as soon as nothing is lost by it. Called in a thread."""

    def ending(self) -> None:
        """The parent wants this process to end when this returns. Called in a thread, and not if the parent died."""

    def _write(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._out.write(json_text(message) + "\n")
            self._out.flush()

    def _listen(self) -> None:
        try:
            with open(0, encoding="utf-8", closefd=False) as lines:  # `sys.stdin` has the encoding of the locale
                for line in lines:
                    said = json.loads(line)
                    if said == _END:
                        self.ending()
                        break
                    if isinstance(said, str) and said.startswith(_STOP):
                        self.stopped(said.removeprefix(_STOP))
                    else:
                        self._requests.put(line)
        finally:  # also after half a line: the parent ended while it wrote
            if threading.main_thread().is_alive() and not self._out.closed:
                os._exit(_ENDED_BY_PARENT)


def work_for_parent(parent: ParentProcess, work: Callable[[Any], Mapping[str, Any]]) -> None:
    """Do the work that the parent asks for, say `done` with what became of it, and end the process."""
    try:
        done = work(parent.receive())
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)
    except Exception as exc:
        parent.say(_FAILED, **error_to_dict(exc))
        os._exit(1)
    parent.say("done", **done)
    # At once: the parent waits until all memory is given back, and nothing is left to clean up.
    os._exit(0)
