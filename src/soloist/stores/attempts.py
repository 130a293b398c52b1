"""Files that workers write before the run takes them in: each attempt at a shard in a folder of its own.

    RUN/.attempts/<session>/<attempt>/<collection>/vectors/<model>/part-00000.parquet

The process that drives the run makes the folder of its session, and removes it at the end. A worker makes folders below
it and never the folder itself. So a worker that lives on after its session finds no place for its files.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors, make_folder
from soloist.stores.layout import ATTEMPTS
from soloist.stores.leftovers import remove_attempts
from soloist.stores.run_folder import RunFolder
from soloist.stores.run_lease import lease_id

_AT_WORK = "at-work"  # a file that only the driving process makes: folders above a file are made with the file


@contextlib.contextmanager
def attempts_of_a_session(root: Path) -> Iterator[Path]:
    """A new folder for the attempts of a session, which removes those of earlier ones. It is removed at the end.

    It has the name of the run's lease, where there is one: another name says that another session took the run over.

    Raises:
        OutputError: the folder cannot be made, or those of earlier sessions cannot be removed.
    """
    remove_attempts(root)
    session = root / ATTEMPTS / (lease_id(root) or secrets.token_hex(8))
    with disk_errors(session):
        make_folder(session)
        (session / _AT_WORK).touch()
    try:
        yield session
    finally:
        with contextlib.suppress(OutputError):  # a worker may write for a moment longer: the next session removes it
            remove_attempts(root, session.name)


def attempt_folder(session: Path, name: str) -> RunFolder:
    """The folder of an attempt, as a run folder whose files have the places that they would have in the run."""
    return RunFolder(session / name)


def make_room(attempt: RunFolder, file: str) -> None:
    """Make the folders in which a file of an attempt will lie, below the folder of the session.

    Raises:
        OutputError: the session is over, or the folders cannot be made.
    """
    session = attempt.path.parent
    if not (session / _AT_WORK).is_file():
        raise _is_over(session)
    folders = [attempt.path, *((attempt.path / file).parents)[::-1]]
    wanted = [folder for folder in dict.fromkeys(folders) if folder.is_relative_to(attempt.path)]
    for folder in wanted:
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as exc:
            raise _is_over(session) from exc
        except OSError as exc:
            with disk_errors(folder):
                raise exc


def require_kept(attempt: RunFolder) -> None:
    """Remove the file of an attempt that was written while its session ended, and the folders that came with it.

    Raises:
        OutputError: the session is over.
    """
    session = attempt.path.parent
    if (session / _AT_WORK).is_file():
        return
    with contextlib.suppress(OutputError):
        remove_attempts(session.parent.parent, session.name)
    raise _is_over(session)


def _is_over(session: Path) -> OutputError:
    return OutputError(f"the run of this worker is over, so its folder {session} is gone: end this worker")


def require_session(session: Path) -> None:
    """Refuse to go on where another session has taken over the run.

    Raises:
        OutputError: the folder of this session is gone.
    """
    if not (session / _AT_WORK).is_file() or lease_id(session.parent.parent) not in (None, session.name):
        raise OutputError(
            f"{session} is gone, because another session has taken over the run: find out which other command writes "
            f"to {session.parent.parent}"
        )
