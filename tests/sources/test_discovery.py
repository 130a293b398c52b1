"""Which files are chunk files, which folders are collections, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.sources import discover
from soloist.types import Collection

CONFIG = SourceConfig()


def plant(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("[]", encoding="utf-8")
    return root


def found(collections: tuple[Collection, ...]) -> dict[str, list[str]]:
    return {c.name: [file.relative_to(c.root).as_posix() for file in c.files] for c in collections}


def test_each_folder_with_chunk_files_at_any_depth_is_a_collection(tmp_path: Path) -> None:
    """Files in nested folders would be lost, or a folder without chunks become an empty collection."""
    plant(tmp_path, "b/x_chunks.json", "a/deep/er/y_chunks.json", "a/z.jsonl", "empty/readme.md")
    assert found(discover(tmp_path, CONFIG)) == {"a": ["deep/er/y_chunks.json", "z.jsonl"], "b": ["x_chunks.json"]}


def test_a_root_with_chunk_files_is_one_collection_with_all_below_it(tmp_path: Path) -> None:
    """A single collection would be taken apart at its subfolders."""
    root = plant(tmp_path / "Docling", "a_chunks.json", "sub/b_chunks.json")
    (collection,) = discover(root, CONFIG)
    assert collection == Collection(
        name="Docling", root=root, files=(root / "a_chunks.json", root / "sub" / "b_chunks.json")
    )


def test_a_root_of_dots_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection of `soloist .` would be called the empty string."""
    plant(tmp_path / "Docling", "a_chunks.json")
    monkeypatch.chdir(tmp_path / "Docling")
    assert [c.name for c in discover(Path(), CONFIG)] == ["Docling"]


def test_a_slash_at_the_end_changes_nothing(tmp_path: Path) -> None:
    """The validation plan's `chunks_dir="…/"` would name collections otherwise."""
    plant(tmp_path, "a/x_chunks.json")
    assert discover(Path(f"{tmp_path}/"), CONFIG) == discover(tmp_path, CONFIG)


def test_patterns_match_whatever_the_case_and_nothing_else(tmp_path: Path) -> None:
    """`*_Chunks.JSON` from Windows would be missed, or a summary be embedded."""
    plant(tmp_path, "c/A_Chunks.JSON", "c/chunks.json", "c/b_processing_summary.json", "c/corpus.jsonl", "c/t.Parquet")
    assert found(discover(tmp_path, CONFIG)) == {"c": ["A_Chunks.JSON", "chunks.json", "corpus.jsonl", "t.Parquet"]}


def test_other_patterns_replace_the_usual_ones(tmp_path: Path) -> None:
    """A user's own names would not be found."""
    plant(tmp_path, "c/one.TXT.json", "c/two_chunks.json")
    assert found(discover(tmp_path, SourceConfig(file_patterns=("*.txt.json",)))) == {"c": ["one.TXT.json"]}


def test_queries_and_hidden_names_are_passed_over(tmp_path: Path) -> None:
    """Queries of a BEIR folder, or a notebook's checkpoints, would be embedded as chunks."""
    plant(
        tmp_path,
        "beir/corpus.jsonl",
        "beir/queries.jsonl",
        "beir/Queries.JSONL",
        "beir/.cache/a.jsonl",
        "beir/.b.jsonl",
    )
    plant(tmp_path, ".hidden/a_chunks.json", "only_queries/queries.jsonl")
    assert found(discover(tmp_path, CONFIG)) == {"beir": ["corpus.jsonl"]}


def test_a_hidden_root_is_read(tmp_path: Path) -> None:
    """A root like `~/.cache/chunks` would seem empty, though it was named."""
    plant(tmp_path / ".root", "a/x_chunks.json")
    assert found(discover(tmp_path / ".root", CONFIG)) == {"a": ["x_chunks.json"]}


def test_the_order_is_that_of_the_posix_paths(tmp_path: Path) -> None:
    """Order, and with it shards and vectors, would depend on the file system."""
    names = ["a-b/x.jsonl", "a/x.jsonl", "B.jsonl", "a.jsonl", "é.jsonl", "a/B.jsonl"]
    plant(tmp_path / "c", *reversed(names))
    assert found(discover(tmp_path / "c", CONFIG))["c"] == sorted(names)


def test_a_folder_named_like_a_chunk_file_is_a_folder(tmp_path: Path) -> None:
    """Opening it as a file would break the run."""
    plant(tmp_path, "c/x_chunks.json/y_chunks.json")
    assert found(discover(tmp_path, CONFIG)) == {"c": ["x_chunks.json/y_chunks.json"]}


def test_links_do_not_loop_and_each_folder_is_read_once(tmp_path: Path) -> None:
    """A link to a folder above would never end, and one beside it make every id a duplicate."""
    plant(tmp_path, "a/real/x_chunks.json", "b/y_chunks.json")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "real")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "knot").symlink_to(tmp_path / "a" / "knot")
    assert found(discover(tmp_path, CONFIG)) == {"a": ["real/x_chunks.json"], "b": ["y_chunks.json"]}


def test_a_collection_may_be_a_link(tmp_path: Path) -> None:
    """Data that is linked into place, as notebooks do, would not be found."""
    plant(tmp_path / "store", "v1/x_chunks.json")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "c").symlink_to(tmp_path / "store" / "v1")
    assert found(discover(tmp_path / "root", CONFIG)) == {"c": ["x_chunks.json"]}


def test_a_broken_link_is_found_so_that_reading_can_tell(tmp_path: Path) -> None:
    """A chunk file that is gone would be left out without a word."""
    plant(tmp_path, "c/a_chunks.json")
    (tmp_path / "c" / "gone_chunks.json").symlink_to(tmp_path / "nowhere")
    assert found(discover(tmp_path, CONFIG)) == {"c": ["a_chunks.json", "gone_chunks.json"]}


def test_a_pipe_is_no_chunk_file(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    plant(tmp_path, "c/a.jsonl")
    os.mkfifo(tmp_path / "c" / "pipe.jsonl")
    assert found(discover(tmp_path, CONFIG)) == {"c": ["a.jsonl"]}


def test_wanted_collections_come_in_sorted_order(tmp_path: Path) -> None:
    """The order of the command line would decide about shards, or an unwanted collection slip in."""
    plant(tmp_path, "a/x.jsonl", "b/x.jsonl", "c/x.jsonl")
    assert [c.name for c in discover(tmp_path, CONFIG, ["c", "a", "c"])] == ["a", "c"]


def test_a_wanted_collection_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """A misspelt name would embed nothing and succeed."""
    plant(tmp_path, "Docling/x.jsonl", "Qdrant/x.jsonl", "empty/readme.md")
    with pytest.raises(InputError) as caught:
        discover(tmp_path, CONFIG, ["Docling", "docling"])
    assert str(caught.value) == f"{tmp_path} has no collection 'docling': choose one of Docling, Qdrant"


def test_a_root_without_chunk_files_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    """The user would not know that `data.json` is not looked at."""
    plant(tmp_path, "c/data.json")
    with pytest.raises(InputError) as caught:
        discover(tmp_path, SourceConfig(file_patterns=("*_chunks.json", "*.jsonl")))
    assert str(caught.value) == (
        f"{tmp_path} holds no chunk files: soloist looked for *_chunks.json, *.jsonl at any depth; to read files with "
        "other names, give --file-patterns. 1 file is not a chunk file and was passed over: "
        "c/data.json (its name matches no pattern)"
    )


def test_a_root_that_is_missing_or_a_file_is_an_error(tmp_path: Path) -> None:
    """A wrong path would show as a traceback."""
    with pytest.raises(InputError, match=r"nowhere cannot be read \(No such file or directory\): give a folder"):
        discover(tmp_path / "nowhere", CONFIG)
    plant(tmp_path, "x_chunks.json")
    with pytest.raises(InputError, match=r"x_chunks\.json is a file: give the folder that contains it"):
        discover(tmp_path / "x_chunks.json", CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """Its chunks would be missing without a word."""
    plant(tmp_path, "a/x.jsonl", "a/closed/y.jsonl")
    (tmp_path / "a" / "closed").chmod(0)
    try:
        with pytest.raises(InputError, match=r"closed cannot be read \(Permission denied\): make it readable"):
            discover(tmp_path, CONFIG)
    finally:
        (tmp_path / "a" / "closed").chmod(0o700)
