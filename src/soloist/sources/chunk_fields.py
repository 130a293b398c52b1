"""What makes an item a chunk: its text, its id, its metadata. Pure: one item in, one chunk out.

The text is `text_field`, exactly as it is. The id is `id_field`, at the top level or in the metadata.
Without `id_field` it is the first value of `id`, `chunk_id`, `_id` at the top level, then of `chunk_id`, `id` in
the metadata; `ids` says what a value is. Where there is none, the id is derived, see `derived_id`, but not where other
chunks of the file have one.

The metadata are the object `metadata` and every other field of the top level but the text and the id. Where the object
has another value under the name of such a field, the field is `top_level_NAME`: nothing is lost. A `metadata` that is
no object is such a field. What the folders of the file say (`lang=en/`) is added.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from soloist.config import SourceConfig
from soloist.sources.faults import NotAChunkError, TextTooLongError, names_text, require_unicode, shortened
from soloist.sources.ids import GivenId, find_id
from soloist.sources.partitions import Partitions, add_partitions
from soloist.types import Chunk

# A tokenizer needs 170 bytes a character of prose and 600 of nothing but punctuation (measured: all-MiniLM-L6-v2's, of
# transformers 5.23): at most some 1.2 GB for one text. No model reads a tenth of it.
MAX_TEXT_CHARS = 2_000_000
_METADATA = "metadata"
# Before the name of a field of the top level that the metadata have with another value.
_TOP_LEVEL = "top_level_"
_NO_PARTITIONS: Partitions = {}
# Far beyond any metadata that mean something, and within what other readers of JSON take: serde_json's limit is 128.
_MAX_DEPTH = 100
_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


def fields_of(item: Any, config: SourceConfig) -> Mapping[str, Any]:
    """The fields of an item; a plain string is a text without other fields.

    Raises:
        NotAChunkError: the item is neither an object nor a string, or its text is missing, no string or
            no Unicode.
        TextTooLongError: its text has more than `MAX_TEXT_CHARS` characters.
    """
    if isinstance(item, str):
        item = {config.text_field: item}
    if not isinstance(item, dict):
        raise NotAChunkError(f"is not a chunk: it is {_kind(item)}, not an object or a string")
    if config.text_field not in item:
        names = names_text(item) or "no fields"
        raise NotAChunkError(
            f"is not a chunk: it has no {config.text_field!r} but {names} (--text-field names another)"
        )
    text = item[config.text_field]
    if not isinstance(text, str):
        raise NotAChunkError(f"is not a chunk: its {config.text_field!r} is {_kind(text)}, not a string")
    if len(text) > MAX_TEXT_CHARS:
        raise TextTooLongError(
            f"is too long: its {config.text_field!r} has {len(text):,} characters, and one chunk may have "
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
    check_id: Callable[[GivenId], None] = lambda found: None,
) -> Chunk:
    """The chunk that the fields make; `origin` and `index` are used for a derived id only.

    `partitions` is what the folders of the file say. `check_id` is called with the id, or with none, before one is
    derived; it may raise.

    Raises:
        NotAChunkError: the id is missing where it must not be, or is no string or whole number, or no Unicode; the
            metadata have a NaN, an infinity or too deep a nesting, which a JSON file cannot keep, or contradict
            the folders.
    """
    text = fields[config.text_field]
    own = fields.get(_METADATA)
    metadata: dict[str, Any] = dict(own) if isinstance(own, dict) else {}
    found = find_id(fields, metadata, config.id_field)
    check_id(found)
    add_partitions(fields, metadata, partitions)
    not_metadata = {config.text_field, found.field}
    if own is None or isinstance(own, dict):
        not_metadata.add(_METADATA)
    for name, value in fields.items():
        if name not in not_metadata:
            _add(metadata, name, value)
    _require_json(metadata)
    return Chunk(id=derived_id(origin, index, text) if found.id is None else found.id, text=text, metadata=metadata)


def _add(metadata: dict[str, Any], name: str, value: Any) -> None:
    """Put a field of the top level among the metadata; beside theirs, where they say something else under its name."""
    if metadata.setdefault(name, value) != value and value is not None:
        metadata.setdefault(f"{_TOP_LEVEL}{name}", value)


def derived_id(origin: str, index: int, text: str) -> str:
    """The id of a chunk that brings none: 32 hex digits, the same wherever the collection lies.

    It is BLAKE2b with 16 bytes of the file's POSIX path relative to the collection, the chunk's index in the
    file and the text, in UTF-8 with a zero byte between each two.
    """
    content = b"\0".join((origin.encode("utf-8", "surrogatepass"), str(index).encode(), text.encode("utf-8")))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _require_json(metadata: Mapping[str, Any]) -> None:
    # Counted, not tried: how deep Python's own encoder goes depends on the stack, which is another when we write.
    if _is_deeper(metadata, _MAX_DEPTH):
        raise NotAChunkError(f"cannot be kept: its metadata are nested too deeply, in more than {_MAX_DEPTH} levels")
    # Python reads and writes NaN, no other reader of JSON does; a null in its place would be a quiet change.
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError as exc:
        raise NotAChunkError(
            f"cannot be kept: its metadata have a NaN or an infinity in {_not_json(metadata)}, which JSON lacks: write "
            "null for what is missing"
        ) from exc


def _not_json(metadata: Mapping[str, Any]) -> str:
    """The name of the first field that JSON cannot keep."""
    for name, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return ascii(shortened(str(name)))
    return "a field"


def _is_deeper(value: Mapping[str, Any], levels: int) -> bool:
    """Whether objects and lists are nested in more levels, the value's own included; level by level, not recursive."""
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
