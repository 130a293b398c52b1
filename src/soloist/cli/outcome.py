"""How a command ends: the exit code, and at most one line on stderr."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import typer

from soloist.broken_imports import import_failure_text
from soloist.errors import (
    ConfigError,
    NothingFinishedError,
    OutputError,
    RunInterruptedError,
    RunStoppedError,
    SoloistError,
)
from soloist.reports.text import one_line

FAILED = 1
USAGE = 2
STOPPED = 3
INTERRUPTED = 130
_STOPPED_LINE = "soloist: stopped"


@contextlib.contextmanager
def exit_codes(*, debug: bool) -> Iterator[None]:
    """Turn what a command raises into an exit code and one line on stderr; the traceback only with `debug`.

    Where a reader has closed its end of stdout, typer ends the command without a word.
    """
    try:
        yield
        sys.stdout.flush()
    except RunInterruptedError as exc:
        _say_how_to_go_on(exc)
        raise typer.Exit(INTERRUPTED) from exc
    except KeyboardInterrupt as exc:
        say_stopped()
        raise typer.Exit(INTERRUPTED) from exc
    except BrokenPipeError:
        raise
    except RunStoppedError as exc:
        _say_how_to_go_on(exc)
        raise typer.Exit(STOPPED) from exc
    except SoloistError as exc:
        _say_error(str(exc), debug)
        raise typer.Exit(USAGE if isinstance(exc, ConfigError) else FAILED) from exc
    except ImportError as exc:
        _say_error(import_failure_text(exc), debug)
        raise typer.Exit(FAILED) from exc
    except Exception as exc:
        remedy = "" if debug else " (run again with --debug for the traceback)"
        _say_error(f"unexpected {type(exc).__name__}: {exc}{remedy}", debug)
        raise typer.Exit(FAILED) from exc


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within this, Ctrl-C ends the process at once, and whatever a broken library raises is an ImportError.

    Nothing has begun yet, and a library that is interrupted while it is imported may raise anything, or abort.
    """
    with _uncollected(), _ended_at_once():
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except Exception as exc:  # e.g. OSError for a shared library, SyntaxError for a file that was cut short
            raise ImportError(str(exc)) from exc


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Imports make no garbage: looking for it again and again takes a fifth of their four seconds."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def _ended_at_once() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"{_STOPPED_LINE}\n".encode())
    os._exit(INTERRUPTED)


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


def _program() -> list[str]:
    """What starts this program again: its name where the PATH has it, else its path."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [sys.executable, "-m", "soloist"]
    if not started.is_file():  # e.g. the -c of python -c
        return ["soloist"]
    on_path = shutil.which(started.name)
    return [started.name if on_path is not None and Path(on_path).samefile(started) else str(started)]


def _nowhere() -> TextIO:
    return open(os.devnull, "r+", encoding="utf-8")


def say_stopped() -> None:
    """Say on stderr that Ctrl-C came; progress lines say what became of the devices."""
    typer.echo(_STOPPED_LINE, err=True)


def _say_how_to_go_on(stopped: BaseException) -> None:
    """Say what ended a run, and the command line that continues it."""
    done = "was done before" if isinstance(stopped, NothingFinishedError) else "is done"
    typer.echo(f"soloist: {one_line(str(stopped))}; what {done} is kept, and this command continues the run:", err=True)
    typer.echo(f"  {shlex.join([*_program(), *sys.argv[1:]])}", err=True)


def _say_error(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    typer.echo(f"soloist: error: {one_line(message)}", err=True)
