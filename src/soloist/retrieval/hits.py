"""The hits of one query: a list that a notebook shows, and that is a table too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, SupportsIndex, overload

from soloist.shown import ShownAsTable
from soloist.types import Hit


class Hits(list[Hit], ShownAsTable):
    """The hits of a query, best first. A slice of them is shown in the same way."""

    __slots__ = ()

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Hit | Hits:
        return Hits(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row for each hit, by the names of its fields; `metadata` is a dict.

        `reasons` are there only if there are any, and what the first stage said only after a second one.
        """
        rows = [asdict(hit) for hit in self]
        return [{name: value for name, value in row.items() if _is_said(name, value)} for row in rows]


def _is_said(name: str, value: object) -> bool:
    return bool(value) if name == "reasons" else value is not None or not name.startswith("first_")
