"""What this process holds of the host's memory for itself. Reads the system's figures; judges nothing."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import psutil

_ROLLUP = Path("/proc/self/smaps_rollup")
_ANONYMOUS = "Anonymous:"


def own_bytes() -> int:
    """Memory that is this process's alone, once garbage is collected and the C library has given back what it can.

    Pages of files that are mapped (weights, vectors, libraries) do not count: the system takes them away when it likes.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # Linux alone has it
        for line in _ROLLUP.read_text().splitlines():
            if line.startswith(_ANONYMOUS):
                return 1024 * int(line.split()[1])
    return int(psutil.Process().memory_full_info().uss)
