"""Where the chunk files are. Knows names and folders; never opens a file.

Every folder is read once, however many links lead to it, and the order is the same on every file system.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.types import Collection

# Beside a corpus in the BEIR layout: lines with text that are no chunks.
_QUERIES_FILE = "queries.jsonl"
_Identity = tuple[int, int]


def discover(root: Path, config: SourceConfig, wanted: Sequence[str] = ()) -> tuple[Collection, ...]:
    """Find the collections below `root`, sorted by name, their files sorted by POSIX path relative to the collection.

    Each folder in `root` that holds chunk files at any depth is a collection with the folder's name. A
    `root` that directly holds chunk files is one collection, with its own name and all files below it.
    Chunk files are those whose name matches one of `config.file_patterns`, whatever its case. Hidden
    files and folders, and `queries.jsonl`, are passed over. Links to folders are followed, but none
    to a folder that has been read already or that contains `root`.

    Args:
        root: the folder to look in; it is only read.
        config: the patterns of the file names.
        wanted: names of collections; empty for all.

    Raises:
        InputError: a folder is missing or cannot be read, there are no chunk files, or a wanted collection
            is not there.
    """
    _require_folder(root)
    collections = _collections(root, config.file_patterns)
    if not collections:
        patterns = ", ".join(config.file_patterns) or "nothing"
        raise InputError(
            f"{root} holds no chunk files: looked for {patterns} at any depth, and --file-patterns names others"
        )
    return _select(collections, wanted, root)


def _require_folder(root: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as exc:
        raise InputError(
            f"the folder of chunks {root} cannot be read ({exc.strerror}): name a folder that can"
        ) from exc
    if not is_folder:
        raise InputError(f"the folder of chunks {root} is a file: name the folder that it is in")


def _collections(root: Path, patterns: Sequence[str]) -> tuple[Collection, ...]:
    entries = _entries(root)
    containing = _identities_upwards(root)
    if any(_is_chunk_file(entry, patterns) for entry in entries):
        # Its own name must be readable from a root such as "." or "..".
        name = root.resolve().name or "root"
        return (_collection(name, root, patterns, containing[1:]),)
    folders = [entry.name for entry in entries if _is_folder(entry)]
    candidates = [_collection(name, root / name, patterns, containing) for name in folders]
    return tuple(candidate for candidate in candidates if candidate.files)


def _collection(name: str, folder: Path, patterns: Sequence[str], closed: Iterable[_Identity]) -> Collection:
    files = _files_below(folder, patterns, set(closed))
    return Collection(
        name=name, root=folder, files=tuple(sorted(files, key=lambda file: file.relative_to(folder).as_posix()))
    )


def _files_below(folder: Path, patterns: Sequence[str], closed: set[_Identity]) -> list[Path]:
    files: list[Path] = []
    waiting = deque([folder])
    while waiting:
        current = waiting.pop()
        identity = _identity(current)
        if identity in closed:
            continue
        closed.add(identity)
        for entry in _entries(current):
            if _is_folder(entry):
                # Links wait until all true folders are read, so that a link never takes a folder's files over.
                (waiting.appendleft if entry.is_symlink() else waiting.append)(current / entry.name)
            elif _is_chunk_file(entry, patterns):
                files.append(current / entry.name)
    return files


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            visible = [entry for entry in listing if not entry.name.startswith(".")]
    except OSError as exc:
        raise InputError(
            f"the folder {folder} cannot be read ({exc.strerror}): allow it, or hide the folder by a leading dot"
        ) from exc
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_chunk_file(entry: os.DirEntry[str], patterns: Sequence[str]) -> bool:
    name = entry.name.lower()
    if name == _QUERIES_FILE or not any(fnmatchcase(name, pattern.lower()) for pattern in patterns):
        return False
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # e.g. a broken link: reading it says what is wrong, passing over it would hide it
        return True


def _identity(folder: Path) -> _Identity:
    try:
        status = folder.stat()
    except OSError as exc:
        raise InputError(f"the folder {folder} cannot be read ({exc.strerror}): allow it, or remove it") from exc
    return status.st_dev, status.st_ino


def _identities_upwards(root: Path) -> list[_Identity]:
    resolved = root.resolve()
    return [_identity(folder) for folder in (resolved, *resolved.parents)]


def _select(collections: tuple[Collection, ...], wanted: Sequence[str], root: Path) -> tuple[Collection, ...]:
    names = [collection.name for collection in collections]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{root} holds no collection {missing[0]!r}: name one of {', '.join(names)}")
    return tuple(collection for collection in collections if not wanted or collection.name in wanted)
