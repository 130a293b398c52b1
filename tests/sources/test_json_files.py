"""JSON is read as `json.load` reads it, whatever the buffer, and in memory bounded by the largest item."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.json_files import LIST_KEYS, read_json, read_json_lines

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.lists(VALUES, max_size=5)
STYLES = st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
BUFFERS = st.integers(1, 64)
KEYS = st.sampled_from(["", "chunks"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


def written(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return file


def dumped(value: Any, style: dict[str, Any]) -> str:
    # A lone surrogate has no UTF-8 but an escape, which backslashreplace happens to write as JSON does.
    return json.dumps(value, **style).encode("utf-8", "backslashreplace").decode("utf-8")


@given(ITEMS, STYLES, BUFFERS)
@example([1e22, -1.5e-7, 10**400, "\ud83d", "😀", True, None], {}, 1)
def test_a_list_reads_as_json_load_reads_it(folder: Path, items: list[Any], style: dict[str, Any], buffer: int) -> None:
    """A number, an escape or a character at the end of the buffer would be cut."""
    file = written(folder / "list.json", dumped(items, style))
    assert list(read_json(file, buffer_bytes=buffer)) == json.loads(file.read_text(encoding="utf-8"))


@given(st.lists(st.tuples(st.sampled_from([*LIST_KEYS, "other"]), VALUES), max_size=5), STYLES, BUFFERS)
def test_an_object_gives_the_first_list_of_the_known_keys(
    folder: Path, members: list[tuple[str, Any]], style: dict[str, Any], buffer: int
) -> None:
    """Another list than the one that json.load and the order of the keys lead to would be read."""
    text = "{" + ",".join(f'"{key}" : {dumped(value, style)}' for key, value in members) + "}"
    file = written(folder / "object.json", text)
    value = json.loads(text)
    lists = [value[key] for key in LIST_KEYS if isinstance(value.get(key), list)]
    if lists:
        assert list(read_json(file, buffer_bytes=buffer)) == lists[0]
    else:
        with pytest.raises(UnreadableFileError, match="with no list of chunks under chunks, data, records, items"):
            list(read_json(file, buffer_bytes=buffer))


# Only a number can be cut and still be one; it is no chunk either way.
@given(st.lists(TEXTS | st.dictionaries(TEXTS, VALUES, max_size=3), max_size=5), STYLES, BUFFERS, KEYS, st.data())
def test_a_file_that_is_cut_anywhere_is_unreadable(
    folder: Path, items: list[Any], style: dict[str, Any], buffer: int, key: str, data: st.DataObject
) -> None:
    """A half-written file would pass for a whole one, or end the run with another error."""
    text = dumped({"a": [items], key: items} if key else items, style)
    whole = text.encode("utf-8")
    got, _ = cut_short(folder / "cut.json", whole[: data.draw(st.integers(0, len(whole) - 1))], buffer)
    assert got == (json.loads(text)[key] if key else json.loads(text))[: len(got)]


def cut_short(file: Path, content: str | bytes, buffer: int) -> tuple[list[Any], str]:
    """The items before the fault, and the fault."""
    items: list[Any] = []
    with pytest.raises(UnreadableFileError) as caught:
        for item in read_json(written(file, content), buffer_bytes=buffer):
            items.append(item)
    return items, str(caught.value)


FAULTS = [
    ('["a",\n  "b" "c"]', "is not JSON at line 2, column 7 (Expecting ',' or ']')", ["a", "b"]),
    ('["a", {"b": 1,, "c": 2}]', "is not JSON at line 1, column 15 (Expecting property name", ["a"]),
    ('["a"\n,\n"b', "is not JSON at line 3, column 1 (Unterminated string starting at)", ["a"]),
    ('["a"] ["b"]', "is not JSON at line 1, column 7 (Extra data)", ["a"]),
    ('["a", nul]', "is not JSON at line 1, column 7 (Expecting value)", ["a"]),
    ('["a", "b\nc"]', "is not JSON at line 1, column 9 (Invalid control character at)", ["a"]),
    (b'["\xc3\xa9", "\xff"]', "is not UTF-8 at byte 8 (invalid start byte)", ["é"]),
    (b'\xef\xbb\xbf["a", "\xc3', "is not UTF-8 at byte 10 (unexpected end of data)", ["a"]),
    ("", "is not JSON at line 1, column 1 (Expecting value)", []),
    (" \n", "is not JSON at line 2, column 1 (Expecting value)", []),
    ('"text"', "is neither a list of chunks nor an object with one: it begins with", []),
    ("{}", "is an object with no list of chunks under chunks, data, records, items", []),
    ('{"chunks": "a", "texts": ["b"]}', "is an object with no list of chunks", []),
    ('{"chunks": ["a"], "b": }', "is not JSON at line 1, column 24 (Expecting value)", ["a"]),
    ('{"chunks": ["a"]} x', "is not JSON at line 1, column 19 (Extra data)", ["a"]),
    ('{"chunks": ["a", "b"', "is not JSON at line 1, column 21 (Expecting ',' or ']')", ["a", "b"]),
    ('["a", [' + "1" * 5000 + "]]", "is not JSON at line 1, column 7 (Exceeds the limit", ["a"]),
    ('["a", ' + "[" * 100_000, "is nested too deeply at line 1, column 7", ["a"]),
]


@pytest.mark.parametrize(("content", "fault", "before"), FAULTS)
@pytest.mark.parametrize("buffer", [1, 5, 1 << 20])
def test_a_fault_has_its_position_and_the_items_before_it(
    folder: Path, content: str | bytes, fault: str, before: list[Any], buffer: int
) -> None:
    """The position, or what is kept before it, would depend on the size of the buffer."""
    items, message = cut_short(folder / "fault.json", content, buffer)
    assert message.startswith(fault)
    assert items == before


def test_what_json_accepts_is_kept(folder: Path) -> None:
    """NaN, infinity, big integers, repeated keys or a byte order mark would change or be refused."""
    content = b'\xef\xbb\xbf [NaN, -Infinity, 123456789012345678901234567890, {"a": 1, "a": 2}] \r\n'
    nan, infinity, big, last = list(read_json(written(folder / "odd.json", content), buffer_bytes=2))
    assert math.isnan(nan)
    assert (infinity, big, last) == (-math.inf, 123456789012345678901234567890, {"a": 2})


def test_a_long_float_is_not_taken_for_an_integer_at_the_buffers_end(folder: Path) -> None:
    """Its digits before the point are more than Python converts to an integer."""
    file = written(folder / "float.json", "[" + "1" * 300 + "0" * 5000 + "e-5299]")
    assert list(read_json(file, buffer_bytes=4900)) == [pytest.approx(1.111111111111)]


def test_a_fault_is_told_without_reading_the_rest(folder: Path) -> None:
    """A broken file of gigabytes would be read into memory whole."""
    file = written(folder / "huge.json", '["a", oops, ' + '"b", ' * 4_000_000 + '"c"]')
    assert peak_bytes(lambda: faults_only(file)) < 8_000_000


def test_fifty_thousand_chunks_are_read_in_little_memory(folder: Path) -> None:
    """Memory would grow with the file."""
    item = json.dumps({"text": "fünf Wörter stehen hier " * 20, "metadata": {"chunk_id": "a-1"}})
    file = written(folder / "plain.json", "[" + ", ".join([item] * 50_000) + "]")
    assert file.stat().st_size > 25_000_000
    assert peak_bytes(lambda: count_is(file, 50_000)) < 20_000_000


NUMBERS = st.lists(st.integers() | st.floats(allow_nan=True) | st.sampled_from([10**299, 0, -0.0, 1e-300]), max_size=30)


@given(NUMBERS, STYLES, st.integers(1, 40))
def test_numbers_are_passed_over_many_at_a_time(
    folder: Path, numbers: list[Any], style: dict[str, Any], buffer: int
) -> None:
    """One by one, a list of numbers beside the chunks took as long as embedding them."""
    file = written(folder / "numbers.json", dumped({"other": [numbers, [numbers, "a"]], "chunks": ["b"]}, style))
    assert list(read_json(file, buffer_bytes=buffer)) == ["b"]


@pytest.mark.parametrize(
    "numbers", ["1,", "1,,2", "01,2", "1.,2", "1e,2", ".5,2", "+1,2", "1 2,3", "- 1,2", "1,2,]", "٣,1"]
)
@pytest.mark.parametrize("buffer", [1, 3, 1000])
def test_what_is_passed_over_has_to_be_json(folder: Path, numbers: str, buffer: int) -> None:
    """A damaged file would be taken for a whole one."""
    file = written(folder / "numbers.json", f'{{"other": [7, 8, {numbers}], "chunks": ["b"]}}')
    with pytest.raises(UnreadableFileError, match="is not JSON at line 1"):
        list(read_json(file, buffer_bytes=buffer))


def test_what_is_passed_over_need_not_fit_into_memory(folder: Path) -> None:
    """A big list beside the chunks would be read whole, and memory grow with it."""
    items = ", ".join([json.dumps({"text": "fünf Wörter stehen hier " * 1000})] * 1000)
    file = written(folder / "nested.json", f'{{"other": {{"deep": [{items}]}}, "chunks": [{items}]}}')
    assert file.stat().st_size > 50_000_000
    assert peak_bytes(lambda: count_is(file, 1000)) < 20_000_000


def count_is(file: Path, count: int) -> None:
    assert sum(1 for _ in read_json(file)) == count


def faults_only(file: Path) -> None:
    with pytest.raises(UnreadableFileError, match="line 1, column 7"):
        list(read_json(file))


def peak_bytes(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(ITEMS)
def test_lines_read_as_json_loads_reads_each(folder: Path, items: list[Any]) -> None:
    """A line separator of Unicode within a text would split its line."""
    lines = [dumped(item, {"ensure_ascii": False}) for item in items]
    file = written(folder / "lines.jsonl", "\n\n \r\n".join(lines))
    found = [item for item in read_json_lines(file) if not isinstance(item, BadItem)]
    whole_lists = [item for item in items if isinstance(item, list) and item and all(isinstance(x, dict) for x in item)]
    assert found == [json.loads(line) for line, item in zip(lines, items, strict=True) if item not in whole_lists]


def test_a_bad_line_stands_alone(folder: Path) -> None:
    """One bad line would take the lines after it along, or its position be wrong."""
    content = b'\xef\xbb\xbf"a"\n\n{"b": }\r\n"\xff"\n' + b"[" * 100_000 + b"\n" + b"1" * 5000 + b'\n"c"\n{"d"'
    items = list(read_json_lines(written(folder / "bad.jsonl", content)))
    assert [item.fault if isinstance(item, BadItem) else item for item in items] == [
        "a",
        "is not JSON at line 3, column 7 (Expecting value)",
        "is not UTF-8 at line 4, byte 18 (invalid start byte)",
        "is nested too deeply at line 5",
        items[4].fault,
        "c",
        "is not JSON at line 8, column 5 (Expecting ':' delimiter)",
    ]
    assert items[4].fault.startswith("is not JSON at line 6 (Exceeds the limit")
