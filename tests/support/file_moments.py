"""A moment in this process, just before one of its own operations on a file: to wait there, or to fail there."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

_acts: list[tuple[re.Pattern[str], Callable[[], object]]] = []
_listening: list[bool] = []


@contextlib.contextmanager
def just_before(pattern: str, act: Callable[[], object]) -> Iterator[None]:
    """Within this, call `act` before each operation that matches, in the thread that does it. An error of `act`
    becomes the error of the operation.

    An operation reads `os.rename SOURCE TARGET`, `open PATH`: the names of Python's audit events.
    """
    if not _listening:  # a hook cannot be taken away again
        _listening.append(True)
        sys.addaudithook(_hear)
    entry = (re.compile(pattern), act)
    _acts.append(entry)
    try:
        yield
    finally:
        _acts.remove(entry)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _acts or event not in ("open", "os.rename"):
        return
    operation = " ".join([event, *(str(path) for path in arguments[: 2 if event == "os.rename" else 1])])
    for pattern, act in list(_acts):
        if pattern.search(operation):
            act()
