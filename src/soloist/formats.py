"""The formats of chunk files, by name: the endings of each format, and the names that are read by default.

Pure: a name in, a format out. The reader of a format is a row of `soloist.sources.readers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of chunk files. `patterns` match the names that are read by default. `unit` is the word for an item.

    A text format is read from compressed files too. Tables that are not chunk files are common beside chunks. So where
    `needs_text_column` is set, a table is read by default only if its header has the text column.
    """

    name: str
    endings: tuple[str, ...]
    patterns: tuple[str, ...]
    unit: str
    is_text: bool = True
    needs_text_column: bool = False


JSON = Format(name="JSON", endings=(".json",), patterns=("*_chunks.json", "chunks.json"), unit="chunk")
JSON_LINES = Format(
    name="JSON Lines", endings=(".jsonl", ".ndjson"), patterns=("*.jsonl", "*.ndjson"), unit="chunk"
)  # fmt: skip
CSV = Format(name="CSV", endings=(".csv",), patterns=("*.csv",), unit="row", needs_text_column=True)
TSV = Format(name="TSV", endings=(".tsv",), patterns=("*.tsv",), unit="row", needs_text_column=True)
PARQUET = Format(name="Parquet", endings=(".parquet",), patterns=("*.parquet",), unit="row", is_text=False)
ARROW = Format(
    name="Arrow", endings=(".arrow", ".feather"), patterns=("*.arrow", "*.feather"), unit="row", is_text=False
)  # fmt: skip
FORMATS = (JSON, JSON_LINES, CSV, TSV, PARQUET, ARROW)
DEFAULT_FILE_PATTERNS = tuple(pattern for format_ in FORMATS for pattern in format_.patterns)

# The endings of compressed files, with pyarrow's names of the compressions.
COMPRESSIONS: Mapping[str, str] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BY_ENDING = {ending: format_ for format_ in FORMATS for ending in format_.endings}


def uncompressed_name(name: str) -> str:
    """A file's name in lower case, without the ending of a compression."""
    name = name.lower()
    stem, ending = PurePath(name).stem, PurePath(name).suffix
    return stem if ending in COMPRESSIONS else name


def format_of(name: str) -> Format:
    """The format by a file's name; JSON where the ending is not known."""
    return known_format(name) or JSON


def known_format(name: str) -> Format | None:
    """The format by a file's name; None where the ending is not in the table."""
    return _BY_ENDING.get(PurePath(uncompressed_name(name)).suffix)
