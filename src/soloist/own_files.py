"""Recognises what soloist itself wrote, so that nothing takes it for chunks. Pure: names and first bytes in.

The folder of a run is known by its files, a folder of an export by its marker (`soloist.exported`), and a file of an
export to JSON Lines by the beginning of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from soloist.exported import MARKERS

# Each set tells a folder of a run, at work or finished; one name alone is common elsewhere.
_RUN_FILES = (
    frozenset({"manifest.jsonl", "id.json"}),
    frozenset({"manifest.jsonl", "run.json"}),
    frozenset({"state.json", "events.jsonl"}),
    frozenset({".lock", "events.jsonl"}),
)
_EXPORTED_LINE = re.compile(rb'\{"key": ?"[^"]*", ?"run": ?"[^"]*", ?"collection": ?"')
EXPORTED_LINE_BYTES = 1024


def own_folder(names: Collection[str]) -> str | None:
    """What kind of soloist's folders has files of these names, e.g. `the folder of a run`; None for other folders."""
    if any(marker in names for marker in MARKERS):
        return "a folder that soloist exported"
    if any(files <= set(names) for files in _RUN_FILES):
        return "the folder of a run of soloist"
    return None


def is_exported_line(head: bytes) -> bool:
    """Whether a file that begins so is an export to JSON Lines."""
    return _EXPORTED_LINE.match(head) is not None
