"""What the folders of a table say of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from soloist.config import SourceConfig
from soloist.errors import BadChunkFileError
from soloist.sources import discover, read_chunks


def plant(root: Path, name: str, content: str = '{"text": "a"}\n') -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)


def metadata(root: Path, **config: Any) -> dict[str, list[dict[str, Any]]]:
    settings = SourceConfig(**config)
    return {
        each.name: [dict(chunk.metadata) for chunk, _ in read_chunks(each, settings, print)]
        for each in discover(root, settings)
    }


def test_partitions_are_metadata_and_their_root_is_one_collection(tmp_path: Path) -> None:
    """Each language would be a collection, and the language of a chunk be lost."""
    for name in ("lang=de/year=2024/a.jsonl", "lang=en/b.jsonl", "lang=__HIVE_DEFAULT_PARTITION__/c.jsonl"):
        plant(tmp_path / "wiki", name)
    plant(tmp_path / "wiki", "lang=a%2Fb%20%C3%A9=x/d.jsonl")
    plant(tmp_path / "wiki", "_SUCCESS", "")
    assert metadata(tmp_path / "wiki") == {
        "wiki": [{"lang": None}, {"lang": "a/b é=x"}, {"lang": "de", "year": "2024"}, {"lang": "en"}]
    }


def test_what_pyarrow_partitions_is_read_back(tmp_path: Path) -> None:
    """An independent writer would lay out or escape its folders otherwise than we read them."""
    langs = ["en", "d e/f", "a=b", "ü%"]
    table = pa.table({"text": ["1", "2", "3", "4"], "lang": langs})
    ds.write_dataset(table, tmp_path / "t", format="parquet", partitioning=["lang"], partitioning_flavor="hive")
    settings = SourceConfig()
    (collection,) = discover(tmp_path / "t", settings)
    read = {chunk.text: chunk.metadata["lang"] for chunk, _ in read_chunks(collection, settings, print)}
    assert read == dict(zip(["1", "2", "3", "4"], langs, strict=True))


def test_partitions_within_a_collection_and_beside_others(tmp_path: Path) -> None:
    """A folder that is no partition would be taken into a table, or one that is not be a collection any more."""
    plant(tmp_path, "books/lang=en/a.jsonl")
    plant(tmp_path, "lang=en/b.jsonl")
    plant(tmp_path, "=x/c.jsonl")
    assert metadata(tmp_path) == {"=x": [{}], "books": [{"lang": "en"}], "lang=en": [{"lang": "en"}]}
    mixed = tmp_path / "mixed"
    plant(mixed, "lang=en/b.jsonl")
    plant(mixed, "year=1/b.jsonl")
    assert list(metadata(mixed)) == ["lang=en", "year=1"]


@pytest.mark.parametrize(
    ("folder", "own", "kept"),
    [
        ("lang=en", '"lang": "en"', {"lang": "en"}),
        ("lang=en", '"metadata": {"lang": "en"}', {"lang": "en"}),
        ("lang=en", '"lang": null', {"lang": "en"}),
        ("lang=__HIVE_DEFAULT_PARTITION__", '"lang": null', {"lang": None}),
        ("month=01", '"month": 1', {"month": 1}),
        ("draft=true", '"draft": true', {"draft": True}),
    ],
)
def test_a_chunk_that_says_the_same_keeps_its_own(tmp_path: Path, folder: str, own: str, kept: dict[str, Any]) -> None:
    """A sound table that has its partition column in its files too would be refused, or a number become a text."""
    plant(tmp_path / "c", f"{folder}/a.jsonl", f'{{"text": "a", {own}}}\n')
    assert metadata(tmp_path / "c") == {"c": [kept]}


@pytest.mark.parametrize("own", ['"lang": "de"', '"metadata": {"lang": "de"}', '"lang": 1', '"lang": true'])
def test_a_chunk_that_says_something_else_is_an_error(tmp_path: Path, own: str) -> None:
    """One of two values would win in silence."""
    plant(tmp_path / "c", "lang=en/a.jsonl", f'{{"text": "a", {own}}}\n')
    with pytest.raises(
        BadChunkFileError, match=r"contradicts its folder: its 'lang' is .*, but the folder says 'en': "
    ):
        metadata(tmp_path / "c")
