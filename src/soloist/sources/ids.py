"""The id of a chunk: which field has it, and which values can be an id. Pure.

An id is a string, or a whole number of any type: 1, 1.0 and a decimal 1.00 are all the id `1`. Null and the empty
string count as no value. Any other value in the id's field is an error: soloist does not derive an id where the input
has something in that field.
"""

from __future__ import annotations

import decimal
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from soloist.sources.faults import NotAChunkError, require_unicode, shortened

TOP_LEVEL_IDS = ("id", "chunk_id", "_id")
METADATA_IDS = ("chunk_id", "id")
# Floats cannot tell neighbouring whole numbers apart from here on, so two ids could become one.
_EXACT_FLOATS = 2.0**53


class MomentText(str):
    """A date or a time as text for JSON. It is never an id."""

    __slots__ = ()


class BytesText(str):
    """Bytes as text for JSON, in base64. They are never an id."""

    __slots__ = ()


class DecimalText(str):
    """A decimal number as text, so that no digit is lost. A whole number is an id."""

    __slots__ = ()


# Texts that stand for another type, and the name of that type in a message.
_NO_STRINGS: Mapping[type, str] = {MomentText: "the date or time ", BytesText: "the bytes ", DecimalText: ""}


class GivenId(NamedTuple):
    """The id that the input gives a chunk, or None. `field` is the top-level field that has the id. `empty` names the
    field that could have an id and is empty.
    """

    id: str | None = None
    field: str | None = None
    empty: str | None = None


def find_id(fields: Mapping[str, Any], metadata: Mapping[str, Any], id_field: str | None) -> GivenId:
    """The first value under `id_field`, else under the usual names, at the top level and then in the metadata.

    Raises:
        NotAChunkError: the value is not an id, or there is none under `id_field`.
    """
    usual = TOP_LEVEL_IDS[0]
    if id_field is None and type(value := fields.get(usual)) is str and value:  # most files have these
        require_unicode(value, usual)
        return GivenId(id=value, field=usual)
    top, below = (TOP_LEVEL_IDS, METADATA_IDS) if id_field is None else ((id_field,), (id_field,))
    empty: str | None = None
    for where, names, owner in ((fields, top, "its"), (metadata, below, "its metadata's")):
        for name in names:
            if name not in where:
                continue
            label = f"{owner} {name!a}"
            if (id_ := _id_of(where[name], label)) is not None:
                require_unicode(id_, name)
                return GivenId(id=id_, field=name if where is fields else None)
            empty = empty or f"{label} is {'null' if where[name] is None else 'empty'}"
    if id_field is not None:
        raise NotAChunkError(
            f"has no id: neither it nor its metadata has the id field {id_field!r} (give --id-field to name another "
            "field)"
        )
    return GivenId(empty=empty)


def _id_of(value: Any, label: str) -> str | None:
    """The value as an id; None for null and the empty string. `label` names the field in a message."""
    if value is None or (isinstance(value, str) and not value):
        return None
    number = decimal.Decimal(value) if isinstance(value, DecimalText) else value
    if isinstance(value, str) and type(value) not in _NO_STRINGS:
        return value
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    if isinstance(number, float) and number.is_integer() and abs(number) < _EXACT_FLOATS:
        return str(int(number))
    if isinstance(number, decimal.Decimal) and number.is_finite() and number == number.to_integral_value():
        return str(int(number))
    what = f"{_NO_STRINGS.get(type(value), '')}{_shown(value)}"
    raise NotAChunkError(
        f"has no id: {label} is {what}, not a string or a whole number (give --id-field to name another field)"
    )


def _shown(value: Any) -> str:
    """A JSON value in a few characters."""
    if isinstance(value, bool):
        return str(value).lower()
    text = shortened(value) if isinstance(value, str) else reprlib.repr(value)
    return text.encode("ascii", "backslashreplace").decode("ascii")
