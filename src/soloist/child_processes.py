"""For a Python process that another process starts: its import path, and its end."""

from __future__ import annotations

import ctypes
import signal
import sys

# The beginning of code for `python -c`. Its own first entry of the path is the current folder: a file there might have
# the name of a module.
SAFE_PATH = "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1


def end_with_starter() -> None:
    """From now on, this process is killed when the thread that started it ends. On Linux only.

    Nothing happens if that thread has ended before.
    """
    set_process_option(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_process_option(option: int, value: int) -> None:
    """Set an attribute of this process, on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
