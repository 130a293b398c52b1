"""Checks an argument that must be a list of texts. Pure: a value in, texts or an error out.

A single text is refused, because as a sequence it would be its letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from soloist.errors import ConfigError

_SHOWN = 40  # characters of a value


def list_of_texts(name: str, value: object, what: str = "texts") -> tuple[str, ...]:
    """The texts of a list, a tuple, an array or another ordered iterable. `name` is the name of the argument.

    Raises:
        ConfigError: the value is a single text, has no order, or has an item that is not a text.
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
    return tuple(map(str, items))  # the texts of an array have a type of their own


def as_list(value: object) -> list[object] | None:
    """The items of a list, an array or a generator in their order; None for a text and for a value without an order."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except TypeError:  # an array without dimensions claims to be iterable
        return None


def _shown(value: object) -> str:
    shown = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return shown if len(shown) <= 2 * _SHOWN else f"{shown[:_SHOWN]} ..."


def _kind(value: object) -> str:
    return type(value).__name__
