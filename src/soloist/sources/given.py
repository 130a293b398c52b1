"""Collections whose chunks Python gives, and how they are read: once each, from the first item to the last.

The rules for text, id and metadata are those of files (`chunk_fields`), except for a chunk without an id. Its id cannot
have the name of a file, so it depends on the collection, the text, and how many equal texts came before.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soloist.config import SourceConfig
from soloist.digests import DigestTable, text_digest
from soloist.errors import BadChunkError, ConfigError, UnknownInputError
from soloist.sources.chunk_fields import chunk_of, derived_id, fields_of
from soloist.sources.discovery import InputFiles
from soloist.sources.faults import BadItem, NotAChunkError
from soloist.sources.given_items import NotChunksError, given_items, may_be_empty, plain_item
from soloist.sources.ids import GivenId
from soloist.sources.passed_over import PassedOverFiles
from soloist.sources.read_once import forget_begun, is_read_once, note_begun, was_begun
from soloist.types import Chunk, Collection, Place, SkippedInput, SkipReason

DEFAULT_NAME = "chunks"
_REMEDY = 'repair it, or leave it out with on_bad_input="skip"'
_AS_IT_IS = SourceConfig()  # for a `Chunk`, whose fields have fixed names


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenCollection(Collection):
    """A collection that has no files: `chunks` is what Python gave."""

    chunks: Any


def given_input(
    given: Any, config: SourceConfig, wanted: Sequence[str] = (), *, again: str | None = None
) -> InputFiles:
    """The collections of what Python gave: a mapping has them by name, anything else is the collection `chunks`.

    They are sorted by name, as in a folder. `again` names a function before `embed` that would read the chunks too. For
    such a function, chunks that can be read only once are refused.

    Raises:
        ConfigError: a name is not a text, a mapping is a table of columns, or something that was given has no chunks,
            can be read only once, or is an iterator that an earlier call began to read.
        UnknownInputError: a wanted collection is not there.
    """
    named = given if isinstance(given, Mapping) else {DEFAULT_NAME: given}
    _require_collections(named, config)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UnknownInputError(f"there is no collection {missing[0]!r}: choose one of {', '.join(sorted(named))}")
    for name, chunks in named.items():
        if again is not None and is_read_once(chunks):
            raise ConfigError(
                f"{again} would use up the chunks of {name!r}, because a {type(chunks).__name__} can be read only "
                "once: give a list"
            )
    collections = [
        GivenCollection(name=name, root=Path(), files=(), chunks=named[name])
        for name in sorted(named)
        if not wanted or name in wanted
    ]
    for collection in collections:
        _require_unread(collection)
    return InputFiles(collections=tuple(collections), passed_over=PassedOverFiles())


def iterators_of(given: object) -> list[object]:
    """Of what Python gave, the chunks that can be read only once."""
    parts = given.values() if isinstance(given, Mapping) else [given]
    return [part for part in parts if is_read_once(part)]


def _require_unread(collection: GivenCollection) -> None:
    """Refuse the rest of an iterator: it would replace the whole collection."""
    if was_begun(collection.chunks):
        kind = type(collection.chunks).__name__
        raise ConfigError(
            f"the chunks of {collection.name!r} are a {kind} that soloist began to read before, for a run that did not "
            f"finish: give the chunks from their start, as a new {kind}"
        )


def _require_collections(named: Mapping[Any, Any], config: SourceConfig) -> None:
    if not named:
        raise ConfigError("there are no collections in the mapping of chunks: give chunks under a name")
    for name in named:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"a collection has the name {name!r}: give a text that is not empty")
    if config.text_field in named:
        raise ConfigError(
            f"a mapping has collections by name, but one name is {config.text_field!r}, the field of texts: give a "
            "table as pandas.DataFrame(...), give one chunk as [...], or rename the collection"
        )


def read_given(
    collection: GivenCollection,
    config: SourceConfig,
    on_skip: Callable[[SkippedInput], None],
    check: Callable[[], object],
) -> Iterator[tuple[Chunk, Place]]:
    """Yield each chunk with its place, whose file is the name of the collection; see `read_chunks`.

    Raises:
        BadChunkError: an item is not a chunk and `config.on_bad_input` is "error", or some have an id and others none.
        ConfigError: what was given has no chunks in it, or has no items and is not an empty list or table.
    """
    return _Reading(collection, config, on_skip, check).chunks()


class _Reading:
    """Reads the chunks of one collection, and counts them."""

    def __init__(
        self,
        collection: GivenCollection,
        config: SourceConfig,
        on_skip: Callable[[SkippedInput], None],
        check: Callable[[], object],
    ) -> None:
        self._collection = collection
        self._file = Path(collection.name)
        self._config = config
        self._on_skip = on_skip
        self._check = check
        self._equal_texts = _EqualTexts()
        self._first_with_id: int | None = None
        self._first_without_id: int | None = None

    def chunks(self) -> Iterator[tuple[Chunk, Place]]:
        count = 0
        for index, item in enumerate(self._items()):
            count += 1
            self._check()
            chunk = self._chunk(item, index)
            if chunk is not None:
                yield chunk, Place(file=self._file, index=index)
        if not count:
            self._require_empty()
            self._skip(None, "no chunks")

    def _require_empty(self) -> None:
        """Refuse what gave no items, but may have had some: a generator that was read before."""
        given = self._collection.chunks
        if not may_be_empty(given):
            raise ConfigError(
                f'what was given as "{self._collection.name}" is of the type {type(given).__name__}, and has no items '
                "or none that are left: give a new one, or [] if the collection is to have no chunks"
            )

    def _items(self) -> Iterator[Any]:
        given = self._collection.chunks
        if is_read_once(given):
            note_begun(given)  # before its first item, because Ctrl-C may end the generator in that item
        # Only soloist's own error about the form is translated. An error of the caller's generator is raised unchanged.
        try:
            yield from given_items(given, self._config.text_field)
        except NotChunksError as exc:  # no item was taken
            forget_begun(given)
            raise ConfigError(f'what was given as "{self._collection.name}" {_in_python(exc)}') from exc

    def _chunk(self, item: Any, index: int) -> Chunk | None:
        config = _AS_IT_IS if isinstance(item, Chunk) else self._config
        plain = _plain(item) if isinstance(item, Chunk) else item
        try:
            if isinstance(plain, BadItem):
                raise NotAChunkError(plain.fault)
            fields = fields_of(plain, config)
            text = fields[config.text_field]
            if not text or text.isspace():
                self._skip(index, "empty text")
                return None
            return self._made(item, fields, config, index)
        except NotAChunkError as exc:
            if self._config.on_bad_input == "error":
                fault = f'chunk {index} of "{self._collection.name}" {_in_python(exc)}'
                raise BadChunkError(f"{fault}: {_REMEDY}") from exc
            self._skip(index, exc.reason, _in_python(exc))
            return None

    def _made(self, item: Any, fields: Mapping[str, Any], config: SourceConfig, index: int) -> Chunk:
        """The chunk with its id and its place: the place that the chunk has, or else its index in what was given."""
        found: list[GivenId] = []
        chunk = chunk_of(fields, config, self._collection.name, 0, check_id=found.append)
        id_ = chunk.id
        if found[0].id is None:
            self._note(index, has_id=False)
            id_ = derived_id(self._collection.name, self._equal_texts.before(chunk.text), chunk.text)
        else:
            self._note(index, has_id=True)
        if isinstance(item, Chunk) and item.source_file is not None:
            return replace(chunk, id=id_, source_file=item.source_file, source_index=item.source_index)
        return replace(chunk, id=id_, source_index=index)

    def _note(self, index: int, *, has_id: bool) -> None:
        """Require that all chunks have an id, or that none has. A derived id would hide a missing one."""
        if has_id and self._first_with_id is None:
            self._first_with_id = index
        if not has_id and self._first_without_id is None:
            self._first_without_id = index
        if self._first_with_id is None or self._first_without_id is None:
            return
        if not has_id and self._config.on_bad_input == "skip" and self._first_with_id < self._first_without_id:
            self._first_without_id = None
            raise NotAChunkError("has no id: other chunks of the collection have one")
        raise BadChunkError(
            f'chunk {self._first_without_id} of "{self._collection.name}" has no id, but chunk {self._first_with_id} '
            "has one: give every chunk an id, or none"
        )

    def _skip(self, index: int | None, reason: SkipReason, detail: str = "") -> None:
        self._on_skip(
            SkippedInput(collection=self._collection.name, file=self._file, index=index, reason=reason, detail=detail)
        )


def _in_python(fault: Exception) -> str:
    """The sentence of a rule for files and chunks alike, with settings where it names options."""
    return (
        str(fault)
        .replace("give --text-field to", "give text_field= to")
        .replace("give --id-field to", "give id_field= to")
    )


def _plain(chunk: Chunk) -> Any:
    return plain_item({"id": chunk.id, "text": chunk.text, "metadata": chunk.metadata}, _AS_IT_IS.text_field)


class _EqualTexts:
    """Counts how often a text occurred before, in some 40 bytes for each different text."""

    def __init__(self) -> None:
        self._texts = DigestTable()
        self._counts = array("i")

    def before(self, text: str) -> int:
        """How many texts that were counted are equal to this one, which is counted now."""
        entry = self._texts.add(text_digest(text))
        if entry is None:
            self._counts.append(1)
            return 0
        self._counts[entry] += 1
        return self._counts[entry] - 1
