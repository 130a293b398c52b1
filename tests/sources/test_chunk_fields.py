"""What of an item becomes text, id and metadata."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.config import SourceConfig
from soloist.sources.chunk_fields import chunk_of, fields_of
from soloist.sources.faults import NotAChunkError
from soloist.sources.ids import DecimalText, MomentText
from soloist.types import Chunk


def made(item: Any, **config: Any) -> Chunk:
    settings = SourceConfig(**config)
    return chunk_of(fields_of(item, settings), settings, "sub/a_chunks.json", 4)


def derived(text: str) -> str:
    return blake2b(f"sub/a_chunks.json\x004\x00{text}".encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("item", "id_"),
    [
        ({"text": "t", "id": "a", "chunk_id": "b", "_id": "c"}, "a"),
        ({"text": "t", "chunk_id": "b", "_id": "c", "metadata": {"chunk_id": "d"}}, "b"),
        ({"text": "t", "_id": "c", "metadata": {"id": "e"}}, "c"),
        ({"text": "t", "metadata": {"id": "e", "chunk_id": "d"}}, "d"),
        ({"text": "t", "metadata": {"id": "e", "chunk_id": None}}, "e"),
        ({"text": "t", "id": 0}, "0"),
        ({"text": "t", "id": "", "chunk_id": None, "_id": 12}, "12"),
        ({"text": "t", "id": 1.0, "_id": 1.5}, "1"),
        ({"text": "t", "id": None, "metadata": {"id": -0.0}}, "0"),
        ({"text": "t", "id": 10**400}, str(10**400)),
        ({"text": "t", "id": DecimalText("7.00")}, "7"),
        ({"text": "t", "id": None, "chunk_id": "", "metadata": {"id": None}}, derived("t")),
        ({"text": "t"}, derived("t")),
        ("plain é", derived("plain é")),
    ],
)
def test_the_id_is_the_first_usual_name_or_derived(item: Any, id_: str) -> None:
    """Vectors would be stored under another id than the user's."""
    assert made(item).id == id_


@pytest.mark.parametrize(
    ("item", "id_"),
    [
        ({"text": "t", "key": "a", "id": "b"}, "a"),
        ({"text": "t", "key": "", "metadata": {"key": 7}}, "7"),
        ({"text": "t", "metadata": {"key": "m"}}, "m"),
    ],
)
def test_a_configured_id_is_found_at_the_top_or_in_the_metadata(item: Any, id_: str) -> None:
    """`--id-field` would be ignored."""
    assert made(item, id_field="key").id == id_


def test_metadata_take_in_every_other_field() -> None:
    """Scores or titles beside the metadata would be lost, or overwrite what the metadata say."""
    metadata = {"path": "Docs\\New\\a.md", "title": "inner", "nothing": None}
    item = {
        "_id": "x",
        "text": "t",
        "title": "outer",
        "path": metadata["path"],
        "metadata": metadata,
        "advanced_scores": {"a": 1},
        "chunk_id": "",
    }
    expected = {**metadata, "top_level_title": "outer", "advanced_scores": {"a": 1}, "chunk_id": ""}
    assert made(item) == Chunk(id="x", text="t", metadata=expected)
    assert list(metadata) == ["path", "title", "nothing"]


@pytest.mark.parametrize(
    ("metadata", "expected"), [(None, {}), ({}, {}), ("note", {"metadata": "note"}), ([], {"metadata": []})]
)
def test_metadata_that_are_no_object_are_kept_as_a_field(metadata: Any, expected: dict[str, Any]) -> None:
    """A list or a string under `metadata` would break the chunk or be lost."""
    assert made({"text": "t", "metadata": metadata}).metadata == expected


def test_another_text_field_leaves_text_to_the_metadata() -> None:
    """The wrong field would be embedded."""
    assert made({"body": "b", "text": "t", "id": 1}, text_field="body") == Chunk(
        id="1", text="b", metadata={"text": "t"}
    )


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_the_text_is_what_it_was(text: str) -> None:
    """Code would lose its indentation."""
    assert made({"text": text}).text == text


@pytest.mark.parametrize(
    ("item", "config", "fault"),
    [
        (5, {}, "is not a chunk: it is a number, not an object or a string"),
        (None, {}, "is not a chunk: it is null, not an object or a string"),
        (["a"], {}, "is not a chunk: it is a list, not an object or a string"),
        (
            {"body": "b", "é": 1},
            {},
            "is not a chunk: it has no 'text' (its fields are 'body', '\\xe9'; give --text-field to name "
            "another field)",
        ),
        ({}, {}, "is not a chunk: it has no 'text' (it has no fields; give --text-field to name another field)"),
        ({"text": None}, {}, "is not a chunk: its 'text' is null, not a string"),
        ({"text": {"a": 1}}, {}, "is not a chunk: its 'text' is an object, not a string"),
        (
            {"text": "ab\ud800"},
            {},
            "is not a chunk: its 'text' has a lone surrogate at character 2, which UTF-8 cannot hold",
        ),
        ({"text": "a", "id": "\udfff"}, {}, "is not a chunk: its 'id' has a lone surrogate at character 0"),
        ({"text": "a", "id": 1}, {"id_field": "key"}, "has no id: neither it nor its metadata has the id field 'key'"),
        ({"text": "a", "key": None}, {"id_field": "key"}, "has no id: neither it nor its metadata has the id field"),
        (
            {"text": "a", "key": 1.5},
            {"id_field": "key"},
            "has no id: its 'key' is 1.5, not a string or a whole number (give --id-field to name another field)",
        ),
        ({"text": "a", "id": True, "_id": 1}, {}, "has no id: its 'id' is true, not a string or a whole number"),
        ({"text": "a", "chunk_id": float("nan")}, {}, "has no id: its 'chunk_id' is nan, not"),
        ({"text": "a", "_id": -float("inf")}, {}, "has no id: its '_id' is -inf, not"),
        ({"text": "a", "id": 2.0**53}, {}, "has no id: its 'id' is 9007199254740992.0, not"),
        ({"text": "a", "id": ["x"] * 999}, {}, "has no id: its 'id' is ['x', 'x', 'x', 'x', 'x', 'x', ...], not"),
        ({"text": "a", "id": {"$oid": "5"}}, {}, "has no id: its 'id' is {'$oid': '5'}, not"),
        ({"text": "a", "id": DecimalText("7.50")}, {}, "has no id: its 'id' is 7.50, not"),
        ({"text": "a", "id": MomentText("2024-01-01")}, {}, "has no id: its 'id' is the date or time 2024-01-01, not"),
        ({"text": "a", "id": "", "metadata": {"id": 0.5}}, {}, "has no id: its metadata's 'id' is 0.5, not"),
        ("plain", {"id_field": "key"}, "has no id: neither it nor its metadata has the id field 'key'"),
    ],
)
def test_what_is_no_chunk_is_told(item: Any, config: dict[str, Any], fault: str) -> None:
    """The user would not learn what to repair."""
    with pytest.raises(NotAChunkError) as caught:
        made(item, **config)
    assert str(caught.value).startswith(fault)


def test_only_the_first_names_of_a_wide_item_are_listed() -> None:
    """The message would be pages long."""
    with pytest.raises(NotAChunkError, match=r"fields are 'f0', .*, 'f7' and 92 more; give"):
        made({f"f{n}": n for n in range(100)})
