"""Recognises the folder of a table with versions: Delta Lake, Apache Hudi, Apache Iceberg. Knows only names.

Such a folder keeps files whose rows were deleted or replaced, and only its log says which. Reading every file would
bring those rows back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

_LOGS: Mapping[str, str] = {"_delta_log": "Delta Lake", ".hoodie": "Apache Hudi"}
_ICEBERG_FOLDERS = frozenset({"data", "metadata"})


def lake_table(folder: Path, names: Collection[str]) -> str | None:
    """The kind of table in a folder with entries of these names, e.g. `Delta Lake`; None for other folders."""
    for log, kind in _LOGS.items():
        if log in names:
            return kind
    if set(names) >= _ICEBERG_FOLDERS and next((folder / "metadata").glob("*.metadata.json"), None) is not None:
        return "Apache Iceberg"
    return None
