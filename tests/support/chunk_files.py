"""Chunk files as chunkers write them."""

from __future__ import annotations

import json
from pathlib import Path


def write_chunk_files(folder: Path, records: list[dict[str, object]]) -> Path:
    """A collection of two chunk files, as chunkers write them."""
    folder.mkdir(parents=True)
    half = len(records) // 2
    for name, part in (("a", records[:half]), ("b", records[half:])):
        (folder / f"{name}_chunks.json").write_text(json.dumps(part), encoding="utf-8")
    return folder
