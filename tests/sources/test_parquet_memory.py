"""Parquet files that are small on the disk and large in memory are read in little memory."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.parquet_peak import digest, read_apart

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it"),
]

TEXT = "x" * 1_800_000
# Made when they are needed: together they take gigabytes.
REPEATED: dict[str, Callable[[], dict[str, Any]]] = {
    "texts": lambda: {"text": [TEXT] * 250},
    "what is before": lambda: {"text": [TEXT] * 250},
    "views of texts": lambda: {"text": pa.array([TEXT] * 250, pa.string_view())},
    "a list": lambda: {"text": ["t"] * 100, "tags": pa.array([[TEXT, "a", TEXT]] * 100)},
    "an object": lambda: {"text": ["t"] * 250, "from": pa.array([{"page": 1, "whole": TEXT}] * 250)},
    "a map": lambda: {
        "text": ["t"] * 250,
        "from": pa.array([[("whole", TEXT)]] * 250, pa.map_(pa.string(), pa.string())),
    },
    "bytes of one length": lambda: {
        "text": ["t"] * 250,
        "image": pa.array([b"x" * 1_800_000] * 250, pa.binary(1_800_000)),
    },
    "a pair": lambda: {"text": ["t"] * 200, "both": pa.array([[TEXT, TEXT]] * 200, pa.list_(pa.string(), 2))},
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_value_that_a_file_has_once_is_not_held_once_for_each_row(tmp_path: Path, name: str) -> None:
    """A file of 2 KB took 2.7 GB: one text of its dictionary, named by all of its rows."""
    file = tmp_path / "a.parquet"
    table = pa.table(REPEATED[name]())
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"} if name == "what is before" else {}
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30, **options)
    assert file.stat().st_size < 30_000
    expected = {column: values[0] for column, values in table.slice(0, 1).to_pydict(maps_as_pydicts="strict").items()}
    if name == "bytes of one length":
        expected["image"] = base64.b64encode(expected["image"]).decode()
    read = read_apart(file)
    assert (read.rows, read.digests, read.fault) == (table.num_rows, [digest(expected)], "")
    assert read.grown_bytes < 300_000_000


def _json(texts: list[str]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts))


def _opaque(values: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.opaque(values.type, "kind", "maker"), values)


def _lists(items: pa.Array, *ends: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), items)


def _repeated(count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([TEXT]))


def _structs(count: int) -> pa.Array:
    return pa.StructArray.from_arrays([pa.array(np.full(count, n)) for n in range(50)], [f"n{n}" for n in range(50)])


# What a column holds, the rows of it that are read, and what is said of the others.
HIDDEN: dict[str, tuple[Callable[[], pa.Array], int, str]] = {
    "JSON of DuckDB": (lambda: _json([f'"{TEXT}"'] * 300), 300, ""),
    "an extension": (lambda: _opaque(_lists(_repeated(1000), 1000)), 0, "is too large: its values take 1,8"),
    "a view of a list": (
        lambda: pa.ListViewArray.from_arrays(pa.array([0], pa.int32()), pa.array([2000], pa.int32()), _repeated(2000)),
        0, "is too large: its values take 3,6",
    ),
    "numbers": (lambda: _lists(pa.array(np.zeros(10_000_000)), 1, 9_999_999, 10_000_000), 0, "10,000,000 values in 3"),
    "bits": (lambda: _lists(pa.array(np.zeros(20_000_000, bool)), 20_000_000), 0, "20,000,000 values in 1 row,"),
    "nothing": (lambda: _lists(pa.nulls(20_000_000, pa.string()), 20_000_000), 0, "20,000,000 values in 1 row,"),
    "objects": (lambda: _lists(_structs(200_000), 200_000), 0, "1 row, and a row may have at most 2,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_a_type_hides_is_counted_too(tmp_path: Path, name: str) -> None:
    """A file of a kilobyte took 2 to 5 GB, because its type was none whose values were measured."""
    make, kept, fault = HIDDEN[name]
    column = make()
    try:
        pq.write_table(
            pa.table({"text": ["t"] * len(column), "m": column}), tmp_path / "a.parquet", compression="zstd",
            dictionary_pagesize_limit=1 << 30,
        )  # fmt: skip
    except pa.ArrowNotImplementedError as exc:
        pytest.skip(f"this pyarrow cannot write such a file: {exc}")
    del column
    read = read_apart(tmp_path / "a.parquet")
    assert read.rows == kept and fault in read.fault
    assert read.grown_bytes < 500_000_000


def test_a_file_whose_texts_grow_along_it_is_read_in_little_memory(tmp_path: Path) -> None:
    """By their mean, 512 of the long ones at the end were read at once."""
    file, long = tmp_path / "a.parquet", "x" * 5_000_000
    texts = pa.array([*map(str, range(20_000)), *[long] * 100], pa.large_string())
    pq.write_table(pa.table({"text": texts}), file, compression="zstd", use_dictionary=False, write_batch_size=4)
    del texts
    read = read_apart(file)
    assert (read.rows, read.longest_texts, read.fault) == (20_100, 100, "")
    assert read.grown_bytes < 400_000_000


def test_a_list_of_json_of_duckdb_is_measured_before_it_is_in_memory(tmp_path: Path) -> None:
    """Arrow reads JSON as a dictionary only where it may be text: a file of a kilobyte took 3.5 GB. What else it calls
    by another type keeps it beside that.
    """
    ids = [uuid.UUID(int=number) for number in range(3)]
    uuids = pa.array([each.bytes for each in ids], pa.uuid())
    columns = {
        "text": ["t"] * 3,
        "m": _lists(_json([TEXT] * 300 + ["{}"] * 2), 300, 301, 302),
        "id": uuids,
        "ids": _lists(uuids, 1, 2, 3),
        "object": pa.StructArray.from_arrays([uuids], ["id"]),
        "map": pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), uuids, uuids),
    }
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    read = read_apart(file)
    assert read.fault.startswith("is too large: its values take 5")
    assert (read.rows, read.digests) == (
        2,
        [
            digest({"text": "t", "m": ["{}"], "id": id_, "ids": [id_], "object": {"id": id_}, "map": {id_: id_}})
            for id_ in map(str, ids[1:])
        ],
    )
    assert read.grown_bytes < 300_000_000
