"""Chunk files as other tools write them by default: every row is a chunk with its own id and text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from soloist.config import SourceConfig
from soloist.sources import find_input, read_chunks

ROWS = [{"id": n, "text": f'text {n}, "quoted"; é\nline', "lang": "en" if n % 2 else "de"} for n in range(4)]


def by_datasets(write: Callable[[Any, Path], object]) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        import datasets

        datasets.disable_progress_bars()
        write(datasets.Dataset.from_list(ROWS), folder)

    return written


def by_pandas(write: Callable[[pd.DataFrame, Path], object]) -> Callable[[Path], object]:
    return lambda folder: write(pd.DataFrame(ROWS), folder)


def by_polars(write: Callable[[pl.DataFrame, Path], object]) -> Callable[[Path], object]:
    return lambda folder: write(pl.DataFrame(ROWS), folder)


def by_duckdb(name: str, options: str) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        with duckdb.connect() as connection:
            connection.register("rows", pd.DataFrame(ROWS))
            connection.execute(f"COPY rows TO '{folder / name}' ({options})")

    return written


# What each writes, and how many files it leaves beside the chunk files.
TOOLS: dict[str, tuple[Callable[[Path], object], int]] = {
    "datasets to a folder": (by_datasets(lambda rows, to: rows.save_to_disk(str(to))), 2),
    "datasets to JSON Lines under .json": (by_datasets(lambda rows, to: rows.to_json(to / "a_chunks.json")), 0),
    "datasets to packed JSON Lines": (
        by_datasets(lambda rows, to: rows.to_json(to / "a.jsonl.gz", compression="gzip")),
        0,
    ),
    "pandas to CSV with its index": (by_pandas(lambda rows, to: rows.to_csv(to / "a.csv")), 0),
    "pandas to a sheet's CSV": (
        by_pandas(lambda rows, to: rows.to_csv(to / "a.csv", sep=";", encoding="utf-8-sig")),
        0,
    ),
    "pandas to packed CSV": (by_pandas(lambda rows, to: rows.to_csv(to / "a.csv.bz2")), 0),
    "pandas to TSV": (by_pandas(lambda rows, to: rows.to_csv(to / "a.tsv.gz", sep="\t", index=False)), 0),
    "pandas to Feather": (by_pandas(lambda rows, to: rows.to_feather(to / "a.feather")), 0),
    "pandas with ids as floats": (
        by_pandas(lambda rows, to: rows.astype({"id": float, "lang": "category"}).to_feather(to / "a.feather")),
        0,
    ),
    "polars to an Arrow file": (by_polars(lambda rows, to: rows.write_ipc(to / "a.arrow")), 0),
    "polars to a packed one": (by_polars(lambda rows, to: rows.write_ipc(to / "a.arrow", compression="zstd")), 0),
    "polars to a stream": (by_polars(lambda rows, to: rows.write_ipc_stream(to / "a.arrow", compression="lz4")), 0),
    "polars to NDJSON": (by_polars(lambda rows, to: rows.write_ndjson(to / "a.ndjson")), 0),
    "duckdb to JSON": (by_duckdb("a_chunks.json", "FORMAT json"), 0),
    "duckdb to packed JSON": (by_duckdb("a_chunks.json.zst", "FORMAT json, COMPRESSION zstd"), 0),
    "duckdb to CSV by language": (by_duckdb("rows", "FORMAT csv, PARTITION_BY (lang)"), 0),
    "duckdb to Parquet by language": (by_duckdb("rows", "FORMAT parquet, PARTITION_BY (lang)"), 0),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_tool_writes_is_read_whole(tmp_path: Path, tool: str) -> None:
    """A layout that a tool writes by default would be refused, or its rows be lost or changed."""
    write, others = TOOLS[tool]
    write(tmp_path)
    settings = SourceConfig()
    found = find_input(tmp_path, settings)
    chunks = [chunk for each in found.collections for chunk, _ in read_chunks(each, settings, pytest.fail)]
    assert sorted((chunk.id, chunk.text, chunk.metadata["lang"]) for chunk in chunks) == [
        (str(row["id"]), row["text"], row["lang"]) for row in ROWS
    ]
    assert found.passed_over.count == others
