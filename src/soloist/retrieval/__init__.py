"""Searching a finished run, and finding out what its ensemble is worth.

Light to import: torch comes with the first use of `open_run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soloist.retrieval.opened import OpenedRun, open_run
    from soloist.retrieval.rankers.choice import By

__all__ = ["By", "OpenedRun", "open_run"]


def __getattr__(name: str) -> Any:
    if name == "By":
        from soloist.retrieval.rankers.choice import By

        return By
    if name in __all__:
        from soloist.retrieval import opened

        return getattr(opened, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
