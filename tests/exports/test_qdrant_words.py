"""Words and sparse vectors in Qdrant: what they become, what stays, and what a collection that is there must have."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from support.export_readers import read_qdrant
from support.exported_runs import LEXICAL, SPARSE, some_chunks, terms_of
from support.term_rows import term_rows

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.exports.qdrant.points import requests
from soloist.exports.qdrant.words import settled_average, term_id, word_vectors
from soloist.exports.rows import key_of, open_source
from soloist.types import Chunk

ONE_HASH = ("word50106", "word88338")


def test_terms_of_one_hash_are_one_dimension():
    """Qdrant refuses a dimension that is twice in a vector; one of the two words would be lost."""
    first, second = ONE_HASH
    assert term_id(first) == term_id(second)
    rows = term_rows([{first: 2, second: 1, "third": 1}, {}, {second: 3}])
    found = word_vectors(rows, 4.0)
    found.require_sound()
    assert found.lengths.tolist() == [2, 1, 1]
    # Qdrant's engine counts only vectors with a dimension among the texts that an IDF is of.
    assert found.row(1)[0].tolist() == [term_id("")] and 0 < found.row(1)[1][0] < 1e-5
    part = 1.5 * (0.25 + 0.75 * 4 / 4)
    assert dict(zip(*map(np.ndarray.tolist, found.row(0)), strict=True)) == pytest.approx(
        {term_id(first): 2 / (2 + part) + 1 / (1 + part), term_id("third"): 1 / (1 + part)}
    )


def test_a_hash_that_terms_share_is_said(make_run, tmp_path):
    """Nobody could tell why a chunk is found by a word that it does not have."""
    run = make_run(alpha=[Chunk(id=text, text=text) for text in (*ONE_HASH, "third")], ragged=True, dense=False)
    report = export_run(run, "qdrant", out=tmp_path / "out")
    assert f"2 terms of 3 of {LEXICAL} share a dimension with another, so they count together" in report.notes


def test_a_few_more_words_leave_the_rows_alone(make_run, tmp_path):
    """Each new chunk changes the average length, and every row would be written again for it."""
    chunks, out = some_chunks(45), tmp_path / "out"
    export_run(make_run(alpha=chunks, ragged=True), "qdrant", out=out)
    more = [*chunks, Chunk(id="more", text="one word more than the other chunks do have")]
    report = export_run(make_run(alpha=more, ragged=True), "qdrant", out=out)
    assert (report.written, report.unchanged) == (1, 45)
    longer = [*chunks, Chunk(id="more", text="many " * 100)]
    assert export_run(make_run(alpha=longer, ragged=True), "qdrant", out=out).written == 46
    assert settled_average(1_000, 100, 10.05) == 10.05 and settled_average(1_000, 100, 10.2) == 10.0
    assert settled_average(0, 5, None) == 0.0 and settled_average(10, 5, "2") == 2.0


def test_an_export_of_some_collections_keeps_the_average(make_run, tmp_path):
    """Each export of other collections would write all their rows again, by an average of their own."""
    alpha, out = some_chunks(3), tmp_path / "out"
    run = make_run(alpha=alpha, beta=[Chunk(id="long", text="many words " * 40)], ragged=True)
    export_run(run, "qdrant", out=out, collections=["beta"])
    assert export_run(run, "qdrant", out=out).written == 3
    for collection in ("alpha", "beta"):
        assert export_run(run, "qdrant", out=out, collections=[collection]).written == 0
    vectors = {row[1]: row[3] for row in read_qdrant(str(out)).values()}
    average = (80 + sum(len(chunk.text.split()) for chunk in alpha)) / 4
    value = 40 / (40 + 1.5 * (0.25 + 0.75 * 80 / average))
    assert vectors["long"][LEXICAL] == pytest.approx({term_id("many"): value, term_id("words"): value})


def test_words_of_another_text_go_with_it(make_run, tmp_path):
    """A chunk would be found by the words that it had before its text changed."""
    out, chunks = tmp_path / "out", some_chunks(3)
    export_run(make_run(alpha=chunks, ragged=True), "qdrant", out=out)
    chunks[1] = Chunk(id="chunk 1", text="another text of as many words as before it")
    export_run(make_run(alpha=chunks, ragged=True), "qdrant", out=out, vectors="fused")
    names = {row[1]: set(row[3]) for row in read_qdrant(str(out)).values()}
    every = {"model-a", "org/model.b", "fused", SPARSE, LEXICAL}
    assert names == {"chunk 0": every, "chunk 1": {"fused"}, "chunk 2": every}
    assert export_run(make_run(alpha=chunks, ragged=True), "qdrant", out=out).written == 1
    assert {row[1]: set(row[3]) for row in read_qdrant(str(out)).values()} == dict.fromkeys(names, every)


def test_broken_off_it_goes_on(make_run, tmp_path, monkeypatch):
    """Rows would be missing, or what was written be written again."""
    from qdrant_client.local.local_collection import LocalCollection

    run, out = make_run(alpha=some_chunks(30), ragged=True), tmp_path / "out"
    upsert, calls = LocalCollection.upsert, []

    def broken(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return upsert(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(LocalCollection, "upsert", broken)
        with pytest.raises(ExportError, match="the disk is gone"):
            export_run(run, "qdrant", out=out, batch_rows=10)
    report = export_run(run, "qdrant", out=out, batch_rows=10)
    assert (report.written, report.unchanged) == (10, 20)


@pytest.mark.parametrize(
    ("sparse", "sentence"),
    [
        ({}, "has no sparse vectors named splade-x: give --vectors with a name that the collection has"),
        ({SPARSE: None, LEXICAL: None}, "has no modifier for the sparse vectors bm25, and an export has idf"),
        ({SPARSE: "idf", LEXICAL: "idf"}, "has idf for the sparse vectors splade-x, and an export has no modifier"),
    ],
)
def test_a_collection_without_room_is_refused(sparse, sentence, make_run, tmp_path):
    """Words would be ranked without their IDF, or an error of Qdrant's be shown."""
    from qdrant_client import QdrantClient, models

    out = tmp_path / "out"
    params = {name: models.SparseVectorParams(modifier=modifier) for name, modifier in sparse.items()}
    with closing(QdrantClient(path=str(out))) as client:
        client.create_collection("soloist", {}, sparse_vectors_config=params)
    with pytest.raises(ExportError, match=sentence):
        export_run(make_run(alpha=some_chunks(1), ragged=True, dense=False), "qdrant", out=out)


def test_requests_count_the_entries(make_run, monkeypatch):
    """A request of long texts would be larger than a server takes."""
    monkeypatch.setattr("soloist.exports.qdrant.points._REQUEST_BYTES", 10_000)
    chunks = [Chunk(id=str(number), text=" ".join(f"w{at}" for at in range(120))) for number in range(3)]
    source = open_source(make_run(alpha=chunks, ragged=True, dense=False), LEXICAL, (), several=True)
    rows = source.shard("alpha", 0)
    assert [len(part) for part in requests(rows)] == [1, 1, 1]
    assert rows.keys[0] == key_of("alpha", "0") and len(terms_of([chunks[0].text]).vocabulary) == 120
