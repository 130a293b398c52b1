"""Signs of life of a worker that stages models: it says now and then that it has read, written or computed something.

A disk or a network that hangs shows in that: the process reads no byte, and waits without computing. A download that
is slow, or a disk that is cold, moves bytes. Knows the process, and nothing of models.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

LOOK_SECONDS = 5.0
_BYTES = 4 << 20  # what a process that waits reads and writes is far less, also within an hour
_PROCESSOR_SHARE = 0.25  # of one processor; a process that waits takes some hundredths
_FAULT_BYTES = 64 << 10  # what is read where a page of a mapped file is not there yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a process has done since its start."""

    moved_bytes: int
    processor_seconds: float


@contextlib.contextmanager
def telling(say: Callable[[], object], look_seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Within this, `say` is called in a thread whenever this process has got on since the last time."""
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(say, look_seconds, ended), name="soloist-signs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def gets_on(told: Done, before: Done, now: Done, seconds: float) -> bool:
    """Whether a process gets on: what it had done when it last said so, at the last look `seconds` ago, and now."""
    computes = now.processor_seconds - before.processor_seconds >= _PROCESSOR_SHARE * seconds
    return computes or now.moved_bytes - told.moved_bytes >= _BYTES


def done_so_far() -> Done:
    """What this process has done since its start."""
    process = psutil.Process()
    moved = 0
    with contextlib.suppress(psutil.Error, AttributeError, OSError):  # not told here
        told = process.io_counters()
        moved = getattr(told, "read_chars", told.read_bytes) + getattr(told, "write_chars", told.write_bytes)
    moved += resource.getrusage(resource.RUSAGE_SELF).ru_majflt * _FAULT_BYTES
    return Done(moved_bytes=moved, processor_seconds=time.process_time())


def _tell(say: Callable[[], object], look_seconds: float, ended: threading.Event) -> None:
    told = before = done_so_far()
    looked = time.monotonic()
    while not ended.wait(look_seconds):
        now, at = done_so_far(), time.monotonic()
        if gets_on(told, before, now, at - looked):
            say()
            told = now
        before, looked = now, at
