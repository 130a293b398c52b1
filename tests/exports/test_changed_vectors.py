"""Vectors that are others than before reach every export, whatever is said of how they were made."""

from __future__ import annotations

import numpy as np
import pytest
from support.exported_runs import WITH_ROWS, some_chunks

from soloist.digests import text_digest
from soloist.exports import export_run
from soloist.stores import RunFolder

STORES = ("lancedb", "qdrant", "pgvector")


def turn(run, rows):
    """Make some vectors of a model others, as the same model does in half precision with other batches."""
    folder = RunFolder(run)
    summary = folder.read_json("run.json")
    ids, vectors = folder.shards.read_vectors("alpha", "model-a", 0)
    vectors = vectors.copy()
    vectors[rows] = np.roll(vectors[rows], 1, axis=1)
    digests = [text_digest(chunk.text) for chunk in folder.shards.read_chunks("alpha", 0)]
    folder.reopen()
    folder.manifest.append(folder.shards.write_vectors("alpha", "model-a", 0, ids, vectors, digests, "made by model-a"))
    folder.finish(summary)
    return dict(zip(ids, vectors.tolist(), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in WITH_ROWS if kind != "faiss"])
def test_a_vector_that_was_made_anew_is_exported(make_run, place, kind):
    """By fingerprint and dtype it was the same: stores kept the old one, or an export failed however often."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(30))
    export_run(run, kind, **where)
    expected = turn(run, [3, 17])
    report = export_run(run, kind, **where)
    if kind in STORES:
        assert (report.written, report.unchanged) == (2, 28)
    found = {row[1]: row[3]["model-a"] for row in read().values()}
    assert found.keys() == expected.keys()
    for id_, vector in expected.items():
        np.testing.assert_allclose(found[id_], vector, atol=1e-6)
    if kind in (*STORES, "parquet"):
        assert export_run(run, kind, **where).written == 0


@pytest.mark.parametrize("kind", STORES)
def test_vectors_that_are_not_exported_now_are_still_known(make_run, place, kind):
    """A mark with those of this export alone would write all rows again at the next export of all."""
    where, _ = place(kind)
    run = make_run(alpha=some_chunks(30))
    export_run(run, kind, **where)
    turn(run, [3])
    assert export_run(run, kind, vectors="fused", **where).written == 0
    assert export_run(run, kind, vectors="model-a", **where).written == 1
    assert export_run(run, kind, **where).written == 0
