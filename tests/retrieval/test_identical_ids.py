"""Questions that are chunks of the run themselves do not find themselves, as BEIR has it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import pytrec_eval
from typer.testing import CliRunner

from soloist.cli import app
from soloist.retrieval import open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers.ranker import evaluated_rankers
from soloist.retrieval.tuning import split

OWN = "40 questions with the same id as a chunk: that chunk does not count as a hit of its question, which is BEIR's"
BY_CHANCE = "none of these questions has the text of its chunk"


@pytest.fixture(scope="module")
def own_questions(searched):
    """Forty chunks as questions, of which three are judged to find themselves, and one that is no chunk."""
    opened = open_run(searched)
    chunks = list(opened.chunks())
    queries = {chunk.id: chunk.text for chunk in chunks[:40]} | {"asked": "which device has the lease"}
    judgements = {
        query: {chunks[(3 * number + 7) % len(chunks)].id: 1 + number % 2, chunks[number].id: int(number < 3)}
        for number, query in enumerate(queries)
    }
    judgements["asked"] = {chunks[5].id: 1}
    return Qrels(queries=queries, judgements=judgements)


def as_beir_has_it(positions, ids, qrels, *, ignore_identical_ids):
    """Every question's nDCG@10 by what BEIR's own evaluator does: identical ids are popped, judgements stay."""
    results = {}
    for query, row in zip(qrels.queries, positions, strict=True):
        results[query] = {ids[place]: float(len(row) - rank) for rank, place in enumerate(row.tolist())}
        if ignore_identical_ids:
            results[query].pop(query, None)
    scores = pytrec_eval.RelevanceEvaluator(qrels.judgements, {"ndcg_cut.10"}).evaluate(results)
    return {query: scores[query]["ndcg_cut_10"] for query in qrels.queries}


@pytest.mark.parametrize("keep_own", [False, True])
def test_every_system_is_scored_as_beir_scores_it(searched, own_questions, keep_own):
    """A question that is a chunk found itself first by every system, and nDCG was another than BEIR's."""
    opened = open_run(searched)
    ids = [id_ for _, id_ in opened.corpus().ids()]
    queries, expected = list(own_questions.queries.values()), {}
    for _, ranker in evaluated_rankers(opened.corpus(), without=["bm25"]):
        positions = ranker.rank(queries, len(ids)).positions
        expected[ranker.name] = as_beir_has_it(positions, ids, own_questions, ignore_identical_ids=not keep_own)
    found = evaluate(opened, own_questions, keep_own=keep_own, tuning=True)
    ndcg = {each.name: each.measures["nDCG@10"] for each in found.systems if each.kind != "lexical"}
    assert ndcg == {name: pytest.approx(np.mean(list(each.values()))) for name, each in expected.items()}
    held_out = split(list(own_questions.queries))[1]
    alone = np.mean([expected[found.tuned.single][query] for query in held_out])
    assert found.tuned.ndcg - found.tuned.gain.mean == pytest.approx(alone), "the tuning counts other hits"
    said = "\n".join(found.notices)
    assert (OWN in said) != keep_own and BY_CHANCE not in said
    assert ("3 of these questions have their own chunk judged relevant, which counts as missed" in said) != keep_own


def test_words_do_not_find_the_question_itself(searched, own_questions):
    """BM25 finds a text by its own words before any other: the floor would stand above every model."""
    found = {keep_own: evaluate(open_run(searched), own_questions, keep_own=keep_own) for keep_own in (False, True)}
    first = {
        keep_own: next(each for each in every.systems if each.kind == "lexical").measures["RR@10"]
        for keep_own, every in found.items()
    }
    unjudged = Qrels(
        queries=own_questions.queries,
        judgements={query: {query: 1} for query in own_questions.queries if query != "asked"},
    )
    missed = evaluate(open_run(searched), unjudged)
    assert all(each.measures["R@100"] == 0 for each in missed.systems), "a question found its own chunk"
    assert first[False] != first[True]


def test_as_many_hits_count_as_before():
    """A hundred hits less the question's own were 99, and recall at 100 was lower than BEIR's."""
    ids = [f"c{number}" for number in range(150)]
    qrels = Qrels(queries={"c3": "x", "q": "y"}, judgements={"c3": {"c1": 1}, "q": {"c1": 1}})
    counted = HitFilter.of(qrels, ids, keep_own=False)
    assert counted.depth == 101
    rows = [np.arange(101), np.arange(101)]
    own, other = counted.rankings(rows, ["c3", "q"])
    assert own == [f"c{number}" for number in range(101) if number != 3] and len(own) == 100
    assert other == [f"c{number}" for number in range(100)]
    assert HitFilter.of(qrels, ids, keep_own=True).depth == 100
    assert HitFilter.of(qrels, ids[:20], keep_own=False).depth == 20


def test_headings_have_ids_of_their_own():
    """A chunk that is called `probe-0` would be no hit of the first heading."""
    qrels = Qrels(queries={"probe-0": "x"}, judgements={"probe-0": {"probe-0": 1}}, weak=True)
    assert HitFilter.of(qrels, ["probe-0"], keep_own=False).own_rows == {}


def test_ids_that_are_the_same_by_chance_are_said_to_be(searched, tmp_path):
    """Questions and chunks are numbered apart: chunk 1 is no answer to question 1, and nobody is told."""
    ids = [id_ for _, id_ in open_run(searched).corpus().ids()]
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": ids[0], "text": "what holds a device?"}) + "\n")
    (tmp_path / "qrels.tsv").write_text(f"{ids[0]}\t{ids[1]}\t1\n")
    command = ["eval", str(searched), "--queries", str(tmp_path / "queries.jsonl"), "--no-bm25"]
    command += ["--qrels", str(tmp_path / "qrels.tsv")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.stderr
    assert "note: 1 question with the same id as a chunk: " in shown.stdout and BY_CHANCE in shown.stdout
    assert "same id" not in CliRunner().invoke(app, [*command, "--keep-own"]).stdout
