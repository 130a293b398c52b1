"""Ctrl-C while a process has nothing to keep: one sentence, and the end. Imports little, so it is there at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 130  # the exit code of a process that Ctrl-C has ended


@contextlib.contextmanager
def ended_at_once(text: str) -> Iterator[None]:
    """Within this, Ctrl-C writes the text to stderr and ends the process. A caller's own handler stays."""
    if not is_heard_by(signal.default_int_handler):
        yield
        return

    def end(number: int, frame: object) -> None:
        write_to_stderr(f"{text}\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_heard_by(handler: Callable[..., object]) -> bool:
    """Whether this handler gets Ctrl-C, and may be replaced here."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is handler


def write_to_stderr(text: str) -> None:
    """In a signal's handler, which may have interrupted a write to the stream."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))
