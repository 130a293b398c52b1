"""Ctrl-C, once: the first raises KeyboardInterrupt, those after it wait until what it began is over."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Within this, one SIGINT raises KeyboardInterrupt and more do nothing.

    A second interrupt in the midst of a release would leave threads at work on devices that are no longer
    leased. Outside the main thread, or where the caller has a handler of its own, nothing is changed.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, _ignore)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which child processes would inherit."""
