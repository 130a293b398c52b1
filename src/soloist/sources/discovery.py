"""Finds the chunk files, and the other files beside them. Knows names and folders, and of a file only its first line.

Every folder is read once, however many links lead to it. The order is the same on every file system.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from soloist.config import SourceConfig
from soloist.errors import InputError, UnknownInputError
from soloist.formats import DEFAULT_FILE_PATTERNS, JSON_LINES, format_of, uncompressed_name
from soloist.own_files import EXPORTED_LINE_BYTES, is_exported_line, own_folder
from soloist.sources.csv_files import lacks_text_column
from soloist.sources.lake_tables import lake_table
from soloist.sources.partitions import partition_of
from soloist.sources.passed_over import PassedOver, PassedOverFiles, reason_of
from soloist.types import Collection

# A corpus in BEIR's format has this file beside it. Its lines have texts, but are not chunks.
_QUERIES_FILE = "queries.jsonl"
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFiles:
    """The collections below a root, and the files that are in none of them."""

    collections: tuple[Collection, ...]
    passed_over: PassedOverFiles


def discover(root: Path, config: SourceConfig, wanted: Sequence[str] = ()) -> tuple[Collection, ...]:
    """The collections below `root`, see `find_input`."""
    return find_input(root, config, wanted).collections


def find_input(root: Path, config: SourceConfig, wanted: Sequence[str] = ()) -> InputFiles:
    """Find the collections below `root`, sorted by name, their files sorted by POSIX path relative to the collection.

    - Each folder in `root` that holds chunk files at any depth is a collection with the folder's name.
    - A `root` that directly holds chunk files is one collection. It has the name of `root` and all files below it.
    - So is a `root` whose folders are the partitions of a table (`lang=en`, `lang=de`).
    - A chunk file has a name that matches one of `config.file_patterns`. Case does not matter, and the name may end in
      that of a compression.
    - With the default patterns, a CSV or TSV file without the text column is not a chunk file.
    - Hidden files and folders are ignored, and `queries.jsonl` is passed over.
    - Links to folders are followed, except to a folder that was read already or that contains `root`.

    Args:
        root: the folder to look in; nothing is written there.
        config: the patterns of the file names.
        wanted: names of collections; empty for all. Files in other collections are not counted.

    Raises:
        InputError: a folder is missing or cannot be read, there are no chunk files, a wanted collection
            is missing, or soloist itself wrote a folder or a file below `root`.
    """
    _require_folder(root)
    candidates, loose = _candidates(root, config)
    if not any(candidate.files for candidate in candidates.values()):
        raise _no_chunk_files(root, config, _all_passed_over(loose, candidates.values()))
    collections = [_collection(name, candidate, root) for name, candidate in candidates.items() if candidate.files]
    chosen = _select(collections, wanted, root)
    counted = [candidate for name, candidate in candidates.items() if not wanted or name in wanted]
    return InputFiles(collections=chosen, passed_over=_all_passed_over(loose, counted))


def _all_passed_over(loose: PassedOverFiles, candidates: Iterable[_Candidate]) -> PassedOverFiles:
    passed_over = PassedOverFiles()
    for files in (loose, *(candidate.passed_over for candidate in candidates)):
        passed_over.add_all(files)
    return passed_over


def _no_chunk_files(root: Path, config: SourceConfig, passed_over: PassedOverFiles) -> InputError:
    patterns = ", ".join(config.file_patterns) or "nothing"
    sentence = passed_over.sentence()
    remedies = "; ".join(passed_over.remedies(other_names=True))
    return InputError(
        f"{root} holds no chunk files: soloist looked for {patterns} at any depth; {remedies}"
        + (f". {sentence}" if sentence else "")
    )


def _require_folder(root: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as exc:
        raise UnknownInputError(
            f"the folder of chunks {root} cannot be read ({exc.strerror}): give a folder that can be read"
        ) from exc
    if not is_folder:
        raise UnknownInputError(f"the folder of chunks {root} is a file: give the folder that contains it")


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A folder that is a collection if it holds chunk files."""

    root: Path
    files: list[Path] = field(default_factory=list)
    passed_over: PassedOverFiles = field(default_factory=PassedOverFiles)


def _candidates(root: Path, config: SourceConfig) -> tuple[dict[str, _Candidate], PassedOverFiles]:
    """The possible collections, by name in order, and the files in the root itself that are in none of them."""
    sorter = _Sorter(root, config)
    entries = _entries(root, root)
    containing = _identities_upwards(root)
    top = _Candidate(root=root)
    for entry in entries:
        if not _is_folder(entry):
            sorter.sort(entry, top)
    # Its own name must be readable from a root such as "." or "..".
    own_name = root.resolve().name or "root"
    if top.files:
        return {own_name: _filled(_Candidate(root=root), sorter, containing[1:])}, PassedOverFiles()
    candidates = {
        entry.name: _filled(_Candidate(root=root / entry.name), sorter, containing)
        for entry in entries
        if _is_folder(entry)
    }
    if _is_one_table([name for name, candidate in candidates.items() if candidate.files]):
        return {own_name: _filled(_Candidate(root=root), sorter, containing[1:])}, PassedOverFiles()
    return candidates, top.passed_over


def _is_one_table(folder_names: Sequence[str]) -> bool:
    """Whether the folders are the partitions of one table: all have the same key."""
    keys = {partition[0] if (partition := partition_of(name)) else None for name in folder_names}
    return len(keys) == 1 and None not in keys


def _collection(name: str, candidate: _Candidate, root: Path) -> Collection:
    files = sorted(candidate.files, key=lambda file: file.relative_to(candidate.root).as_posix())
    folder = name if candidate.root != root else ""
    return Collection(name=name, root=candidate.root, files=tuple(files), folder=folder)


def _filled(candidate: _Candidate, sorter: _Sorter, closed: Iterable[_Identity]) -> _Candidate:
    """The candidate with all files below its folder."""
    read = set(closed)
    waiting = deque([candidate.root])
    while waiting:
        current = waiting.pop()
        identity = _identity(current)
        if identity in read:
            continue
        read.add(identity)
        for entry in _entries(current, sorter.root):
            if _is_folder(entry):
                # Links wait until all real folders are read. So a folder's files never count as those of a link to it.
                (waiting.appendleft if entry.is_symlink() else waiting.append)(current / entry.name)
            else:
                sorter.sort(entry, candidate)
    return candidate


class _Sorter:
    """Sorts files into chunk files and others."""

    def __init__(self, root: Path, config: SourceConfig) -> None:
        self.root = root
        self._text_field = config.text_field
        self._patterns = tuple(pattern.lower() for pattern in config.file_patterns)
        self._is_default = config.file_patterns == DEFAULT_FILE_PATTERNS

    def sort(self, entry: os.DirEntry[str], candidate: _Candidate) -> None:
        """Add the file to the candidate's chunk files, or to the files that are passed over.

        Raises:
            InputError: soloist exported the file.
        """
        file = Path(entry.path)
        passed_over = self._why_not(entry, file)
        if passed_over is None:
            candidate.files.append(file)
        else:
            candidate.passed_over.add(passed_over)

    def _why_not(self, entry: os.DirEntry[str], file: Path) -> PassedOver | None:
        inside = file.relative_to(self.root)
        matches = self._matches(entry.name.lower())
        if uncompressed_name(entry.name) == _QUERIES_FILE:
            return PassedOver(file=inside, reason="questions", detail="the questions of a BEIR folder")
        if not _is_plain(entry, is_chunk_file=matches):
            return PassedOver(file=inside, reason="not a plain file")
        if not matches:
            return PassedOver(file=inside, reason=reason_of(entry.name))
        format_ = format_of(entry.name)
        if format_.needs_text_column and self._is_default:
            fault = lacks_text_column(file, self._text_field, format_.name)
            if fault:
                return PassedOver(file=inside, reason="no column of texts", detail=fault)
        if format_ is JSON_LINES:
            _require_no_export(file, self.root)
        return None

    def _matches(self, file_name: str) -> bool:
        plain = uncompressed_name(file_name)
        names = {file_name, plain} if format_of(file_name).is_text else {file_name}
        return any(fnmatchcase(name, pattern) for name in names for pattern in self._patterns)


def _is_plain(entry: os.DirEntry[str], *, is_chunk_file: bool) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # e.g. a broken link: reading it reports the fault, passing over it would hide it
        return is_chunk_file


def _require_no_export(file: Path, root: Path) -> None:
    try:
        with file.open("rb") as raw:
            head = raw.read(EXPORTED_LINE_BYTES)
    except OSError:  # whoever reads the file reports it
        return
    if is_exported_line(head):
        raise _own(file, "a file that soloist exported", root)


def _own(path: Path, what: str, root: Path) -> InputError:
    return InputError(
        f"{path} is {what}, so its rows are not chunks: "
        + ("give the folder with your chunks" if path == root else f"move it out of {root}, or give another folder")
    )


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name.

    Raises:
        InputError: the folder cannot be read, soloist wrote it, or it is a table with versions.
    """
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as exc:
        raise InputError(
            f"the folder {folder} cannot be read ({exc.strerror}): make it readable, or hide it by a leading dot"
        ) from exc
    own = own_folder([entry.name for entry in entries if not _is_folder(entry)])
    if own is not None:
        raise _own(folder, own, root)
    table = lake_table(folder, [entry.name for entry in entries])
    if table is not None:
        raise InputError(
            f"{folder} is a {table} table, which also keeps rows that were deleted or replaced: export the current "
            "rows as Parquet, and give their folder"
        )
    return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> _Identity:
    try:
        status = folder.stat()
    except OSError as exc:
        raise InputError(
            f"the folder {folder} cannot be read ({exc.strerror}): make it readable, or remove it"
        ) from exc
    return status.st_dev, status.st_ino


def _identities_upwards(root: Path) -> list[_Identity]:
    resolved = root.resolve()
    return [_identity(folder) for folder in (resolved, *resolved.parents)]


def _select(collections: Sequence[Collection], wanted: Sequence[str], root: Path) -> tuple[Collection, ...]:
    names = [collection.name for collection in collections]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UnknownInputError(f"{root} has no collection {missing[0]!r}: choose one of {', '.join(names)}")
    return tuple(collection for collection in collections if not wanted or collection.name in wanted)
