"""The code in the README of an export finds what `soloist search` finds."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.exported_runs import some_chunks

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.retrieval.opened import open_run

QUESTIONS = ("the lease of a device", "tokens in a batch, a batch", "東京の天気 and the ภาษาไทย, of a naïve הזכרון")
FILES = {"numpy": "out/README.md", "parquet": "out.README.md", "jsonl": "out.README.md"}  # where each has its README


def code_of(readme: Path) -> dict:
    """What the code of a README defines."""
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    namespace: dict = {}
    exec(compile(code, str(readme), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("kind", FILES)
def test_the_code_of_a_readme_ranks_as_a_search(kind, asked_run, tmp_path, capsys):
    """People would copy code that finds other chunks than the run does."""
    export_run(asked_run, kind, out=tmp_path / "out")
    there = code_of(tmp_path / FILES[kind])
    assert len(capsys.readouterr().out.split("), (")) == 10  # its last line asks a question
    opened = open_run(asked_run)
    assert there["weights"] == opened.record.hybrid.weights
    for question in QUESTIONS:
        for by in ("hybrid", "fused", "wordllama", "bert", "splade", "bm25"):
            weights = there["weights"] if by == "hybrid" else {by: 1.0}
            hits = opened.search(question, 10, by=by)
            assert there["search"](question, weights) == [(hit.collection, hit.id) for hit in hits], by


def test_a_readme_of_some_members_ranks_by_one(asked_run, tmp_path):
    """Its code would ask for a member that is not in the export."""
    export_run(asked_run, "jsonl", out=tmp_path / "out", vectors="bm25")
    there = code_of(tmp_path / "out.README.md")
    assert there["weights"] == {"bm25": 1.0}
    hits = open_run(asked_run).search("lease", 10, by="bm25")
    assert there["search"]("lease", there["weights"]) == [(hit.collection, hit.id) for hit in hits]


@pytest.mark.parametrize("kind", FILES)
def test_without_dense_vectors_only_matches_are_found(kind, asked_run, tmp_path):
    """A question that no chunk has a word of found ten chunks all the same."""
    export_run(asked_run, kind, out=tmp_path / "out", collections=["it's"])
    there = code_of(tmp_path / FILES[kind])
    for question in ("zzz", "lease of a device"):
        found = there["search"](question, {"bm25": 1.0, "splade": 0.0}, 15)
        hits = open_run(asked_run).search(question, 15, by="bm25", collections=["it's"])
        assert found == [(hit.collection, hit.id) for hit in hits] and (found or question == "zzz")
    both = there["search"]("lease of a device", {"bm25": 0.5, "splade": 0.5}, 20)
    matching = np.any([there["scores"](name, "lease of a device") > 0 for name in ("bm25", "splade")], axis=0)
    assert sorted(both) == sorted(there["ids"][row] for row in np.flatnonzero(matching))


def test_scores_of_words_may_hardly_differ(asked_run, tmp_path):
    """A word of every chunk ranked nothing in a large run, though search ranks by it."""
    export_run(asked_run, "jsonl", out=tmp_path / "out", collections=["it's"])
    there = code_of(tmp_path / FILES["jsonl"])
    close = np.array([1.0, 1.0 + 1e-7, 1.0])
    assert there["standardised"]("bm25", close).argmax() == 1 and not there["standardised"]("bert", close).any()
    for name in ("bm25", "splade", "bert"):
        assert not there["standardised"](name, np.full(3, 0.1)).any()  # their mean is not .1


def test_a_folder_may_be_the_current_one(make_run, tmp_path, monkeypatch):
    """An export to `.` ended with an error of Python's after all rows were there; one to `..` wrote `...README.md`."""
    run, inner, text = (
        make_run(alpha=some_chunks(2), ragged=True),
        tmp_path / "out" / "inner",
        tmp_path / "out.README.md",
    )
    inner.parent.mkdir()
    monkeypatch.chdir(inner.parent)
    assert export_run(run, "parquet", out=".").notes == ()
    before = text.read_text()
    text.unlink()
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert export_run(run, "parquet", out="..").notes == ()
    assert "FOLDER = " in text.read_text() and "FOLDER = " in before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.README.md", "run"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "qdrant"])
def test_a_text_that_cannot_be_written_is_a_note(kind, make_run, tmp_path):
    """An export failed after all rows were there, and would fail again each time."""
    path = tmp_path / FILES.get(kind, "out/README-soloist.md")
    run = make_run(alpha=some_chunks(2), ragged=True)
    if kind == "qdrant":
        export_run(run, kind, out=tmp_path / "out")
        path.unlink()
    path.mkdir()
    report = export_run(run, kind, out=tmp_path / "out")
    (note,) = (note for note in report.notes if str(path) in note)
    assert note.startswith(f"all rows are exported, but not the text that says how to query them: cannot write {path}")
    assert report.compared == 2


@pytest.mark.parametrize("kind", FILES)
def test_a_text_goes_with_the_words(kind, make_run, tmp_path):
    """Its code would ask for words that neither the run nor the export has any more."""
    path = tmp_path / FILES[kind]
    export_run(make_run(alpha=some_chunks(2), ragged=True), kind, out=tmp_path / "out")
    assert path.exists()
    export_run(make_run(alpha=some_chunks(2)), kind, out=tmp_path / "out")
    assert not path.exists()
    if kind != "numpy":  # a folder of arrays refuses to write over one, and removes none
        path.write_text("mine")
        assert export_run(make_run(alpha=some_chunks(2)), kind, out=tmp_path / "out").notes == ()
        assert path.read_text() == "mine"


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "qdrant"])
def test_a_file_of_that_name_is_left_alone(kind, make_run, tmp_path):
    """An export would write over notes of somebody's."""
    mine = tmp_path / FILES.get(kind, "out/README-soloist.md")
    run = make_run(alpha=some_chunks(2), ragged=True)
    if kind == "qdrant":
        export_run(run, kind, out=tmp_path / "out")
    mine.write_text("mine")
    assert any(str(mine) in note for note in export_run(run, kind, out=tmp_path / "out").notes)
    assert mine.read_text() == "mine"


def test_a_file_among_arrays_is_left_alone(make_run, tmp_path):
    """An export would write over notes of somebody's."""
    export_run(make_run(alpha=some_chunks(2)), "numpy", out=tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ExportError, match=r"a file README\.md that no export wrote"):
        export_run(make_run(alpha=some_chunks(2), ragged=True), "numpy", out=tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


def test_folders_of_parquet_are_read_as_they_are(make_run, tmp_path):
    """polars refuses a folder with a file that is not Parquet, as a README in it is."""
    import polars

    export_run(make_run(alpha=some_chunks(2), ragged=True), "parquet", out=tmp_path / "out")
    assert len(polars.read_parquet(tmp_path / "out")) == 2


def test_the_code_beside_qdrant_finds_what_a_search_finds(asked_run, tmp_path, capsys):
    """Words that were stored or asked otherwise than BM25 has them would rank otherwise, and nobody would notice."""
    export_run(asked_run, "qdrant", out=tmp_path / "out")
    there = code_of(tmp_path / "out" / "README-soloist.md")
    assert len(capsys.readouterr().out.split("), (")) == 10
    opened = open_run(asked_run)
    with closing(there["client"]):
        for question in QUESTIONS:
            for name in ("fused", "wordllama", "bert", "splade", "bm25"):
                wanted = opened.search(question, 75, by=name)
                scores = {(hit.collection, hit.id): hit.score for hit in wanted}
                found = there["hits"](name, question, 10)
                assert list(found.values()) == pytest.approx([hit.score for hit in wanted[:10]], rel=1e-5, abs=1e-6)
                assert all(score == pytest.approx(scores[key], rel=1e-5, abs=1e-6) for key, score in found.items())
            weights = there["weights"]
            wanted = {(hit.collection, hit.id): hit.score for hit in opened.search(question, 75)}
            assert_same_order(there["hybrid"](question, weights), wanted)
            wanted = {(hit.collection, hit.id): hit.score for hit in opened.search(question, 75, by="rrf")}
            assert_same_order(there["rrf"](question, opened.record.weights()), wanted)
        assert there["hits"]("bm25", "zzz", 10) == {}


def test_the_code_beside_qdrant_leaves_out_other_rows(asked_run, tmp_path):
    """Rows of other runs and collections were hits, and weighed in mean and deviation."""
    out, names = tmp_path / "out", ("fused", "wordllama", "splade")
    export_run(asked_run, "qdrant", out=out)
    export_run(asked_run, "qdrant", out=out, collections=["it's"])
    there, opened = code_of(out / "README-soloist.md"), open_run(asked_run)
    with closing(there["client"]):
        for question in QUESTIONS:
            scores = {}
            for name in names:
                wanted = opened.search(question, 15, by=name, collections=["it's"])
                scores[name] = dict.fromkeys(there["hits"]("fused", question, 99), 0.0)
                scores[name] |= {(hit.collection, hit.id): hit.score for hit in wanted}
                found = there["hits"](name, question, 99)
                assert list(found.values()) == pytest.approx([hit.score for hit in wanted], rel=1e-5, abs=1e-6)
            assert {collection for collection, _ in there["hits"]("bm25", question, 99)} <= {"it's"}
            parts = [np.array([*scores[name].values()]) for name in ("wordllama", "splade")]
            keys = [[*scores[name]] for name in ("wordllama", "splade")]
            total = Counter()
            for order, part in zip(keys, parts, strict=True):
                if part.std() > 0:
                    total.update(dict(zip(order, (part - part.mean()) / part.std() / 2, strict=True)))
            assert_same_order(there["hybrid"](question, {"wordllama": 0.5, "splade": 0.5}), total)


def assert_same_order(found, scores):
    """The same rows in the same order, but that rows whose scores float32 does not tell apart may be in another."""
    best = sorted(scores.values(), reverse=True)[: len(found)]
    assert [scores[key] for key in found] == pytest.approx(best, abs=1e-4)
