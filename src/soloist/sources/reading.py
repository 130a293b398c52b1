"""The chunks of a collection, in order, and the handling of faults.

Knows formats by name only. The readers know the items of a file, and `chunk_fields` makes a chunk of an item.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soloist.config import RunConfig, SourceConfig
from soloist.errors import BadChunkFileError, ConfigError
from soloist.formats import format_of
from soloist.sources.chunk_fields import chunk_of, fields_of
from soloist.sources.discovery import InputFiles, find_input
from soloist.sources.faults import BadItem, NotAChunkError, UnreadableFileError
from soloist.sources.given import GivenCollection, given_input, read_given
from soloist.sources.ids import GivenId, find_id
from soloist.sources.partitions import partitions_of
from soloist.sources.readers import READERS
from soloist.types import Chunk, Collection, Place, SkippedInput, SkipReason

_REMEDY = "repair it, or leave it out with --on-bad-input skip"
_ITEMS_BETWEEN_LOOKS = 256
_Version = tuple[int, int, int]
_Check = Callable[[], object]


def input_of(config: RunConfig, chunks: object = None, *, again: str | None = None) -> InputFiles:
    """The collections of a run: those of `chunks`, if Python gave some, else those of the config's folder.

    Raises:
        SoloistError: as `find_input` and `given_input`, whose `again` this is; or there is neither.
    """
    if chunks is None:
        if config.root is None:
            raise ConfigError("the config has no folder of chunks, and no chunks are given: give one of them")
        return find_input(config.root, config.source, config.collections)
    return given_input(chunks, config.source, config.collections, again=again)


def read_chunks(
    collection: Collection,
    config: SourceConfig,
    on_skip: Callable[[SkippedInput], None],
    check: _Check = lambda: None,
) -> Iterator[tuple[Chunk, Place]]:
    """Yield each chunk of the collection with its place, file by file, or as Python gives them (see `given`).

    Memory is bounded by the largest chunk, or by 512 rows of a Parquet file, fewer where its rows are large. The
    ending of a file's name says its format (`soloist.formats`). An item is an object, a row or a plain string, and
    `chunk_fields` makes a chunk of it.

    Each text that is empty or only whitespace, and each file without items, goes to `on_skip`. So do
    faults where `config.on_bad_input` is "skip". A fault of one item skips that item. A fault of the
    file skips the rest of the file, and the detail says how many of its chunks were read before.

    `check` is called for each item, and also while many items are passed over. It may raise.

    Raises:
        BadChunkError: an item that Python gave is not a chunk, and `config.on_bad_input` is "error".
        BadChunkFileError: a file or an item cannot be read, and `config.on_bad_input` is "error". Or a file changed
            while it was read, in both settings: its chunks would be of different versions of the file.
    """
    if isinstance(collection, GivenCollection):
        yield from read_given(collection, config, on_skip, check)
    for file in collection.files:
        yield from _FileReading(collection, file, config, on_skip, check).chunks()


class _FileReading:
    """Reads the chunks of one file, and counts them."""

    def __init__(
        self,
        collection: Collection,
        file: Path,
        config: SourceConfig,
        on_skip: Callable[[SkippedInput], None],
        check: _Check,
    ) -> None:
        self._collection = collection
        self._file = file
        self._config = config
        self._on_skip = on_skip
        self._check = check
        self._format = format_of(file.name)
        self._partitions = partitions_of(collection, file)
        self._source_file = collection.inside(file)  # one text for all chunks of the file
        self._has_ids: bool | None = None
        self._first_without_id: int | None = None
        self._n_items = 0
        self._n_chunks = 0
        self._version: _Version | None = None

    def chunks(self) -> Iterator[tuple[Chunk, Place]]:
        """Yield the chunks, and report the items that are not chunks."""
        origin = self._file.relative_to(self._collection.root).as_posix()
        self._version = _version(self._file)
        try:
            for index, item in enumerate(self._items()):
                self._n_items += 1
                self._check()
                if self._n_items % _ITEMS_BETWEEN_LOOKS == 0:
                    self._require_unchanged()  # a file that grows as fast as it is read has no end
                chunk = self._chunk(item, origin, index)
                if chunk is not None:
                    self._n_chunks += 1
                    yield chunk, Place(file=self._file, index=index)
        except UnreadableFileError as exc:
            self._report_file(exc)
            return
        self._require_unchanged()
        if not self._n_items:
            self._skip(None, "no chunks")

    def _items(self) -> Iterator[Any]:
        """The items of the file. All that can fail in reading them becomes one kind of error."""
        try:
            yield from READERS[self._format.name](self._file, self._config.text_field, self._check)
        except OSError as exc:
            raise UnreadableFileError(f"cannot be read ({exc.strerror or exc})") from exc
        except MemoryError as exc:  # the file is sound, so it must not be skipped
            raise BadChunkFileError(
                f"{self._file} does not fit into memory: reading stopped at its {self._format.unit} {self._n_items}. "
                "Use a machine with more memory, or split the file"
            ) from exc
        except RecursionError as exc:
            raise UnreadableFileError(f"is nested too deeply after its first {self._n_items} items") from exc

    def _chunk(self, item: Any, origin: str, index: int) -> Chunk | None:
        try:
            if isinstance(item, BadItem):
                raise NotAChunkError(item.fault)
            fields = fields_of(item, self._config)
            text = fields[self._config.text_field]
            if not text or text.isspace():
                self._skip(index, "empty text")
                return None
            return chunk_of(
                fields, self._config, origin, index, self._partitions, functools.partial(self._check_id, index),
                self._source_file,
            )  # fmt: skip
        except NotAChunkError as exc:
            self._report_item(index, exc)
            return None

    def _check_id(self, index: int, given: GivenId) -> None:
        """Require that all chunks of the file have an id, or none. A derived id would hide that one is missing."""
        if given.id is not None:
            self._has_ids = True
            if self._first_without_id is not None:
                self._require_unchanged()
                raise BadChunkFileError(
                    f"{self._format.unit} {self._first_without_id} of {self._file} has no id, but {self._format.unit} "
                    f"{index} has one: give every chunk an id, or leave out those without one with --on-bad-input skip"
                )
            return
        # Looking ahead reads the file once more, up to the first id. Where a mixture ends the run anyway, the first
        # reading finds it.
        if self._has_ids is None and (given.empty is not None or self._config.on_bad_input == "skip"):
            self._has_ids = self._look_for_ids()
        if self._has_ids:
            why = f"{given.empty}, and other" if given.empty is not None else "other"
            raise NotAChunkError(f"has no id: {why} chunks of the file have one")
        if self._has_ids is None and self._first_without_id is None:
            self._first_without_id = index

    def _look_for_ids(self) -> bool:
        try:
            return any(map(self._has_id, self._items()))
        except UnreadableFileError:  # the reading of the chunks meets the fault again, and reports it
            return False

    def _has_id(self, item: Any) -> bool:
        self._check()
        if not isinstance(item, dict):
            return False
        try:
            text, metadata = fields_of(item, self._config)[self._config.text_field], item.get("metadata")
            if not text or text.isspace():
                return False
            return find_id(item, metadata if isinstance(metadata, dict) else {}, None).id is not None
        except NotAChunkError:
            return False

    def _require_unchanged(self) -> None:
        if self._version is not None and _version(self._file) != self._version:
            raise BadChunkFileError(
                f"{self._file} changed while it was read: wait until nothing writes to it, and run again"
            )

    def _report_item(self, index: int, exc: NotAChunkError) -> None:
        self._require_unchanged()  # the end of a line that is still being written looks like a fault
        if self._config.on_bad_input == "error":
            raise BadChunkFileError(f"{self._format.unit} {index} of {self._file} {exc}: {_REMEDY}") from exc
        self._skip(index, exc.reason, str(exc))

    def _report_file(self, exc: UnreadableFileError) -> None:
        self._require_unchanged()
        if self._config.on_bad_input == "error":
            raise BadChunkFileError(f"{self._file} {exc}: {_REMEDY}") from exc
        self._skip(None, "unreadable file", f"{exc}; {self._n_chunks} of its chunks were read before and kept")

    def _skip(self, index: int | None, reason: SkipReason, detail: str = "") -> None:
        self._on_skip(
            SkippedInput(collection=self._collection.name, file=self._file, index=index, reason=reason, detail=detail)
        )


def _version(file: Path) -> _Version | None:
    """A file's size, time and inode, which change with its content; None where they cannot be read."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
