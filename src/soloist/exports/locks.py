"""One export into a target at a time: two at once would take each other's files away."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from soloist.errors import ExportError
from soloist.stores.atomic import disk_errors, make_folder

LOCK = ".lock"  # its name in a folder
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}
_SECONDS = 1.0  # what an export that is ending may still need


@contextlib.contextmanager
def exclusive(lock: Path, target: str) -> Iterator[None]:
    """Hold a lock file, which stays, for an export to `target`.

    Raises:
        ExportError: another export holds it.
        OutputError: it cannot be written.
    """
    held = FileLock(lock, mode=0o666)  # whoever may write to the target may export to it
    with disk_errors(lock):
        make_folder(lock.parent)
        try:
            held.acquire(timeout=_SECONDS)
        except Timeout as exc:  # an OSError too
            raise ExportError(f"another export is writing to {target}: wait until it has ended") from exc
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                raise
            raise ExportError(
                f"{target} is on a file system without locks: export to another file system, and copy the export there"
            ) from exc
    try:
        yield
    finally:
        held.release()
