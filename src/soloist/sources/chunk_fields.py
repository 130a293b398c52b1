"""Makes a chunk of an item: its text, its id, its metadata. Pure: one item in, one chunk out.

The text is `text_field`, exactly as it is. The id is `id_field`, at the top level or in the metadata.
Without `id_field` it is the first value of `id`, `chunk_id`, `_id` at the top level, then of `chunk_id`, `id` in
the metadata. `ids` says which values count. A chunk without an id gets a derived one, see `derived_id`, unless other
chunks of the file have an id.

The metadata consists of the object `metadata` and of all top-level fields except the text and the id. If the object
has another value under the name of such a field, the field becomes `top_level_NAME`, so that nothing is lost. A
`metadata` that is not an object counts as such a field. Keys and values in the names of folders (`lang=en/`) are added.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from soloist.config import SourceConfig
from soloist.sources.faults import NotAChunkError, TextTooLongError, names_text, require_unicode, shortened
from soloist.sources.ids import GivenId, find_id
from soloist.sources.partitions import Partitions, add_partitions
from soloist.types import Chunk

# A tokenizer needs 170 bytes for a character of prose and 600 for punctuation (measured with all-MiniLM-L6-v2's, in
# transformers 5.23): at most 1.2 GB for one text. No model reads a tenth of such a text.
MAX_TEXT_CHARS = 2_000_000
_METADATA = "metadata"
# Stands before the name of a top-level field that the metadata has with another value.
_TOP_LEVEL = "top_level_"
_NO_PARTITIONS: Partitions = {}
# Far beyond any metadata that makes sense, and within the limits of other readers of JSON: serde_json's is 128.
_MAX_DEPTH = 100
_ENCODER = json.JSONEncoder(allow_nan=False)  # made once: `json.dumps` makes one a call
_PLAIN = {str, bool, type(None)}
_PLAIN_BITS = 64  # a whole number that no limit on digits meets
_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


def fields_of(item: Any, config: SourceConfig) -> Mapping[str, Any]:
    """The fields of an item; a plain string is a text without other fields.

    Raises:
        NotAChunkError: the item is neither an object nor a string, or its text is missing, not a string or
            not Unicode.
        TextTooLongError: its text has more than `MAX_TEXT_CHARS` characters.
    """
    if isinstance(item, str):
        item = {config.text_field: item}
    if not isinstance(item, dict):
        raise NotAChunkError(f"is not a chunk: it is {_kind(item)}, not an object or a string")
    if config.text_field not in item:
        fields = f"its fields are {names_text(item)}" if item else "it has no fields"
        raise NotAChunkError(
            f"is not a chunk: it has no {config.text_field!r} ({fields}; give --text-field to name another field)"
        )
    text = item[config.text_field]
    if not isinstance(text, str):
        raise NotAChunkError(f"is not a chunk: its {config.text_field!r} is {_kind(text)}, not a string")
    if len(text) > MAX_TEXT_CHARS:
        raise TextTooLongError(
            f"is too long: its {config.text_field!r} has {len(text):,} characters, and a chunk may have at most "
            f"{MAX_TEXT_CHARS:,}"
        )
    require_unicode(text, config.text_field)
    return item


def chunk_of(
    fields: Mapping[str, Any],
    config: SourceConfig,
    origin: str,
    index: int,
    partitions: Partitions = _NO_PARTITIONS,
    check_id: Callable[[GivenId], None] = lambda given: None,
    source_file: str | None = None,
) -> Chunk:
    """The chunk of these fields; `origin` is used only for a derived id, and `source_file` is as in `Chunk`.

    `partitions` are the keys and values in the names of the file's folders. `check_id` is called before an id is
    derived, with the id that the chunk has or with none. It may raise.

    Raises:
        NotAChunkError: the id is missing although it is required, or it is not a string or a whole number, or not
            Unicode. Or the metadata has NaN, infinity or too many levels, which a JSON file cannot hold, or it
            contradicts the folders.
    """
    text = fields[config.text_field]
    own = fields.get(_METADATA)
    metadata: dict[str, Any] = dict(own) if isinstance(own, dict) else {}
    given = find_id(fields, metadata, config.id_field)
    check_id(given)
    add_partitions(fields, metadata, partitions)
    not_metadata = {config.text_field, given.field}
    if own is None or isinstance(own, dict):
        not_metadata.add(_METADATA)
    for name, value in fields.items():
        if name not in not_metadata:
            _add(metadata, name, value)
    _require_json(metadata)
    return Chunk(
        id=derived_id(origin, index, text) if given.id is None else given.id, text=text, metadata=metadata,
        source_file=source_file, source_index=index if source_file is not None else None,
    )  # fmt: skip


def _add(metadata: dict[str, Any], name: str, value: Any) -> None:
    """Add a top-level field to the metadata, under `top_level_NAME` where the metadata has another value under NAME."""
    if metadata.setdefault(name, value) != value and value is not None:
        metadata.setdefault(f"{_TOP_LEVEL}{name}", value)


def derived_id(origin: str, index: int, text: str) -> str:
    """The id of a chunk that has none in the input: 32 hex digits, the same wherever the collection is.

    It is BLAKE2b with 16 bytes over the file's POSIX path relative to the collection, the chunk's index in the
    file, and the text. These are in UTF-8, with a zero byte between them.
    """
    content = b"\0".join((origin.encode("utf-8", "surrogatepass"), str(index).encode(), text.encode("utf-8")))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _require_json(metadata: Mapping[str, Any]) -> None:
    if all(map(_is_plain, metadata.values())):  # nearly all metadata are
        return
    # Levels are counted, because how deep Python's encoder goes depends on the stack, which differs when we write.
    if _is_deeper(metadata, _MAX_DEPTH):
        raise NotAChunkError(f"cannot be stored: its metadata is nested more than {_MAX_DEPTH} levels deep")
    if all(map(_is_plain, _leaves(metadata))):  # need not be written to be known: a list of 3 bytes is written in 64
        return
    # Python reads and writes NaN, and other readers of JSON do not. Writing null instead would change it silently.
    try:
        _ENCODER.encode(metadata)
    except ValueError as exc:
        raise NotAChunkError(
            f"cannot be stored: its metadata has NaN or infinity in {_not_json(metadata)}, and JSON has neither: write "
            "null for a missing value"
        ) from exc


def _leaves(metadata: Mapping[str, Any]) -> Iterator[Any]:
    """The keys and values of all objects and lists inside, except for these themselves. Without recursion."""
    left: list[Any] = [metadata]
    while left:
        outer = left.pop()
        if isinstance(outer, Mapping):
            yield from outer
            outer = outer.values()
        for inner in outer:
            if isinstance(inner, (dict, list)):
                left.append(inner)
            else:
                yield inner


def _is_plain(value: Any) -> bool:
    """Whether a value is certain to be one that JSON can hold, in one level."""
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= _PLAIN_BITS)
    return kind in _PLAIN or (kind is float and math.isfinite(value))


def _not_json(metadata: Mapping[str, Any]) -> str:
    """The name of the first field that JSON cannot hold."""
    for name, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return ascii(shortened(str(name)))
    return "a field"


def _is_deeper(value: Mapping[str, Any], levels: int) -> bool:
    """Whether objects and lists are nested more levels deep, the value's own included. It goes level by level, without
    recursion.
    """
    level: list[Any] = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object")
