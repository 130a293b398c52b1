"""Iterators, whose items are gone once they were read, and which of them this process began to read.

The rest of such an iterator is not what its owner means by its chunks. So an iterator that was begun for a run is
remembered until that run is finished. Knows nothing of chunks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

# By identity, each with what gives the iterator while it exists.
_BEGUN: dict[int, Callable[[], object]] = {}


def is_read_once(given: object) -> bool:
    """Whether reading uses it up, as a generator's items are gone once they were read."""
    return isinstance(given, Iterator) and iter(given) is given


def note_begun(given: object) -> None:
    """Remember that items of this iterator are gone."""
    key = id(given)
    try:
        _BEGUN[key] = weakref.ref(given, lambda _: _BEGUN.pop(key, None))
    except TypeError:  # a map, a zip, an iterator of a list: held, so that no other object gets this identity
        _BEGUN[key] = lambda: given


def was_begun(given: object) -> bool:
    """Whether items of this very iterator are gone, for a run that is not finished."""
    held = _BEGUN.get(id(given))
    return held is not None and held() is given


def forget_begun(given: object) -> None:
    """Let go of an iterator whose run is finished: it was read to its end."""
    _BEGUN.pop(id(given), None)
