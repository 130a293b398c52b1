"""Waiting for something that is about to be so, and failing where it never is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 120


def until(is_so: Callable[[], object], what: str) -> None:
    """Return once it is so. A test that waited without end would hold up the whole suite."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"after {PATIENCE_SECONDS} s it was not so: {what}"
        time.sleep(0.005)
