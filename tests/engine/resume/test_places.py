"""Every chunk, hit and row leads to the file that it was read from, on any machine and whatever has moved since."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.editing import assert_same_files

from soloist.config import RunConfig
from soloist.engine import run
from soloist.exports import export_run
from soloist.reports.hits import hit_values
from soloist.retrieval import open_run
from soloist.stores import RunFolder
from soloist.stores.manifest import file_sha256
from soloist.stores.verification import verify_run

FILES = {
    "alpha/a_chunks.json": [{"id": f"a{n}", "text": f"a lease gives the device {n}"} for n in range(5)],
    "alpha/deep/b_chunks.json": ["a text without an id", " ", "the text behind an empty one"],
    "beta/c_chunks.json": [{"text": f"vectors of chunk {n}"} for n in range(3)],
}


def write_files(root: Path, files: dict[str, list]) -> None:
    """Make `root` hold these files and no others."""
    for path in [*root.rglob("*.json")]:
        path.unlink()
    for name, items in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(items))


@pytest.fixture
def config(tmp_path, catalogue) -> RunConfig:
    """A run of a static model over two collections, in shards of four."""
    write_files(tmp_path / "chunks", FILES)
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=("static",), catalogue=catalogue,
        accelerator="cpu", shard_chunks=4, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
    )  # fmt: skip


def text_at(root: Path, file: str, index: int) -> str:
    """The text that lies there, read by nothing of ours."""
    item = json.loads((root / file).read_text())[index]
    return item["text"] if isinstance(item, dict) else item


def stored_places(folder: Path) -> dict[str, tuple[str, int]]:
    """File and index of each text in the files of chunks, as another tool reads them."""
    tables = [pq.read_table(path) for path in folder.glob("*/chunks/*.parquet")]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["text"]: (row["source_file"], row["source_index"]) for row in rows}


@pytest.mark.parametrize("inside", ["", "alpha"])
def test_chunks_and_hits_lead_to_their_file(config, inside):
    """Nothing led from a hit to its file; an index counted no empty texts, or a path was of the collection alone."""
    root = config.chunks_root / inside
    run(dataclasses.replace(config, chunks_root=root))
    places = stored_places(config.out)
    assert len(places) == (7 if inside else 10)
    assert all(text_at(root, *place) == text for text, place in places.items())
    (hits,) = open_run(config.out).search_all(["a device"], k=len(places))
    assert {hit.text: (hit.source_file, hit.source_index) for hit in hits} == places
    assert {(value["source_file"], value["source_index"]) for value in map(hit_values, hits)} == {*places.values()}


def test_a_chunk_that_moved_is_at_its_new_place_and_not_embedded_again(config, tmp_path):
    """A chunk file of the same ids and texts was taken for the same, or its vectors were made anew."""
    run(config)
    items = FILES["alpha/a_chunks.json"]
    write_files(config.chunks_root, {**FILES, "alpha/0_chunks.json": items[:2], "alpha/a_chunks.json": items[2:]})
    assert run(config).models[0].embedded == 0
    places = stored_places(config.out)
    assert places["a lease gives the device 1"] == ("alpha/0_chunks.json", 1)
    assert places["a lease gives the device 2"] == ("alpha/a_chunks.json", 0)
    run(dataclasses.replace(config, out=tmp_path / "fresh"))
    assert_same_files(config.out, tmp_path / "fresh")


def as_of_an_earlier_version(folder: RunFolder) -> None:
    """Take the places out of a run's files of chunks."""
    records = folder.manifest.read()
    for name, record in records.items():
        if record.kind == "chunks":
            path = folder.path / name
            pq.write_table(pq.read_table(path, columns=["id", "text", "metadata"]), path, compression="zstd")
            records[name] = dataclasses.replace(record, bytes=path.stat().st_size, sha256=file_sha256(path))
    folder.manifest.replace(records.values())


def test_a_run_of_an_earlier_version(config, tmp_path):
    """Its chunks could not be read, or all of it was embedded again for two columns."""
    run(config)
    fresh = stored_places(config.out)
    folder = RunFolder.open(config.out)
    as_of_an_earlier_version(folder)
    assert not verify_run(folder).problems
    (hits,) = open_run(config.out).search_all(["a device"])
    assert {(hit.source_file, hit.source_index) for hit in hits} == {(None, None)}
    export_run(config.out, "jsonl", out=tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {(line["source_file"], line["source_index"]) for line in lines} == {(None, None)}
    assert run(config).models[0].embedded == 0
    assert stored_places(config.out) == fresh


def test_a_name_that_is_no_text_is_escaped(config):
    """Bytes of a name that are no UTF-8 ended the run, though the chunks of the file have ids and sound texts."""
    file = config.chunks_root / "alpha" / "caf\udce9_chunks.json"
    try:
        file.write_text(json.dumps([{"id": "e", "text": "an odd name"}]))
    except OSError:
        pytest.skip("this file system takes no such name")
    run(config)
    assert stored_places(config.out)["an odd name"] == ("alpha/caf\\udce9_chunks.json", 0)
