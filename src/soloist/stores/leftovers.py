"""What a run that was ended has left in its folder, and which the next run does not want."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors, is_temporary
from soloist.stores.layout import AHEAD, ATTEMPTS, HIDDEN, STATE
from soloist.stores.manifest import Manifest


@contextlib.contextmanager
def undone_on_error(root: Path, require_held: Callable[[], None] = lambda: None) -> Iterator[None]:
    """After an error before the new chunks are reconciled, a new folder is empty again, and another is as it was.

    Where `require_held` raises OutputError, another process has taken the folder over, and all that is there is its.
    """
    try:
        yield
    except BaseException:
        if _is_ours(require_held):
            _undo(root)
        raise


@contextlib.contextmanager
def ahead_removed(root: Path, require_held: Callable[[], None] = lambda: None) -> Iterator[None]:
    """At the end remove the vectors that still wait for their pass. See `undone_on_error` for `require_held`."""
    try:
        yield
    finally:
        if _is_ours(require_held):
            remove_ahead(root)


def _is_ours(require_held: Callable[[], None]) -> bool:
    try:
        require_held()
    except OutputError:
        return False
    return True


def _undo(root: Path) -> None:
    if Manifest(root).exists():
        remove_leftovers(root)
    else:
        empty_new_folder(root)


def remove_leftovers(root: Path) -> None:
    """Remove half-written files, chunks that were read and not reconciled, and vectors that the run has not taken in.

    Raises:
        OutputError: a file or a folder cannot be removed.
    """
    with disk_errors(root):
        _remove_hidden(root)
        for folder, _, names in os.walk(root):
            for name in names:
                if is_temporary(name):
                    Path(folder, name).unlink(missing_ok=True)  # whoever asks for the lease makes one for a moment


def remove_ahead(root: Path) -> None:
    """Remove the vectors that were embedded while the input was read, and that no pass has taken.

    Raises:
        OutputError: a file or a folder cannot be removed.
    """
    with disk_errors(root):
        _remove_folder(root / AHEAD)


def remove_attempts(root: Path, session: str | None = None) -> None:
    """Remove what workers of a cluster have computed, and the run has not taken in: of one session, or of all.

    Raises:
        OutputError: a file or a folder cannot be removed.
    """
    with disk_errors(root):
        _remove_folder(root / ATTEMPTS / session if session else root / ATTEMPTS)
    with contextlib.suppress(OSError):  # another session has taken the run over, and is at work there
        (root / ATTEMPTS).rmdir()


def empty_new_folder(root: Path) -> None:
    """Remove what a run has written before its first chunks were reconciled, and nothing else.

    Raises:
        OutputError: a file or a folder cannot be removed.
    """
    try:
        _remove_hidden(root)
        for name in ("events.jsonl", STATE, ".lock"):
            (root / name).unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{root} cannot be cleared: {exc.strerror}: remove it by hand") from exc


def _remove_hidden(root: Path) -> None:
    for name in HIDDEN:
        _remove_folder(root / name)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists. A thread that ends at the same time may still write or remove files there."""
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir():
        shutil.rmtree(folder)
