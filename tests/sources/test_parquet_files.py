"""Rows of Parquet become JSON-ready objects, and what is damaged is told."""

from __future__ import annotations

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
from support.parquet_footers import with_column_twice, with_rows

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.parquet_files import read_parquet
from soloist.sources.parquet_sizes import BATCH_BYTES, batch_rows, column_sizes

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
        (pa.array([[NANOSECONDS] * 2], pa.list_(pa.timestamp("ns"), 2)), [WHEN] * 2),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}'),
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
        (
            {"body": ["b"], "n": [1]},
            "has no column 'text', only 'body', 'n' (give --text-field to name another column)",
        ),
        ({"text": [1]}, "has int64 instead of text in its column 'text' (give --text-field to name another column)"),
        (
            {"text": [b"b"]},
            "has binary instead of text in its column 'text' (give --text-field to name another column)",
        ),
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
    assert (
        str(caught.value) == "has several columns with the same name ('page', 'n'), and only one of them could be kept"
    )


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
        first, second = rows_at_once(file, 4_000_000)
        assert first == 512 and 340 <= second <= 400
        assert rows_at_once(file, 1_000_000) == [512, 16]  # of 10 MB, along which rows may grow
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
    try:
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=700, dictionary_pagesize_limit=1 << 30)
    except pa.ArrowNotImplementedError as exc:  # pyarrow 21 writes no pair that is null
        if int(pa.__version__.partition(".")[0]) >= 26:
            raise
        pytest.skip(f"pyarrow {pa.__version__} cannot write this file: {exc}")
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


def test_years_beyond_nanoseconds_are_kept(tmp_path: Path) -> None:
    """Timestamps as older Spark writes them became other dates without a word: 9999 was 1816."""
    when = [datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 1), datetime.datetime(2024, 1, 2, 3, 4, 5, 6)]
    table = pa.table({"text": ["t"] * 3, "when": pa.array(when, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    assert [row["when"] for row in read_parquet(tmp_path / "a.parquet", "text")] == [each.isoformat() for each in when]


def test_a_page_with_another_checksum_is_damaged(tmp_path: Path) -> None:
    """A changed text was taken for what was written."""
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": ["hello world"]}), file, compression="none", use_dictionary=False, write_page_checksum=True
    )  # fmt: skip
    assert list(read_parquet(file, "text")) == [{"text": "hello world"}]
    file.write_bytes(file.read_bytes().replace(b"hello world", b"hello World"))
    with pytest.raises(UnreadableFileError, match="CRC checksum verification failed"):
        list(read_parquet(file, "text"))


def test_keys_that_become_one_are_told(tmp_path: Path) -> None:
    """One of two values was lost without a word."""
    maps = pa.array([[(math.nan, 1), (math.nan, 2)], [(1.5, 1)]], pa.map_(pa.float64(), pa.int64()))
    first, second = rows(tmp_path, {"text": ["a", "b"], "m": maps})
    assert first.fault == "has a map with two keys that are both 'nan' as text" and second["m"] == {"1.5": 1}


def test_text_that_is_json_of_duckdb_is_text(tmp_path: Path) -> None:
    """A text column that was declared JSON had no text."""
    (row,) = rows(tmp_path, {"text": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"hello"']))})
    assert row == {"text": '"hello"'}


def test_a_row_that_would_take_a_machines_memory_is_no_row(tmp_path: Path) -> None:
    """One row may name a text of a megabyte a million times: the rows beside it are read."""
    file, text = tmp_path / "a.parquet", "x" * 1_800_000
    tags = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array([text]))
    offsets = pa.array([0, 1, 199_999, 200_000], pa.int32())
    table = pa.table({"text": ["a", "b", "c"], "tags": pa.ListArray.from_arrays(offsets, tags)})
    pq.write_table(table, file, compression="zstd")
    first, second, third = read_parquet(file, "text")
    assert (first, third) == ({"text": "a", "tags": [text]}, {"text": "c", "tags": [text]})
    assert second.fault == "is too large: its values take 360,022 MB, and a row may take at most 256 MB"


def test_a_file_that_is_cut_or_damaged_is_unreadable(tmp_path: Path) -> None:
    """A half-copied file would end the run with an error of Arrow's."""
    rows(tmp_path, {"text": [f"text {n}" for n in range(300)], "n": list(range(300))})
    whole = (tmp_path / "a.parquet").read_bytes()
    for size in range(0, len(whole), 53):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        with pytest.raises(UnreadableFileError, match="cannot be read as Parquet from row 0 on"):
            list(read_parquet(tmp_path / "cut.parquet", "text"))


def test_a_footer_that_contradicts_itself_is_damaged(tmp_path: Path) -> None:
    """Rows would be lost without a word, and a column that the schema has not ended the process."""
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "n": [1, 2, 3]}), file)
    whole = file.read_bytes()
    file.write_bytes(with_rows(whole, 4))
    with pytest.raises(UnreadableFileError, match="is damaged: its footer says 4 rows, but its row groups have 3"):
        list(read_parquet(file, "text"))
    file.write_bytes(with_column_twice(whole))
    with pytest.raises(UnreadableFileError, match="is damaged: its row groups have other columns than its schema"):
        list(read_parquet(file, "text"))
    file.write_bytes(with_rows(whole, 3))
    assert len(list(read_parquet(file, "text"))) == 3


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    """It would be an error, though it is well-formed."""
    assert rows(tmp_path, {"text": pa.array([], pa.string())}) == []
