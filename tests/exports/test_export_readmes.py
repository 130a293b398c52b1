"""The code in the README of an export finds what `soloist search` finds."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

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


def assert_same_order(found, scores):
    """The same rows in the same order, but that rows whose scores float32 does not tell apart may be in another."""
    best = sorted(scores.values(), reverse=True)[: len(found)]
    assert [scores[key] for key in found] == pytest.approx(best, abs=1e-4)
