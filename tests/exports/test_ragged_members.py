"""Sparse vectors and words in exports: read back, left alone where they are unchanged, and gone with their rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.exported_runs import LEXICAL, SPARSE, WITH_ROWS, some_chunks, sparse_of, terms_of, vectors_of
from support.killed_commands import run_killed

from soloist.errors import ConfigError, ExportError
from soloist.exports import EXPORTS, export_run
from soloist.exports.columns import Columns
from soloist.exports.csr_files import mapped_csr, write_csr
from soloist.exports.members import entries_of, row_digests
from soloist.exports.report import compare
from soloist.exports.rows import key_of, open_source
from soloist.ragged import RaggedRows
from soloist.stores import RunFolder
from soloist.types import Chunk

WITH_WORDS = [name for name in WITH_ROWS if "lexical" in EXPORTS[name].kinds]
KEEPS_UNCHANGED = ("parquet", "qdrant", "lancedb", "pgvector")
FILES = ("parquet", "numpy", "jsonl")
CHUNKS = [*some_chunks(45), Chunk(id="no words", text=" "), *some_chunks(4, first=60)]


def entries(kind: str, name: str, text: str, average: float) -> dict:
    """What an export of a kind should have of a text, where texts have so many words on average."""
    if name == SPARSE:
        return entries_of(sparse_of([text]))[0]
    counts = Counter(text.split())
    if kind != "qdrant":
        return dict(counts)
    length = 1.5 * (0.25 + 0.75 * sum(counts.values()) / average)  # as in docs/words.md
    return {hashed(term): count / (count + length) for term, count in counts.items()} or {hashed(""): 2**-20}


def hashed(term):
    """The dimension of a term, as the README of an export says it."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")


def assert_holds(found, kind, chunks, names=("model-a", "org/model.b", "fused", SPARSE, LEXICAL)):
    """Row by row: these chunks, each with what the run has of it."""
    assert len(found) == len(chunks)
    texts = {chunk.id: chunk.text for chunk in chunks}
    average = sum(len(text.split()) for text in texts.values()) / len(texts)
    for _, id_, _, vectors in found.values():
        assert set(vectors) == set(names)
        for name in names:
            if name in (SPARSE, LEXICAL):
                assert vectors[name] == pytest.approx(entries(kind, name, texts[id_], average))
            else:
                np.testing.assert_allclose(vectors[name], vectors_of([texts[id_]], name)[0], atol=1e-6)


@pytest.mark.parametrize("kind", WITH_WORDS)
def test_every_row_has_its_words_and_sparse_vectors(kind, make_run, place):
    """An export without them, or with those of another row, would rank otherwise than the run."""
    run = make_run(alpha=CHUNKS, ragged=True)
    where, read = place(kind)
    report = export_run(run, kind, **where)
    assert set(report.vectors) == {"model-a", "org/model.b", "fused", SPARSE, LEXICAL}
    assert_holds(read(), kind, CHUNKS)
    before = files_of(where["out"]) if kind in FILES else None
    again = export_run(run, kind, **where)
    assert (again.written if kind in KEEPS_UNCHANGED else 0, again.deleted) == (0, 0)
    assert kind not in FILES or files_of(where["out"]) == before
    shrunk = [*CHUNKS[:3], *CHUNKS[40:]]
    report = export_run(make_run(alpha=shrunk, ragged=True), kind, **where)
    assert report.deleted == 37
    assert_holds(read(), kind, shrunk)


def files_of(target):
    """The digests of the files of an export."""
    path = Path(target)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


@pytest.mark.parametrize("kind", FILES)
def test_killed_before_each_file_of_words_it_goes_on(kind, make_run, place):
    """Words of the run before would lie beside the vectors of the new one, in an export that says it is whole."""
    where, read = place(kind)
    export_run(make_run(alpha=CHUNKS[:20], ragged=True), kind, **where)
    run = make_run(alpha=CHUNKS[10:], ragged=True)
    for ending in (f"{Path(where['out']).name}", "ids.jsonl", "model-a.npy", ".npz", "part-00000.parquet"):
        if any(file.endswith(ending) for file in files_of(where["out"])):
            run_killed(["export", str(run), "--to", kind, "--out", where["out"]], event="os.rename", ending=ending)
    export_run(run, kind, **where)
    assert_holds(read(), kind, CHUNKS[10:])


@pytest.mark.parametrize("kind", FILES)
def test_members_alone_are_exported(kind, make_run, place):
    """A run of words and sparse vectors was refused, as only dense vectors were exported."""
    run = make_run(alpha=CHUNKS[:5], ragged=True, dense=False)
    where, read = place(kind)
    export_run(run, kind, **where, vectors=LEXICAL)
    assert_holds(read(), kind, CHUNKS[:5], (LEXICAL,))
    with pytest.raises(ExportError, match=f"has vectors of {LEXICAL}, which an export of {SPARSE} would take away"):
        export_run(run, kind, **where, vectors=SPARSE)
    export_run(run, kind, **where)
    assert_holds(read(), kind, CHUNKS[:5], (SPARSE, LEXICAL))


@pytest.mark.parametrize("kind", [name for name, row in EXPORTS.items() if "lexical" not in row.kinds])
def test_a_store_without_a_place_for_words_says_so(kind, make_run, place):
    """The export would look complete, and words be missing from it."""
    run = make_run(alpha=CHUNKS[:5], ragged=True)
    where, read = place(kind)
    report = export_run(run, kind, **where)
    assert f"{LEXICAL} is left out, because an export to {kind} has no place for words" in report.notes
    assert not {SPARSE, LEXICAL} & {name for row in read().values() for name in row[3]}
    with pytest.raises(ConfigError, match=f"has words of {LEXICAL}, and this export has no place .*give --vectors one"):
        export_run(run, kind, **where, vectors=LEXICAL)
    with pytest.raises(ConfigError, match="leave out --vectors, or give --vectors one of model-a"):
        export_run(run, kind, **where, vectors="all")
    only = make_run(name="only", alpha=CHUNKS[:5], ragged=True, dense=False)
    with pytest.raises(ConfigError, match=r"export to parquet, numpy, jsonl, lancedb, qdrant or pgvector$"):
        export_run(only, kind, **where)


@pytest.mark.parametrize("kind", ["parquet", "numpy", "qdrant"])
def test_changed_entries_are_written_again(kind, make_run, place):
    """A mark of the text alone would keep the weights of a model that was trained on, and the counts of other words."""
    run = make_run(alpha=CHUNKS[:5], ragged=True)
    where, read = place(kind)
    export_run(run, kind, **where)
    folder = RunFolder.open(run)
    ids, words = folder.terms.read("alpha", LEXICAL, 0)
    assert all(count == 1 for row in range(5) for _, count in words.terms(row))
    kept = [" ".join(dict(words.terms(row))) for row in range(1, 5)]
    words = terms_of(["one two three four five six seven eight nine", *kept])
    folder.manifest.append(folder.terms.write("alpha", LEXICAL, 0, ids, words, [b"0" * 16] * 5, "words", "content"))
    report = export_run(run, kind, **where)
    assert report.written == (1 if kind == "qdrant" else 5)
    first = next(row for row in read().values() if row[1] == "chunk 0")
    there = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert first[3][LEXICAL].keys() == set(map(hashed, there) if kind == "qdrant" else there)


@pytest.mark.parametrize("lost", [{}, {"text": 2}, {"text": 1, "other": 1}])
def test_what_a_target_lost_is_noticed(lost, make_run):
    """An export would be called whole whose words nobody finds."""
    source = open_source(make_run(alpha=[Chunk(id="a", text="text")], ragged=True), LEXICAL, (), several=True)
    read = {key_of("alpha", "a"): {LEXICAL: {"text": 1}}}
    assert compare(source, "there", 1, lambda keys: read) == 1
    read = {key_of("alpha", "a"): {LEXICAL: lost}}
    with pytest.raises(ExportError, match="there has another bm25 vector of chunk 'a' than was written"):
        compare(source, "there", 1, lambda keys: read)
    assert compare(source, "there", 1, lambda keys: {}, kept=lambda name, rows: None) == 1


def test_digests_are_of_the_entries_alone():
    """Rows would be written again because another row has new words, or stay though a count has changed."""
    alone, beside = terms_of(["b a b"]), terms_of(["zebra aardvark", "b a b"])
    assert row_digests(alone, 8) == row_digests(beside, 8)[1:]
    different = {row_digests(terms_of([text]), 8)[0] for text in ("b a b", "b a", "a b b b", "", "c a c")}
    assert len(different) == 5
    assert row_digests(alone, 8, "long") != row_digests(alone, 8)
    sparse = sparse_of(["one two", "three"])
    assert row_digests(sparse, 8)[1:] == row_digests(sparse.take([1]), 8)


def test_a_matrix_of_no_entries_can_be_read(tmp_path):
    """Texts without words would end the export with an error of numpy's."""
    import scipy.sparse

    write_csr(tmp_path / "a.npz", [RaggedRows.empty(3, np.float32)], 7, np.dtype("<f4"))
    assert scipy.sparse.load_npz(tmp_path / "a.npz").shape == (3, 7)
    assert len(mapped_csr(tmp_path / "a.npz")) == 3


def test_lists_of_some_rows_begin_at_their_rows(make_run):
    """The words of a batch would be those of the first rows of the shard."""
    source = open_source(make_run(alpha=CHUNKS, ragged=True), None, (), several=True)
    rows = next(source.batches(40)).take([3, 5])
    columns = Columns.of(source)
    found = columns.ragged[LEXICAL].arrays(rows.ragged[LEXICAL])
    texts = [CHUNKS[3].text, CHUNKS[5].text]
    assert [sorted(terms) for terms in found["terms_bm25"].to_pylist()] == [sorted(set(text.split())) for text in texts]
