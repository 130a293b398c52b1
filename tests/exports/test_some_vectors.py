"""An export of some vectors leaves the others as they are, or says that it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from support.export_readers import READERS
from support.exported_runs import some_chunks, vectors_of

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.stores import RunFolder
from soloist.types import Chunk

NAMES = ("model-a", "org/model.b", "fused")
OTHERS = ("org/model.b", "fused")


@pytest.mark.parametrize("kind", ["lancedb", "qdrant", "pgvector"])
def test_vectors_that_are_not_named_stay_with_their_text(make_run, place, kind):
    """They were taken away from every row that had changed at all, or stayed with a text that is not theirs."""
    where, read = place(kind)
    chunks = some_chunks(4)
    export_run(make_run(alpha=chunks), kind, **where)
    before = {row[1]: row for row in read().values()}
    chunks[1] = Chunk(id=chunks[1].id, text="another text", metadata=chunks[1].metadata)
    chunks[2] = Chunk(id=chunks[2].id, text=chunks[2].text, metadata={"page": 99})
    run = make_run(alpha=[*chunks, *some_chunks(1, first=50)])
    report = export_run(run, kind, vectors="model-a", **where)
    assert (report.written, report.unchanged) == (3, 2)
    after = {row[1]: row for row in read().values()}
    for place_, chunk in enumerate(chunks):
        there = after[chunk.id][3]
        np.testing.assert_allclose(there["model-a"], vectors_of([chunk.text], "model-a")[0], atol=1e-6)
        assert set(there) == ({"model-a"} if place_ == 1 else set(NAMES))
        for name in OTHERS if place_ != 1 else ():
            assert there[name] == before[chunk.id][3][name]
    assert set(after["chunk 50"][3]) == {"model-a"}
    report = export_run(run, kind, **where)
    assert (report.written, report.unchanged) == (2, 3)
    assert all(set(row[3]) == set(NAMES) for row in read().values())


@pytest.mark.parametrize("kind", ["lancedb", "qdrant", "pgvector"])
def test_vectors_made_anew_are_written_over_those_beside_which_others_stay(make_run, place, kind):
    """A model's vectors of another revision would stay, or take the fused ones with them."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(3))
    export_run(run, kind, **where)
    before = {row[1]: row[3]["fused"] for row in read().values()}
    folder = RunFolder(run)
    ids = folder.shards.read_ids("alpha", 0)
    other = np.tile(np.eye(6, dtype=np.float32)[0], (3, 1))
    folder.manifest.append(
        folder.shards.write_vectors("alpha", "model-a", 0, ids, other, [b"0" * 16] * 3, "made by another revision")
    )
    assert export_run(run, kind, vectors="model-a", **where).written == 3
    for row in read().values():
        assert row[3]["model-a"] == [1, 0, 0, 0, 0, 0] and row[3]["fused"] == before[row[1]]


def test_a_lancedb_table_that_would_lose_vectors_is_left(make_run, tmp_path):
    """A column of metadata with another type makes the table anew, without the vectors that are not exported now."""
    out = str(tmp_path / "out")
    export_run(make_run(alpha=some_chunks(3)), "lancedb", out=out)
    run = make_run(alpha=[Chunk(id="a", text="one", metadata={"page": "three"})])
    with pytest.raises(
        ExportError, match=r"metadata_page of .* is int64 and has to .* would lose vector_.*with --vectors all"
    ):
        export_run(run, "lancedb", out=out, vectors="model-a")
    assert len(READERS["lancedb"](out)) == 3
    assert export_run(run, "lancedb", out=out).rows == 1


@pytest.mark.parametrize("kind", ["parquet", "numpy", "jsonl"])
def test_files_are_not_written_anew_with_fewer_vectors(make_run, tmp_path, kind):
    """The other vectors were removed without a word."""
    run, out = make_run(alpha=some_chunks(3)), str(tmp_path / "out")
    export_run(run, kind, out=out, vectors="fused")
    export_run(run, kind, out=out)
    before = READERS[kind](out)
    with pytest.raises(ExportError, match=r"has vectors of model-a, which .* export all with --vectors all, or choose"):
        export_run(run, kind, out=out, vectors="fused")
    assert READERS[kind](out) == before


def test_an_index_of_faiss_is_not_replaced_by_one_of_other_vectors(make_run, tmp_path):
    """The same of a format that has one vector a row, where all is no way on."""
    run, out = make_run(alpha=some_chunks(3)), tmp_path / "out"
    export_run(run, "faiss", out=out)
    with pytest.raises(ExportError, match=r"has vectors of fused, which .* would take away: choose another --out"):
        export_run(run, "faiss", out=out, vectors="model-a")
