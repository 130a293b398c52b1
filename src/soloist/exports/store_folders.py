"""Where exports may go, and whose the folders are that a store's own client keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from soloist.errors import ConfigError, ExportError, ExportPathError
from soloist.exports.asking import TITLE
from soloist.exports.locks import LOCK
from soloist.stores.atomic import disk_errors, is_temporary
from soloist.stores.layout import IDENTITY, STATE
from soloist.stores.manifest import NAME


def require_store_folder(path: Path, kind: str, has_store: Callable[[Path], bool], left: Collection[str] = ()) -> None:
    """Refuse a folder that is neither new, nor empty, nor one that `has_store` finds the store's files in.

    Names that the store leaves in an empty folder are `left`.

    Raises:
        ExportError: it is a file, or has files of somebody else.
    """
    if path.exists() and not path.is_dir():
        raise ExportPathError(f"{path} is a file: choose a folder for the export to {kind}")
    with disk_errors(path):
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
        others = [name for name in names if name not in (LOCK, *left) and not is_temporary(name)]
        others = [name for name in others if not _is_readme(path / name)]
    if others and not has_store(path):
        raise ExportError(f"{path} has files that no export to {kind} wrote: choose another folder, or empty it")


def _is_readme(path: Path) -> bool:
    """Whether it is the text that an export left beside its tables: it stays when a user has dropped them."""
    if not (path.name.startswith("README-") and path.is_file()):
        return False
    with path.open("rb") as file:
        beginning = TITLE.encode()
        return file.read(len(beginning)) == beginning


def require_outside_runs(path: Path) -> None:
    """Refuse a path in the folder of any run.

    Raises:
        ConfigError: it is one, or is in one.
    """
    with disk_errors(path):
        whole = Path(os.path.realpath(path))  # which takes a link to itself as it is
        run = next((folder for folder in (whole, *whole.parents) if _is_run(folder)), None)
    if run is not None:
        where = f"{path} is a run folder" if run == whole else f"{path} is inside the run folder {run}"
        raise ConfigError(f"{where}, which has its own files only: choose another --out")


def _is_run(path: Path) -> bool:
    return (path / NAME).is_file() and any((path / name).is_file() for name in ("run.json", IDENTITY, STATE))
