"""What a caller gives where a list of texts is wanted. Pure: a value in, texts or one sentence out.

One text is refused: as a sequence it would be its letters, which nobody means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from soloist.errors import ConfigError

_SHOWN = 40  # characters of a value


def list_of_texts(name: str, value: object, what: str = "texts") -> tuple[str, ...]:
    """The texts of a list, a tuple, an array, or whatever else gives texts in an order; `name` is the argument's.

    Raises:
        ConfigError: it is one text, has no order, or has something else than texts in it.
    """
    if isinstance(value, str):
        shown = _shown(value)
        raise ConfigError(f"{name} is the text {shown}: give a list of {what}, such as [{shown}]")
    items = as_list(value)
    if items is None:
        raise ConfigError(f"{name} is {_shown(value)}, of the type {_kind(value)}: give a list of {what}")
    for item in items:
        if not isinstance(item, str):
            raise ConfigError(f"{name} has {_shown(item)}, of the type {_kind(item)}: give a list of {what}")
    return tuple(map(str, items))  # an array's texts are of a type of its own


def as_list(value: object) -> list[object] | None:
    """What a list or an array has, or what a generator gives, in its order; None of a text and of what has no order."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except TypeError:  # an array of no dimension says that it can be iterated over
        return None


def _shown(value: object) -> str:
    shown = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return shown if len(shown) <= 2 * _SHOWN else f"{shown[:_SHOWN]} ..."


def _kind(value: object) -> str:
    return type(value).__name__
