"""Every file below a root is a chunk file or is listed with the reason; what soloist wrote itself is refused."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.own_files import own_folder
from soloist.sources import find_input
from soloist.sources.passed_over import PassedOver, PassedOverFiles

LINE = b'{"text": "a", "id": "1"}\n'


def put(root: Path, name: str, content: bytes = LINE) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def listed(root: Path, **config: object) -> dict[str, str]:
    found = find_input(root, SourceConfig(**config)).passed_over.to_dict()  # type: ignore[arg-type]
    return {each["file"]: each["detail"] or each["reason"] for each in found["first"]}


def test_every_file_is_read_or_listed_with_its_reason(tmp_path: Path) -> None:
    """A file that looks like chunks would be passed over in silence."""
    read = ["a.jsonl", "b.JSONL.GZ", "c_chunks.json.zst", "d.ndjson", "e.csv", "f.tsv.bz2", "g.feather", "h/i.arrow"]
    for name in read:
        put(tmp_path / "docs", name, b"text\na\n" if "sv" in name else LINE)
    reasons = {
        "data.json": "no pattern takes it",
        "part-00000.json.gz": "no pattern takes it",
        "queries.jsonl": "the questions of a BEIR folder",
        "queries.jsonl.gz": "the questions of a BEIR folder",
        "qrels/test.tsv": "has no column 'text', only 'query-id', 'corpus-id', 'score'",
        "links.csv.gz": "has no column 'text', only 'a', 'b'",
        "a.parquet.gz": "packed in a way that is not read",
        "a.jsonl.xz": "packed in a way that is not read",
        "all.zip": "packed in a way that is not read",
        "README.md": "no format with this ending is read",
        "x.pkl": "no format with this ending is read",
        "shot.PNG": "no format with this ending is read",
        "chunks": "its name has no ending",
        "_SUCCESS": "a marker of another tool",
        "_metadata": "a marker of another tool",
        "pipe.jsonl": "not a plain file",
    }
    for name in reasons:
        content = b"query-id\tcorpus-id\tscore\n1\t2\t1\n" if "qrels" in name else LINE
        put(tmp_path / "docs", name, gzip.compress(b"a;b\n1;2\n") if "links" in name else content)
    (tmp_path / "docs" / "pipe.jsonl").unlink()
    os.mkfifo(tmp_path / "docs" / "pipe.jsonl")
    put(tmp_path, "docs/.hidden.jsonl")
    put(tmp_path, "docs/.git/a.jsonl")
    put(tmp_path, "notes.txt")
    put(tmp_path, "empty/only.md")
    found = find_input(tmp_path, SourceConfig())
    (collection,) = found.collections
    assert [file.relative_to(collection.root).as_posix() for file in collection.files] == sorted(read)
    told = listed(tmp_path)
    assert set(told) == {f"docs/{name}" for name in reasons} | {"notes.txt", "empty/only.md"}
    for name, reason in reasons.items():
        assert told[f"docs/{name}"].startswith(reason), name
    assert found.passed_over.count == len(reasons) + 2
    assert found.passed_over.sentence() == (
        "16 files are not chunk files and were passed over: docs/data.json (its name matches no pattern), "
        "docs/part-00000.json.gz (its name matches no pattern), docs/links.csv.gz (has no column 'text', only 'a', "
        "'b') and 13 more"
    )
    assert found.passed_over.to_dict()["by_reason"]["a marker of another tool"] == {"none": 2}


def test_a_table_that_a_pattern_names_is_a_chunk_file_whatever_its_header(tmp_path: Path) -> None:
    """A table that was asked for would be left out with a note."""
    put(tmp_path, "docs/a.csv", b"body,id\na,1\n")
    put(tmp_path, "docs/b.jsonl")
    assert set(listed(tmp_path)) == {"docs/a.csv"}
    assert set(listed(tmp_path, file_patterns=("*.csv",))) == {"docs/b.jsonl"}
    assert set(listed(tmp_path, text_field="body")) == set()


def test_a_table_beside_collections_does_not_make_the_root_one(tmp_path: Path) -> None:
    """An index beside the collections' folders would join them to one."""
    for name in ("a/x.jsonl", "b/y.jsonl"):
        put(tmp_path, name)
    put(tmp_path, "index.csv", b"name,files\na,1\n")
    found = find_input(tmp_path, SourceConfig())
    assert [collection.name for collection in found.collections] == ["a", "b"]
    assert set(listed(tmp_path)) == {"index.csv"}


def test_what_lies_in_collections_that_are_not_wanted_is_not_counted(tmp_path: Path) -> None:
    """A run of one collection would warn of another's files."""
    for name in ("a/x.jsonl", "a/x.txt", "b/y.jsonl", "b/y.txt"):
        put(tmp_path, name)
    assert find_input(tmp_path, SourceConfig(), ["b"]).passed_over.sentence() == (
        "1 file is not a chunk file and was passed over: b/y.txt (its file type is not supported)"
    )


def test_the_list_is_bounded() -> None:
    """A folder of a million pictures would make run.json as large as the vectors."""
    files = PassedOverFiles()
    for number in range(5000):
        files.add(PassedOver(file=Path(f"{number}.{number % 300}"), reason="no format with this ending is read"))
    told = files.to_dict()
    assert (told["files"], len(told["first"])) == (5000, 25)
    (endings,) = told["by_reason"].values()
    assert len(endings) == 21 and sum(endings.values()) == 5000


def test_markers_alone_are_not_told(tmp_path: Path) -> None:
    """Every run over Spark's output would warn of its _SUCCESS."""
    put(tmp_path, "docs/a.jsonl")
    put(tmp_path, "docs/_SUCCESS", b"")
    found = find_input(tmp_path, SourceConfig()).passed_over
    assert (found.sentence(), found.count) == ("", 1)


def test_links_to_themselves_are_listed_and_folders_are_counted_once(tmp_path: Path) -> None:
    """A link would be lost, or the files behind it be counted twice."""
    put(tmp_path, "docs/a.jsonl")
    put(tmp_path, "docs/real/a.txt")
    (tmp_path / "docs" / "again").symlink_to(tmp_path / "docs" / "real")
    (tmp_path / "docs" / "knot").symlink_to(tmp_path / "docs" / "knot")
    (tmp_path / "docs" / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert set(listed(tmp_path)) == {"docs/real/a.txt", "docs/knot", "docs/gone.txt"}


@pytest.mark.parametrize(
    "names",
    [
        ["manifest.jsonl", "id.json"],
        ["run.json", "manifest.jsonl", "events.jsonl"],
        [".lock", "events.jsonl", "state.json"],
        [".soloist-export.json", "vectors.npy"],
        [".soloist-export.parquet", "docs.parquet"],
        ["soloist-export.json", "rows.jsonl"],
    ],
)
def test_what_soloist_wrote_is_refused_wherever_it_lies(tmp_path: Path, names: list[str]) -> None:
    """Vectors of a run would be embedded as chunks, or its events."""
    put(tmp_path, "docs/a.jsonl")
    for name in names:
        put(tmp_path, f"docs/old/{name}")
    with pytest.raises(InputError) as caught:
        find_input(tmp_path, SourceConfig())
    what = "a folder that soloist exported" if "export" in names[0] else "a run folder of soloist"
    assert str(caught.value) == (
        f"{tmp_path / 'docs' / 'old'} is {what}, so its rows are not chunks: move it out of {tmp_path}, or give "
        "another folder"
    )
    with pytest.raises(InputError, match=r"so its rows are not chunks: give the folder with your chunks$"):
        find_input(tmp_path / "docs" / "old", SourceConfig())


def test_a_file_that_was_exported_is_refused_and_others_are_not(tmp_path: Path) -> None:
    """Rows of an export would be chunks with vectors as their metadata; or a manifest of recordings no input."""
    row = {"key": "k", "run": "r", "collection": "c", "id": "1", "text": "a", "vector": [1.0]}
    put(tmp_path, "docs/manifest.jsonl")
    put(tmp_path, "docs/b.jsonl", json.dumps({"key": "k", "text": "a"}).encode())
    assert len(find_input(tmp_path, SourceConfig()).collections[0].files) == 2
    put(tmp_path, "docs/exported.jsonl", json.dumps(row).encode())
    with pytest.raises(
        InputError, match=r"exported\.jsonl is a file that soloist exported, so its rows are not chunks"
    ):
        find_input(tmp_path, SourceConfig())
    assert own_folder(["manifest.jsonl", "audio"]) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("t/_delta_log/0.json", "Delta Lake"),
        ("t/.hoodie/hoodie.properties", "Apache Hudi"),
        ("t/metadata/v1.metadata.json", "Apache Iceberg"),
    ],
)
def test_a_table_with_versions_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Rows that were deleted from the table would be embedded, since their files stay in its folder."""
    for each in (name, "t/data/part-0.parquet"):
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_text("{}")
    for root in (tmp_path, tmp_path / "t"):
        with pytest.raises(InputError, match=f"is a {kind} table, which also keeps rows that were deleted"):
            find_input(root, SourceConfig())
    (tmp_path / name).unlink()
    (tmp_path / name).parent.rmdir()
    assert [each.name for each in find_input(tmp_path, SourceConfig()).collections] == ["t"]
