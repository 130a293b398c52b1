"""How a command ends: the exit code, and one sentence on stderr where there is no result."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import NoReturn, TextIO

import typer

from soloist.broken_imports import import_failure_text, importing_libraries
from soloist.cli.way_on import WayOn, starts_again
from soloist.errors import ConfigError, OutputError, RunStoppedError, SoloistError
from soloist.interrupts import INTERRUPTED, ended_at_once, is_heard_by, write_to_stderr
from soloist.reports.text import one_line
from soloist.workers import left_to_themselves

FAILED = 1
USAGE = 2
STOPPED = 3
_ENDED = "soloist: Ctrl-C came after the command had ended, so nothing is lost\n"
_Handler = Callable[[int, FrameType | None], object]
# Whether the process ends with the command. A caller that runs commands in its own process keeps its handlers.
_ends_with_command: ContextVar[bool] = ContextVar("ends_with_command", default=False)


@contextlib.contextmanager
def exit_codes(*, debug: bool, way_on: WayOn = starts_again) -> Iterator[None]:
    """Turn what a command raises into an exit code and one line on stderr; the traceback only with `debug`.

    `way_on` says what a command that was stopped leaves. Where a reader has closed its end of stdout, typer ends the
    command without a word.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as exc:
        _hear_no_more()
        raise typer.Exit(_told(exc, debug, way_on)) from exc
    _hear_no_more()


def _told(exc: BaseException, debug: bool, way_on: WayOn) -> int:
    """Say why a command ended; its exit code."""
    if isinstance(exc, (RunStoppedError, KeyboardInterrupt)):
        _say_stopped(exc, way_on)
        return STOPPED if isinstance(exc, RunStoppedError) else INTERRUPTED
    if isinstance(exc, SoloistError):
        _say_error(str(exc), debug)
        return USAGE if isinstance(exc, ConfigError) else FAILED
    if isinstance(exc, ImportError):
        _say_error(import_failure_text(exc), debug)
        return FAILED
    remedy = "" if debug else " (run again with --debug for the traceback)"
    _say_error(f"unexpected {type(exc).__name__}: {exc}{remedy}", debug)
    return FAILED


@contextlib.contextmanager
def importing(way_on: WayOn = starts_again) -> Iterator[None]:
    """Within this, Ctrl-C ends the process at once, and a library that is unfit or broken is an InstallationError.

    Nothing has begun yet. And if a library is interrupted during its import, it may raise anything, or abort.
    """
    with ended_at_once(_stopped_text(KeyboardInterrupt(), way_on)), importing_libraries():
        yield


@contextlib.contextmanager
def written_to_stdout(what: str, *, before: str = "") -> Iterator[None]:
    """Where stdout cannot be written, say so of `what`; `before` is what to say first.

    Raises:
        OutputError: stdout cannot be written, e.g. because its disk is full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        sys.stdout = _nowhere()  # else Python tries again at its end, and exits with another code
        raise OutputError(f"{before}{what} could not be written to stdout: {exc.strerror or exc}") from exc


def open_missing_streams() -> None:
    """Open streams that the caller closed (`>&-`): a closed one is None, and the next file takes its number."""
    sys.stdin = sys.stdin or _nowhere()
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "r+", encoding="utf-8")


def through(command: Callable[[], object]) -> NoReturn:
    """Run the command of this process, and end the process with its exit code.

    A Ctrl-C that comes once the command has ended changes nothing: what there was to say has been said.
    """
    _ends_with_command.set(True)
    atexit.register(_ignore_interrupts)  # the first to be registered is the last to be called
    code: int | str | None = 0
    try:
        command()
    except SystemExit as exc:
        code = exc.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED and is_heard_by(signal.default_int_handler):  # exit_codes has not heard of it
        typer.echo(_stopped_text(KeyboardInterrupt(), starts_again), err=True)
    _close(code)


def _close(code: int | str | None) -> NoReturn:
    """End the process. It ends at once where it would otherwise wait for a download that nobody needs any more."""
    number = 0 if code is None else code if isinstance(code, int) else FAILED
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _ended_handler(number))
    if left_to_themselves():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(number)
    gc.freeze()  # else Python looks through all objects of torch once more, which takes a second
    sys.exit(code)


def _ended_handler(code: int) -> _Handler:
    """The first Ctrl-C is answered, where nothing has been said of a stop yet; a second one ends the process."""
    is_told = code in (STOPPED, INTERRUPTED)

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal is_told
        if is_told:
            os._exit(code)
        write_to_stderr(_ENDED)
        is_told = True

    return answer


def _hear_no_more() -> None:
    """From here on Ctrl-C would only take the command's last words away."""
    if _ends_with_command.get() and is_heard_by(signal.default_int_handler):
        signal.signal(signal.SIGINT, _ignored)


def _ignored(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which child processes would inherit."""


def _ignore_interrupts() -> None:
    """Where Python has ended and libraries are still tidying up, its handlers are gone."""
    with contextlib.suppress(ValueError):  # in another thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say_stopped(stopped: BaseException, way_on: WayOn) -> None:
    """Say what ended a command, and how it goes on; progress lines say what became of the devices."""
    typer.echo(_stopped_text(stopped, way_on), err=True)


def _stopped_text(stopped: BaseException, way_on: WayOn) -> str:
    return f"soloist: {one_line(str(stopped)) or 'stopped by Ctrl-C'}; {way_on(stopped)}"


def _say_error(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    typer.echo(f"soloist: error: {one_line(message)}", err=True)
