"""What makes an item a chunk: its text, its id, its metadata. Pure: one item in, one chunk out.

The text is `text_field`, exactly as it is. The id is `id_field`, at the top level or in the metadata.
Without `id_field` it is the first of `id`, `chunk_id`, `_id` at the top level, then of `chunk_id`, `id` in
the metadata, that is a string or an integer; empty strings and null count as absent. Where there
is none, the id is derived, see `derived_id`.

The metadata are the object `metadata` and, under names that it does not have, every other field of
the top level but the text and the id: nothing is lost. A `metadata` that is no object is such a field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from soloist.config import SourceConfig
from soloist.sources.faults import NotAChunkError, TextTooLongError, names_text
from soloist.types import Chunk

# A tokenizer needs 170 bytes a character of prose and 600 of nothing but punctuation (measured: all-MiniLM-L6-v2's, of
# transformers 5.23): at most some 1.2 GB for one text. No model reads a tenth of it.
MAX_TEXT_CHARS = 2_000_000
_METADATA = "metadata"
_TOP_LEVEL_IDS = ("id", "chunk_id", "_id")
_METADATA_IDS = ("chunk_id", "id")
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
    _require_unicode(text, config.text_field)
    return item


def chunk_of(fields: Mapping[str, Any], config: SourceConfig, origin: str, index: int) -> Chunk:
    """The chunk that the fields make; `origin` and `index` are used for a derived id only.

    Raises:
        NotAChunkError: the configured id is missing, or no string or integer, or the id is no Unicode; the
            metadata have a NaN, an infinity or too deep a nesting, which a JSON file cannot keep.
    """
    text = fields[config.text_field]
    own = fields.get(_METADATA)
    metadata: dict[str, Any] = dict(own) if isinstance(own, dict) else {}
    id_name, id_ = _find_id(fields, metadata, config.id_field)
    not_metadata = {config.text_field, id_name}
    if own is None or isinstance(own, dict):
        not_metadata.add(_METADATA)
    for name, value in fields.items():
        if name not in not_metadata:
            metadata.setdefault(name, value)
    _require_json(metadata)
    return Chunk(id=derived_id(origin, index, text) if id_ is None else id_, text=text, metadata=metadata)


def derived_id(origin: str, index: int, text: str) -> str:
    """The id of a chunk that brings none: 32 hex digits, the same wherever the collection lies.

    It is BLAKE2b with 16 bytes of the file's POSIX path relative to the collection, the chunk's index in the
    file and the text, in UTF-8 with a zero byte between each two.
    """
    content = b"\0".join((origin.encode("utf-8", "surrogatepass"), str(index).encode(), text.encode("utf-8")))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _find_id(
    fields: Mapping[str, Any], metadata: Mapping[str, Any], id_field: str | None
) -> tuple[str | None, str | None]:
    """The name of the top-level field that is the id, and the id; None for what there is not."""
    if id_field is not None:
        return _configured_id(fields, metadata, id_field)
    for name in _TOP_LEVEL_IDS:
        if (id_ := _id_at(fields, name)) is not None:
            return name, id_
    for name in _METADATA_IDS:
        if (id_ := _id_at(metadata, name)) is not None:
            return None, id_
    return None, None


def _configured_id(fields: Mapping[str, Any], metadata: Mapping[str, Any], id_field: str) -> tuple[str | None, str]:
    for name, where in ((id_field, fields), (None, metadata)):
        if (id_ := _id_at(where, id_field)) is not None:
            return name, id_
        value = where.get(id_field)
        if value is not None and value != "":
            raise NotAChunkError(f"has no id: its {id_field!r} is {_kind(value)}, not a string or an integer")
    raise NotAChunkError(
        f"has no id: neither it nor its metadata has the id field {id_field!r} (--id-field names another)"
    )


def _id_at(where: Mapping[str, Any], name: str) -> str | None:
    value = where.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return None
    id_ = str(value)
    _require_unicode(id_, name)
    return id_


def _require_json(metadata: Mapping[str, Any]) -> None:
    # Counted, not tried: how deep Python's own encoder goes depends on the stack, which is another when we write.
    if _is_deeper(metadata, _MAX_DEPTH):
        raise NotAChunkError(f"cannot be kept: its metadata are nested too deeply, in more than {_MAX_DEPTH} levels")
    # Python reads and writes NaN, no other reader of JSON does; a null in its place would be a quiet change.
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError as exc:
        raise NotAChunkError("cannot be kept: its metadata have a NaN or an infinity, which JSON lacks") from exc


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


def _require_unicode(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise NotAChunkError(
            f"is not a chunk: its {name!r} has a lone surrogate at character {exc.start}, which is no text"
        ) from exc


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object")
