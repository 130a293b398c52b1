"""Writing a file once: whole, synced to the disk and under its final name, or not at all.

Knows paths and the operating system's errors. Knows nothing of what the files contain.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soloist.errors import OutputError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the body ends well, the file gets its name `path`.

    The folder of `path` is made where it is missing. A body that raises leaves nothing behind, and a
    file that was at `path` before as it was. The body's own errors pass through untouched: wrap its
    writes in `disk_errors`.

    Raises:
        OutputError: the file cannot be synced or renamed.
    """
    with disk_errors(path):
        make_folder(path.parent)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # see is_temporary
    try:
        yield temp
        with disk_errors(path):
            sync_file(temp)
            temp.replace(path)
            sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `atomic_path` gave out, left by a killed process."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names `path`, the reason and the remedy."""
    try:
        yield
    except OSError as exc:
        # pyarrow sets errno but words strerror its own way.
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise OutputError(f"cannot write {path}: {reason}: {_remedy(exc.errno)}") from exc


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each one's entry synced: a lost entry would lose the files below it."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


@contextmanager
def none_left_on_error(path: Path) -> Iterator[None]:
    """If the body fails, remove the folder and its parents again, unless they were there before or are not empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first that is not empty, or that is not there
            for folder in missing:
                folder.rmdir()
        raise


def _remedy(number: int | None) -> str:
    if number in _FULL:
        return "free some space and run again"
    if number in _FORBIDDEN:
        return "allow writing there, or choose another folder"
    return "check the disk, or choose another folder"


def sync_file(path: Path) -> None:
    """Sync the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder to the disk: a file that was made or renamed there is found after a power cut."""
    if os.name != "posix":  # Windows can open no folder, and needs no sync of one
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
