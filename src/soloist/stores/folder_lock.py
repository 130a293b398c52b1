"""The lock of a run folder: one run at a time writes to it. Knows nothing of what is in the folder.

A run on this machine holds the lock of a file. A run on many machines also holds the lease of `run_lease`, because on a
shared folder the lock of a file may hold one machine only. Every run looks at both. Where the file system has no locks,
every run holds the lease alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors
from soloist.stores.run_lease import clear_stale, holder, leased

_NAME = ".lock"
_HAVE_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_LOCK_SECONDS = 1.0  # to ask whether a folder is locked holds it for a moment


@contextmanager
def held(
    folder: Path, *, shared: bool = False, on_lost: Callable[[str], object] = lambda why: None
) -> Iterator[Callable[[], None]]:
    """Hold a folder for one run; with `shared` also against runs on other machines.

    Gives a function that raises OutputError if another machine has taken the folder over. `on_lost` is called then too,
    in a thread, with the sentence that says so.

    Raises:
        OutputError: another run holds it.
    """
    has_locks = _has_locks(folder)
    lock = _acquired(folder, _LOCK_SECONDS) if has_locks else None
    if has_locks and lock is None:
        other = holder(folder) or _local_holder(folder / _NAME)
        raise OutputError(f"{other} is writing to {folder}: wait until it has ended, or choose another folder")
    try:
        if shared or not has_locks:
            with leased(folder, on_lost) as lease:
                yield lease.require_held
        else:
            clear_stale(folder)
            yield lambda: None
    finally:
        if lock is not None:
            lock.release()


def is_held(folder: Path) -> bool:
    """Whether a run is at work in a folder. Where nothing can be written, as on a read-only disk, there is none."""
    return holder(folder) is not None or _is_locked(folder)


def _is_locked(folder: Path) -> bool:
    if not ((folder / _NAME).is_file() and _has_locks(folder)):
        return False
    try:
        lock = _acquired(folder, 0)
    except OutputError:
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _has_locks(folder: Path) -> bool:
    """Whether files of a folder can be locked. Lustre, and FUSE or NFS mounts, may be without locks."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return True  # whoever takes the lock is told why it cannot be
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in _HAVE_NO_LOCKS
    finally:
        os.close(descriptor)
    return True


def _local_holder(path: Path) -> str:
    """Who has the lock of a file on this machine, as words. Linux lists the locks with their processes."""
    with suppress(OSError, ValueError, IndexError):
        found = path.stat()
        wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
                return f"another run, process {fields[4]},"
    return "another run"


def _acquired(folder: Path, seconds: float) -> BaseFileLock | None:
    """The lock of a folder; None where another run has it."""
    lock = FileLock(folder / _NAME)
    with disk_errors(folder):
        try:
            lock.acquire(timeout=seconds)
        except Timeout:  # an OSError too
            return None
    return lock
