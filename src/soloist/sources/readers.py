"""The table of readers: one row for each format of `soloist.formats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from soloist.formats import ARROW, CSV, JSON, JSON_LINES, PARQUET, TSV
from soloist.sources.arrow_files import read_arrow
from soloist.sources.csv_files import read_csv
from soloist.sources.json_files import read_json, read_json_lines
from soloist.sources.parquet_files import read_parquet

Check = Callable[[], object]
# Takes a file, the name of the text field and a check that it calls meanwhile. Gives the items of the file.
Reader = Callable[[Path, str, Check], Iterator[Any]]

READERS: Mapping[str, Reader] = {
    JSON.name: lambda file, text_field, check: read_json(file, text_field, check=check),
    JSON_LINES.name: lambda file, text_field, check: read_json_lines(file, check=check),
    CSV.name: lambda file, text_field, check: read_csv(file, text_field, CSV.name, check),
    TSV.name: lambda file, text_field, check: read_csv(file, text_field, TSV.name, check),
    PARQUET.name: lambda file, text_field, check: read_parquet(file, text_field),
    ARROW.name: lambda file, text_field, check: read_arrow(file, text_field),
}
