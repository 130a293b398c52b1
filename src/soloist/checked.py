"""Checks of single settings: a value from a caller becomes a value for a config, or is refused in a sentence.

`subject` is the beginning of that sentence, e.g. "dim is 'x'". Knows no file, and no setting by name unless a sentence
needs it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from soloist.errors import ConfigError
from soloist.text_lists import as_list

Given = TypeVar("Given")
_DURATION = re.compile(
    r"(?:(?P<hours>\d+(?:\.\d+)?)h)?(?:(?P<minutes>\d+(?:\.\d+)?)m)?(?:(?P<seconds>\d+(?:\.\d+)?)s)?"
)


class Implicit:
    """Marks a default that nobody gave: the folder of a run may have been made with another value."""

    __slots__ = ()


class _ImplicitStr(Implicit, str):
    pass


class _ImplicitInt(Implicit, int):
    pass


class _ImplicitTuple(Implicit, tuple):  # type: ignore[type-arg]
    pass


class _ImplicitDict(Implicit, dict):  # type: ignore[type-arg]
    pass


_MARKED: Mapping[type, type] = {str: _ImplicitStr, int: _ImplicitInt, tuple: _ImplicitTuple, dict: _ImplicitDict}


def implicit(value: Given) -> Given:
    """The value, marked as a default that nobody gave."""
    return _MARKED[type(value)](value)  # type: ignore[no-any-return]


def is_explicit(value: Any) -> bool:
    """Whether the caller set this value. None means that the caller did not."""
    return value is not None and not isinstance(value, Implicit)


def a_string(subject: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ConfigError(f"{subject}: give a string")
    return value


def a_flag(subject: str, value: Any) -> bool:
    """Whether or not."""
    if not isinstance(value, bool):
        raise ConfigError(f"{subject}: give true or false")
    return value


def strings(subject: str, value: Any) -> tuple[str, ...]:
    """Texts. A single string is refused: as a sequence it would be its letters."""
    items = as_list(value)
    if items is None or not all(isinstance(item, str) for item in items):
        meant = f", such as [{value!r}]" if isinstance(value, str) else ""
        raise ConfigError(f"{subject}: give a list of strings{meant}")
    return value if isinstance(value, tuple) else tuple(map(str, items))


def a_path(subject: str, value: Any) -> Path:
    """A path. An empty text is refused, because Python reads it as the working directory."""
    if not isinstance(value, (str, os.PathLike)) or value == "":
        raise ConfigError(f"{subject}: give a path")
    if "\0" in str(os.fspath(value)):
        raise ConfigError(f"{subject}, with a NUL character, which a path cannot have: give a path")
    return Path(value)


def paths(subject: str, value: Any) -> tuple[Path, ...]:
    """Paths of run folders."""
    _require_list(subject, value, "run folders")
    return tuple(a_path(f"{subject.split(' ', 1)[0]} is {path!r}", path) for path in value)


def _require_list(subject: str, value: Any, of: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ConfigError(f"{subject}: give a list of {of}")


def whole_number(subject: str, value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{subject}: give a whole number")
    return value if isinstance(value, int) else int(value)


def number(subject: str, value: Any) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{subject}: give a number")
    return value if isinstance(value, (int, float)) else float(value)


def weights(subject: str, value: Any) -> Mapping[str, float]:
    """Numbers by the names of models. Whether they fit the models is checked where the models are known."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{subject}: give a number for each model")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise ConfigError(f"{subject}: give a number as the weight of {name}")
    return value if isinstance(value, Implicit) else {str(name): float(weight) for name, weight in value.items()}


def seconds(subject: str, value: Any) -> float:
    """A duration: seconds, or a text that `seconds_of` can read."""
    if isinstance(value, str):
        return _duration(subject, value)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ConfigError(f"{subject}: give seconds, or a duration such as 8h30m")
    return float(value)


def seconds_of(name: str, text: str) -> float:
    """A duration such as `9h`, `8h30m`, `45m` or `90s`, in seconds. `name` is its name in an error.

    Raises:
        ConfigError: the text is not a duration, or it is 0.
    """
    return _duration(f"{name} is {text!r}", text)


def _duration(subject: str, text: str) -> float:
    match = _DURATION.fullmatch(text.strip().lower())
    parts = {unit: float(value) for unit, value in match.groupdict().items() if value} if match is not None else {}
    length = parts.get("hours", 0) * 3600 + parts.get("minutes", 0) * 60 + parts.get("seconds", 0)
    if not length:
        raise ConfigError(f"{subject}: give a duration such as 9h, 8h30m, 45m or 90s")
    return length


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Require one of the choices.

    Raises:
        ConfigError: the value is not one of them.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(choices)}")
