"""The vectors of a run as arrays and tables."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import soloist
from soloist.errors import ConfigError, OutputError
from soloist.stores import RunFolder
from soloist.stores.mapped import MappedVectors, joined


@pytest.fixture(scope="module")
def every_row(finished):
    """Collection and id of each row, and the vectors, shard by shard as the folder has them."""
    folder, keys, parts = RunFolder.open(finished), [], []
    for collection in ("alpha", "beta"):
        for shard in folder.shards.indices(collection):
            ids, vectors = folder.shards.read_vectors(collection, "wordllama", shard)
            keys += [(collection, id_) for id_ in ids]
            parts.append(vectors)
    return keys, np.concatenate(parts)


def test_vectors_are_one_mapped_array_beside_their_ids(finished, every_row):
    """Whoever wanted the vectors of a model had to join the files of all shards, in the right order."""
    keys, expected = every_row
    before = sorted(finished.rglob("*"))
    vectors = soloist.open_run(finished).vectors("wordllama")
    assert list(zip(vectors.collections, vectors.ids, strict=True)) == keys
    assert isinstance(vectors.array, np.memmap) and not vectors.array.flags.writeable
    assert (vectors.array.shape, vectors.array.dtype) == ((95, 256), np.float32)
    np.testing.assert_array_equal(vectors.array, expected)
    assert sorted(finished.rglob("*")) == before, "nothing is left in the folder of the run"
    assert repr(vectors) == "<vectors by wordllama: 95 rows of 256 components>"


def test_vectors_are_tables(finished, every_row):
    """The next step of a notebook is a join with a table of its own."""
    keys, expected = every_row
    vectors = soloist.open_run(finished).vectors("wordllama")
    table, frame = vectors.to_arrow(), vectors.to_pandas()
    assert list(zip(table["collection"].to_pylist(), table["id"].to_pylist(), strict=True)) == keys
    stored = table["vector"].chunk(0).flatten()
    np.testing.assert_array_equal(stored.to_numpy().reshape(95, 256), expected)
    assert stored.buffers()[1].address == vectors.array.ctypes.data, "the table shares the array"
    assert list(zip(frame["collection"], frame["id"], strict=True)) == keys
    np.testing.assert_array_equal(np.stack(frame["vector"]), expected)


def test_some_collections(finished, every_row):
    """Ids of one collection would stand beside rows of another collection."""
    keys, expected = every_row
    vectors = soloist.open_run(finished).vectors("wordllama", ["beta"])
    rows = [row for row, (collection, _) in enumerate(keys) if collection == "beta"]
    assert vectors.ids == [keys[row][1] for row in rows]
    np.testing.assert_array_equal(vectors.array, expected[rows])


def test_float16_stays_float16(finished, tmp_path, every_row):
    """A run that was stored in float16 took twice its bytes as an array."""
    half = tmp_path / "half"
    root = finished.parent / "chunks"
    soloist.embed(root, out=half, models=["wordllama"], accelerator="cpu", vector_dtype="float16", lock_dir=tmp_path)
    vectors = soloist.open_run(half).vectors("wordllama")
    assert vectors.array.dtype == np.float16
    np.testing.assert_array_equal(vectors.array, every_row[1].astype(np.float16))


def test_the_array_of_a_run_where_nothing_can_be_written(finished, every_row, tmp_path):
    """Kaggle mounts the runs of earlier sessions read-only."""
    files = sorted((finished / "alpha" / "vectors" / "wordllama").iterdir())
    array = joined([MappedVectors.open(file) for file in files], tmp_path / "not there")
    np.testing.assert_array_equal(array, every_row[1][:70])


def test_a_name_that_the_run_does_not_have_is_one_sentence(finished):
    """The error said that a file is missing, although the name of the model was wrong."""
    run = soloist.open_run(finished)
    with pytest.raises(ConfigError, match=r"^the run has no model bge-m3: choose one of wordllama$"):
        run.vectors("bge-m3")
    with pytest.raises(ConfigError, match=r"^the run has no fused vectors: choose one of its models, wordllama$"):
        run.vectors("fused")


def test_a_run_that_changed_is_said(finished, tmp_path):
    """Ids of one state of the run would stand beside vectors of another state."""
    shutil.copytree(finished, tmp_path / "run")
    vectors = soloist.open_run(tmp_path / "run").vectors("wordllama")
    file = next((tmp_path / "run" / "beta" / "vectors").rglob("*.parquet"))
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    for read in (lambda: vectors.ids, lambda: vectors.array):
        with pytest.raises(OutputError, match="has changed since the run was opened: open the run again"):
            read()
