"""The lock of a run folder: one run at a time writes to it. Knows nothing of what is in the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors

_NAME = ".lock"
_LOCK_SECONDS = 1.0  # to ask whether a folder is locked holds it for a moment


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for one run.

    Raises:
        OutputError: another run holds it.
    """
    lock = _acquired(folder, _LOCK_SECONDS)
    if lock is None:
        raise OutputError(f"another run is writing to {folder}: wait until it has ended, or choose another folder")
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a run is at work in a folder. Where nothing can be written, as on a read-only disk, there is none."""
    if not (folder / _NAME).is_file():
        return False
    try:
        lock = _acquired(folder, 0)
    except OutputError:
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _acquired(folder: Path, seconds: float) -> BaseFileLock | None:
    """The lock of a folder; None where another run has it."""
    lock = FileLock(folder / _NAME)
    with disk_errors(folder):
        try:
            lock.acquire(timeout=seconds)
        except Timeout:  # an OSError too
            return None
    return lock
