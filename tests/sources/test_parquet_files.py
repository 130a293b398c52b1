"""Rows of Parquet become JSON-ready objects, and what is damaged is told."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.readings import peak_bytes

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.parquet_files import BATCH_BYTES, batch_rows, column_sizes, read_parquet

NANOSECONDS = 1_704_164_645_123_456_789
WHEN = "2024-01-02T03:04:05.123456"


def rows(folder: Path, columns: dict[str, Any], text_field: str = "text") -> list[Any]:
    file = folder / "a.parquet"
    pq.write_table(pa.table(columns), file)
    return list(read_parquet(file, text_field))


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([NANOSECONDS], pa.timestamp("ns")), WHEN),
        (pa.array([NANOSECONDS // 1000], pa.timestamp("us", "Europe/Berlin")), WHEN + "+00:00"),
        (pa.array([datetime.date(2024, 1, 2)]), "2024-01-02"),
        (pa.array([1_000_001], pa.time64("ns")), "00:00:00.001000"),
        (pa.array([1500], pa.duration("ms")), 1.5),
        (pa.array([decimal.Decimal("12.50")]), "12.50"),
        (pa.array([b"\xff\x00"]), "/wA="),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        (pa.array([[(7, NANOSECONDS)]], pa.map_(pa.int64(), pa.timestamp("ns"))), {"7": WHEN}),
        (pa.array([{"when": NANOSECONDS}], pa.struct([("when", pa.timestamp("ns"))])), {"when": WHEN}),
        (pa.array([[NANOSECONDS]], pa.list_(pa.timestamp("ns"))), [WHEN]),
        (pa.array([[0.5, 2]], pa.list_(pa.float16(), 2)), [0.5, 2.0]),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([None], pa.timestamp("ns")), None),
        (pa.array([2**63], pa.uint64()), 2**63),
    ],
)
def test_every_type_has_a_value_in_json(tmp_path: Path, array: pa.Array, value: Any) -> None:
    """Metadata of this type could not be written down, or would change from version to version."""
    (row,) = rows(tmp_path, {"text": ["t"], "field": array})
    assert row == {"text": "t", "field": value}
    assert json.loads(json.dumps(row)) == row


def test_nan_stays_a_float(tmp_path: Path) -> None:
    """It would turn into another value quietly."""
    (row,) = rows(tmp_path, {"text": ["t"], "field": [math.nan]})
    assert math.isnan(row["field"])


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array(['{"a": [1]}']), {"a": [1]}),
        (pa.array([{"a": 1, "b": None}]), {"a": 1, "b": None}),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), {"a": 1}),
        (pa.array(["note"]), "note"),
        (pa.array(["[1]"]), "[1]"),
        (pa.array(["[" * 100_000]), "[" * 100_000),
        (pa.array([None], pa.string()), None),
    ],
)
def test_a_metadata_column_is_an_object_where_it_can_be(tmp_path: Path, array: pa.Array, value: Any) -> None:
    """Metadata that another tool wrote as JSON text would stay a string."""
    assert rows(tmp_path, {"text": ["t"], "metadata": array})[0]["metadata"] == value


def test_texts_of_any_string_type_are_read_in_order(tmp_path: Path) -> None:
    """Long tables would lose rows between batches, or a string type be refused."""
    texts = [f"text {n}" for n in range(2000)]
    for type_ in (pa.string(), pa.large_string(), pa.string_view()):
        assert [row["text"] for row in rows(tmp_path, {"text": pa.array(texts, type_)})] == texts
    assert [row["text"] for row in rows(tmp_path, {"text": pa.array(texts).dictionary_encode()})] == texts


def test_a_row_that_python_cannot_hold_stands_alone(tmp_path: Path) -> None:
    """One bad row would take its whole file along."""
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    first, second, third = rows(tmp_path, {"text": broken})
    assert (first, third) == ({"text": "a"}, {"text": "c"})
    assert second.fault.startswith("has a value that Python cannot hold ('utf-8' codec can't decode byte 0xff")
    late = rows(tmp_path, {"text": ["a", "b"], "when": pa.array([0, 2**60], pa.timestamp("ms"))})
    assert [isinstance(row, BadItem) for row in late] == [False, True]


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"body": ["b"], "n": [1]}, "has no column 'text' (its columns are 'body', 'n': --text-field names another)"),
        ({"text": [1]}, "has no text but int64 in its column 'text' (--text-field names another)"),
        ({"text": [b"b"]}, "has no text but binary in its column 'text' (--text-field names another)"),
    ],
)
def test_a_file_without_texts_is_unreadable(tmp_path: Path, columns: dict[str, Any], fault: str) -> None:
    """Each row would be reported, a million times."""
    with pytest.raises(UnreadableFileError) as caught:
        rows(tmp_path, columns)
    assert str(caught.value) == fault


def test_columns_of_one_name_are_a_fault(tmp_path: Path) -> None:
    """One of them would be lost without a word."""
    table = pa.table([["t"], [1], [2], [3], [4]], names=["text", "page", "n", "page", "n"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UnreadableFileError) as caught:
        list(read_parquet(tmp_path / "a.parquet", "text"))
    assert str(caught.value) == "has several columns of one name ('page', 'n'), of which all but one would be lost"


def rows_at_once(file: Path, batch_bytes: int = BATCH_BYTES) -> list[int]:
    """How many rows of each row group are read at a time."""
    metadata = pq.read_metadata(file)
    with file.open("rb") as raw:
        groups = [column_sizes(raw, metadata, number) for number in range(metadata.num_row_groups)]
    return [batch_rows(group, batch_bytes) for group in groups]


def test_large_rows_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """512 rows of ten megabytes would take a machine's memory; of small ones a few at a time would take long."""
    file = tmp_path / "a.parquet"
    texts = [*("small" for _ in range(1000)), *(f"{n:010000}" for n in range(1000))]
    for dictionary in (True, False):
        pq.write_table(pa.table({"text": texts}), file, row_group_size=1000, use_dictionary=dictionary)
        assert rows_at_once(file) == [512, 512]
        first, second = rows_at_once(file, 1_000_000)
        assert first == 512 and 85 <= second <= 100
        assert rows_at_once(file, 100)[1] == 1
        assert [row["text"] for row in read_parquet(file, "text")] == texts
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    assert list(read_parquet(file, "text")) == []
    zeros = pa.array([[0] * 1_000_000] * 10, pa.list_(pa.int64()))
    pq.write_table(pa.table({"text": ["t"] * 10, "zeros": zeros}), file)  # some bytes a row, and 8 MB in memory
    assert file.stat().st_size < 10_000 and 1 <= rows_at_once(file)[0] <= 4
    texts = [f"{n} " * 300 for n in range(20_000)]
    pq.write_table(pa.table({"text": texts}), file)  # a dictionary of a megabyte, and plain pages after it
    assert rows_at_once(file) == [512]
    pq.write_table(pa.table({"text": texts}), file, dictionary_pagesize_limit=1 << 30)
    assert rows_at_once(file) == [512]


NESTED: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "list": (pa.list_(pa.string()), lambda n: [f"t{n % 7}", "b"]),
    "large list": (pa.large_list(pa.large_string()), lambda n: [f"t{n % 7}"]),
    "object": (pa.struct({"a": pa.string(), "n": pa.int64()}), lambda n: {"a": f"t{n % 7}", "n": n}),
    "list of objects": (pa.list_(pa.struct({"a": pa.string()})), lambda n: [{"a": f"t{n % 7}"}] * (n % 3)),
    "map": (pa.map_(pa.string(), pa.string()), lambda n: {f"k{n % 3}": f"t{n % 7}"}),
    "pair": (pa.list_(pa.string(), 2), lambda n: [f"t{n % 7}", None]),
    "list of pairs": (pa.list_(pa.list_(pa.string(), 2)), lambda n: [[f"t{n % 7}", "b"]]),
    "category": (pa.dictionary(pa.int32(), pa.string()), lambda n: f"t{n % 7}"),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("as_dictionary", [False, True], ids=["plain", "as a dictionary"])
def test_texts_in_other_values_are_read_from_any_row_groups(tmp_path: Path, name: str, as_dictionary: bool) -> None:
    """Arrow cannot join nested dictionaries of two row groups: a sound file was unreadable from there on."""
    kind, make = NESTED[name]
    values = [make(n) if n % 11 else None for n in range(3000)]
    if as_dictionary:  # which only values that could take gigabytes are
        values[5] = make(5) if name == "category" else _with_long_texts(make(5))
    items = [list(value.items()) if pa.types.is_map(kind) and value is not None else value for value in values]
    column = pa.array(items, pa.string()).dictionary_encode() if name == "category" else pa.array(items, kind)
    table = pa.table({"text": [str(n) for n in range(3000)], "m": column})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700, dictionary_pagesize_limit=1 << 30)
    found = list(read_parquet(tmp_path / "a.parquet", "text"))
    assert [row["text"] for row in found] == [str(n) for n in range(3000)]
    assert [row["m"] for row in found] == values


def _with_long_texts(value: Any) -> Any:
    """The value, with a text of half a megabyte in the place of its first."""
    if isinstance(value, dict):
        return {
            name: _with_long_texts(item) if index == 0 else item for index, (name, item) in enumerate(value.items())
        }
    return [_with_long_texts(value[0]), *value[1:]] if isinstance(value, list) else "y" * 500_000


TEXT = "x" * 1_800_000
REPEATED = {
    "texts": {"text": [TEXT] * 400},
    "what is before": {"text": [TEXT] * 400},
    "views of texts": {"text": pa.array([TEXT] * 400, pa.string_view())},
    "a list": {"text": ["t"] * 100, "tags": pa.array([[TEXT, "a", TEXT]] * 100)},
    "an object": {"text": ["t"] * 400, "from": pa.array([{"page": 1, "whole": TEXT}] * 400)},
    "a map": {
        "text": ["t"] * 400,
        "from": pa.array([[("whole", TEXT)]] * 400, pa.map_(pa.string(), pa.string())),
    },
    "bytes of one length": {"text": ["t"] * 400, "image": pa.array([b"x" * 1_800_000] * 400, pa.binary(1_800_000))},
    "a pair": {"text": ["t"] * 200, "both": pa.array([[TEXT, TEXT]] * 200, pa.list_(pa.string(), 2))},
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
@pytest.mark.parametrize("name", REPEATED)
def test_a_value_that_a_file_has_once_is_not_held_once_for_each_row(tmp_path: Path, name: str) -> None:
    """A file of 2 KB took 2.7 GB: one text of its dictionary, named by all of its rows."""
    file = tmp_path / "a.parquet"
    table = pa.table(REPEATED[name])
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"} if name == "what is before" else {}
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30, **options)
    assert file.stat().st_size < 30_000
    expected = {column: values[0] for column, values in table.slice(0, 1).to_pydict(maps_as_pydicts="strict").items()}
    if name == "bytes of one length":
        expected["image"] = base64.b64encode(expected["image"]).decode()
    del table
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_bytes()
    rows_read = 0
    for row in read_parquet(file, "text"):
        assert row == expected
        rows_read += 1
    assert rows_read == len(REPEATED[name]["text"])
    assert peak_bytes() - before < 300_000_000


def test_a_row_that_would_take_a_machines_memory_is_no_row(tmp_path: Path) -> None:
    """One row may name a text of a megabyte a million times: the rows beside it are read."""
    file = tmp_path / "a.parquet"
    tags = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array([TEXT]))
    offsets = pa.array([0, 1, 199_999, 200_000], pa.int32())
    table = pa.table({"text": ["a", "b", "c"], "tags": pa.ListArray.from_arrays(offsets, tags)})
    pq.write_table(table, file, compression="zstd")
    first, second, third = read_parquet(file, "text")
    assert (first, third) == ({"text": "a", "tags": [TEXT]}, {"text": "c", "tags": [TEXT]})
    assert second.fault == "is too large: its values take 360,009 MB, and one row may take 256 MB"


def test_a_file_that_is_cut_or_damaged_is_unreadable(tmp_path: Path) -> None:
    """A half-copied file would end the run with an error of Arrow's."""
    rows(tmp_path, {"text": [f"text {n}" for n in range(300)], "n": list(range(300))})
    whole = (tmp_path / "a.parquet").read_bytes()
    for size in range(0, len(whole), 53):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        with pytest.raises(UnreadableFileError, match="is not readable as Parquet from row 0 on"):
            list(read_parquet(tmp_path / "cut.parquet", "text"))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    """It would be an error, though it is well-formed."""
    assert rows(tmp_path, {"text": pa.array([], pa.string())}) == []
