"""Where the chunk files are, and which other files lie beside them. Knows names and folders, and of a file no more than
its first line.

Every folder is read once, however many links lead to it, and the order is the same on every file system.
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
from soloist.errors import InputError
from soloist.formats import DEFAULT_FILE_PATTERNS, JSON_LINES, format_of, uncompressed_name
from soloist.own_files import EXPORTED_LINE_BYTES, is_exported_line, own_folder
from soloist.sources.csv_files import lacks_text_column
from soloist.sources.lake_tables import lake_table
from soloist.sources.partitions import partition_of
from soloist.sources.passed_over import PassedOver, PassedOverFiles, reason_of
from soloist.types import Collection

# Beside a corpus in the BEIR layout: lines with text that are no chunks.
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

    Each folder in `root` that holds chunk files at any depth is a collection with the folder's name. A
    `root` that directly holds chunk files is one collection, with its own name and all files below it; so is one whose
    folders are the partitions of a table (`lang=en`, `lang=de`).
    Chunk files are those whose name matches one of `config.file_patterns`, whatever its case and with or without the
    ending of a compression; with the default patterns, a CSV or TSV file without the column of texts is none. Hidden
    files and folders are no input, and `queries.jsonl` is passed over. Links to folders are followed, but none
    to a folder that has been read already or that contains `root`.

    Args:
        root: the folder to look in; it is only read.
        config: the patterns of the file names.
        wanted: names of collections; empty for all. What lies in others is not counted.

    Raises:
        InputError: a folder is missing or cannot be read, there are no chunk files, a wanted collection
            is not there, or soloist itself wrote a folder or a file below `root`.
    """
    _require_folder(root)
    candidates, loose = _candidates(root, config)
    named = {name: each for name, each in candidates.items() if each.files}
    if not named:
        raise _nothing_found(root, config, [loose, *(each.passed_over for each in candidates.values())])
    collections = tuple(_collection(name, each, root) for name, each in named.items())
    chosen = _select(collections, wanted, root)
    passed_over = PassedOverFiles()
    for counted in (loose, *(each.passed_over for name, each in candidates.items() if not wanted or name in wanted)):
        passed_over.add_all(counted)
    return InputFiles(collections=chosen, passed_over=passed_over)


def _nothing_found(root: Path, config: SourceConfig, others: Iterable[PassedOverFiles]) -> InputError:
    passed_over = PassedOverFiles()
    for counted in others:
        passed_over.add_all(counted)
    patterns = ", ".join(config.file_patterns) or "nothing"
    sentence = passed_over.sentence()
    return InputError(
        f"{root} holds no chunk files: looked for {patterns} at any depth, and --file-patterns names others"
        + (f"; {sentence}" if sentence else "")
    )


def _require_folder(root: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as exc:
        raise InputError(
            f"the folder of chunks {root} cannot be read ({exc.strerror}): name a folder that can"
        ) from exc
    if not is_folder:
        raise InputError(f"the folder of chunks {root} is a file: name the folder that it is in")


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A folder that is a collection if it holds chunk files."""

    root: Path
    files: list[Path] = field(default_factory=list)
    passed_over: PassedOverFiles = field(default_factory=PassedOverFiles)


def _candidates(root: Path, config: SourceConfig) -> tuple[dict[str, _Candidate], PassedOverFiles]:
    """What may be collections, by name in order, and the files in the root itself that are in none of them."""
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
    found = {
        entry.name: _filled(_Candidate(root=root / entry.name), sorter, containing)
        for entry in entries
        if _is_folder(entry)
    }
    if _is_one_table([name for name, each in found.items() if each.files]):
        return {own_name: _filled(_Candidate(root=root), sorter, containing[1:])}, PassedOverFiles()
    return found, top.passed_over


def _is_one_table(folder_names: Sequence[str]) -> bool:
    """Whether folders are the partitions of one table: all of one key."""
    keys = {partition[0] if (partition := partition_of(name)) else None for name in folder_names}
    return len(keys) == 1 and None not in keys


def _collection(name: str, found: _Candidate, root: Path) -> Collection:
    files = sorted(found.files, key=lambda file: file.relative_to(found.root).as_posix())
    folder = name if found.root != root else ""
    return Collection(name=name, root=found.root, files=tuple(files), folder=folder)


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
                # Links wait until all true folders are read, so that a link never takes a folder's files over.
                (waiting.appendleft if entry.is_symlink() else waiting.append)(current / entry.name)
            else:
                sorter.sort(entry, candidate)
    return candidate


class _Sorter:
    """Tells chunk files from others."""

    def __init__(self, root: Path, config: SourceConfig) -> None:
        self.root = root
        self._text_field = config.text_field
        self._patterns = tuple(pattern.lower() for pattern in config.file_patterns)
        self._is_default = config.file_patterns == DEFAULT_FILE_PATTERNS

    def sort(self, entry: os.DirEntry[str], candidate: _Candidate) -> None:
        """Add the file to the candidate's own, or to those that are passed over.

        Raises:
            InputError: it is a file that soloist exported.
        """
        file = Path(entry.path)
        other = self._why_not(entry, file)
        if other is None:
            candidate.files.append(file)
        else:
            candidate.passed_over.add(other)

    def _why_not(self, entry: os.DirEntry[str], file: Path) -> PassedOver | None:
        place = file.relative_to(self.root)
        name = uncompressed_name(entry.name)
        takes = self._takes(entry.name.lower())
        if name == _QUERIES_FILE:
            return PassedOver(file=place, reason="questions", detail="the questions of a BEIR folder")
        if not _is_plain(entry, is_chunk_file=takes):
            return PassedOver(file=place, reason="not a plain file")
        if not takes:
            return PassedOver(file=place, reason=reason_of(entry.name))
        format_ = format_of(entry.name)
        if format_.needs_text_column and self._is_default:
            found = lacks_text_column(file, self._text_field, format_.name)
            if found:
                return PassedOver(file=place, reason="no column of texts", detail=found)
        if format_ is JSON_LINES:
            _require_no_export(file, self.root)
        return None

    def _takes(self, name: str) -> bool:
        plain = uncompressed_name(name)
        names = {name, plain} if format_of(name).is_text else {name}
        return any(fnmatchcase(each, pattern) for each in names for pattern in self._patterns)


def _is_plain(entry: os.DirEntry[str], *, is_chunk_file: bool) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # e.g. a broken link: reading it says what is wrong, passing over it would hide it
        return is_chunk_file


def _require_no_export(file: Path, root: Path) -> None:
    try:
        with file.open("rb") as raw:
            head = raw.read(EXPORTED_LINE_BYTES)
    except OSError:  # reading it tells
        return
    if is_exported_line(head):
        raise _own(file, "a file that soloist exported", root)


def _own(path: Path, what: str, root: Path) -> InputError:
    return InputError(
        f"{path} is {what}, and its rows are no chunks: "
        + ("name the folder of your chunks" if path == root else f"move it out of {root}, or name another folder")
    )


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name.

    Raises:
        InputError: it cannot be read, soloist wrote it, or it is a table with versions.
    """
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as exc:
        raise InputError(
            f"the folder {folder} cannot be read ({exc.strerror}): allow it, or hide the folder by a leading dot"
        ) from exc
    own = own_folder([entry.name for entry in entries if not _is_folder(entry)])
    if own is not None:
        raise _own(folder, own, root)
    table = lake_table(folder, [entry.name for entry in entries])
    if table is not None:
        raise InputError(
            f"{folder} is a table of {table}, and such a folder keeps rows that were deleted or replaced: write the "
            "rows that the table has now as Parquet, and name their folder"
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
