"""What an id is: which field of a chunk has it, and which values are one. Pure.

An id is a string, or a whole number of any type: 1, 1.0 and a decimal 1.00 are all the id `1`. Null and the empty
string are no value. Anything else in a field that should have the id is an error, since to derive an id beside it would
part the chunk from what its maker calls it.
"""

from __future__ import annotations

import decimal
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.sources.faults import NotAChunkError, require_unicode, shortened

TOP_LEVEL_IDS = ("id", "chunk_id", "_id")
METADATA_IDS = ("chunk_id", "id")
# From here on a float is no longer every whole number, and two ids could be one.
_EXACT_FLOATS = 2.0**53


class MomentText(str):
    """A date or a time as the text that JSON has for it. It is no id."""

    __slots__ = ()


class BytesText(str):
    """Bytes as the text that JSON has for them, in base64. It is no id."""

    __slots__ = ()


class DecimalText(str):
    """A decimal number as text, so that no digit is lost. It is an id where it is whole."""

    __slots__ = ()


# Texts that stand for something else, and what each is called.
_NO_STRINGS: Mapping[type, str] = {MomentText: "the date or time ", BytesText: "the bytes ", DecimalText: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenId:
    """The id of a chunk, None where it brings none. `field` is the field of the top level that is the id; `empty` the
    place that could have one and has nothing.
    """

    id: str | None = None
    field: str | None = None
    empty: str | None = None


def find_id(fields: Mapping[str, Any], metadata: Mapping[str, Any], id_field: str | None) -> GivenId:
    """The first value under `id_field`, else under the usual names, at the top level and then in the metadata.

    Raises:
        NotAChunkError: that value is no id, or there is none under `id_field`.
    """
    top, below = (TOP_LEVEL_IDS, METADATA_IDS) if id_field is None else ((id_field,), (id_field,))
    empty: str | None = None
    for where, names, owner in ((fields, top, "its"), (metadata, below, "its metadata's")):
        for name in names:
            if name not in where:
                continue
            place = f"{owner} {name!a}"
            if (id_ := _id_of(where[name], place)) is not None:
                require_unicode(id_, name)
                return GivenId(id=id_, field=name if where is fields else None)
            empty = empty or f"{place} is {'null' if where[name] is None else 'empty'}"
    if id_field is not None:
        raise NotAChunkError(
            f"has no id: neither it nor its metadata has the id field {id_field!r} (--id-field names another)"
        )
    return GivenId(empty=empty)


def _id_of(value: Any, place: str) -> str | None:
    """The id that a value is; None of null and of the empty string."""
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
        f"has no id: {place} is {what}, not a string or a whole number (--id-field names another field)"
    )


def _shown(value: Any) -> str:
    """A value of JSON in a few characters, as JSON has it where that is short."""
    if isinstance(value, bool):
        return str(value).lower()
    text = shortened(value) if isinstance(value, str) else reprlib.repr(value)
    return text.encode("ascii", "backslashreplace").decode("ascii")
