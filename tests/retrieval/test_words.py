"""A run with words: what ranks it, what a search says of its hits, and what an evaluation says of the words."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import bm25s
import numpy as np
import pytest
from support.invoking import invoke
from support.term_rows import term_rows

from soloist.config import FusionConfig
from soloist.errors import ConfigError, OutputError
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels
from soloist.stores import RunFolder
from soloist.stores.index_files import write_index_file
from soloist.stores.verification import verify_run
from soloist.words import analyser_of

QUESTIONS = ["the lease of a device", "fusion of vectors in a batch", "tokens and chunks"]


@pytest.fixture(scope="module")
def worded(make):
    """A run of a table of vectors, and words."""
    return make("worded", models=("wordllama", "bm25"), fusion=FusionConfig())


def bm25_scores(opened, question):
    """What bm25s gives all chunks for a question."""
    analyser = analyser_of("english")
    index = bm25s.BM25()
    index.index([analyser.terms(chunk.text) for chunk in opened.chunks()], show_progress=False)
    return index.get_scores([term for term in analyser.terms(question) if term in index.vocab_dict])


def standardised(scores):
    """Multiples of the standard deviation."""
    return (scores - scores.mean()) / scores.std()


def test_words_alone_rank_as_bm25s(worded):
    """The run's words would be others than those that everybody compares with."""
    opened = open_run(worded)
    ranked = opened.rank(QUESTIONS, 10, by=By(model="bm25"))
    for question, scores in zip(QUESTIONS, ranked.scores, strict=True):
        assert scores == pytest.approx(np.sort(bm25_scores(opened, question))[::-1][:10], rel=1e-5)


def test_the_words_of_a_question(worded):
    """A store with the run's words could not be asked: nothing public cut a question as the chunks were cut."""
    opened = open_run(worded)
    assert opened.encode_words("bm25", ["leases, a lease, the devices", "the"]) == [{"leas": 2, "devic": 1}, {}]
    assert opened.encode_words("bm25", []) == []
    with pytest.raises(ConfigError, match=r"^the run has no words of wordllama: choose one of bm25$"):
        opened.encode_words("wordllama", ["lease"])
    with pytest.raises(ConfigError, match=r"^the run has no sparse vectors of bm25: the run has none$"):
        opened.encode_sparse("bm25", ["lease"])
    with pytest.raises(ConfigError, match="queries is the text 'lease': give a list of texts"):
        opened.encode_words("bm25", "lease")


def test_a_search_ranks_by_all_members(worded):
    """The words of a run would have no part in its answers, or the weights be those of nobody."""
    opened = open_run(worded)
    assert opened.record.hybrid.weights == pytest.approx({"wordllama": 0.7, "bm25": 0.3})
    hits = opened.search_all(QUESTIONS, 5)
    asked = opened.encode("wordllama", QUESTIONS).astype(np.float64)
    vectors = opened.vectors("wordllama").array.astype(np.float64)
    for number, question in enumerate(QUESTIONS):
        wanted = 0.7 * standardised(vectors @ asked[number]) + 0.3 * standardised(bm25_scores(opened, question))
        assert [hit.score for hit in hits[number]] == pytest.approx(np.sort(wanted)[::-1][:5], abs=1e-5)
    assert [[hit.id for hit in some] for some in hits] == [
        [hit.id for hit in opened.search(question, 5, by="hybrid")] for question in QUESTIONS
    ]


def test_reciprocal_ranks_count_words(worded):
    """Half of the run would be left out of --rrf in silence."""
    opened = open_run(worded)
    orders = [opened.rank(QUESTIONS[:1], 95, by=By(model=name)).positions[0].tolist() for name in ("wordllama", "bm25")]
    sums = Counter()
    for weight, order in zip((0.7, 0.3), orders, strict=True):
        for rank, row in enumerate(order, 1):
            sums[row] += weight / (60 + rank)
    ranked = opened.rank(QUESTIONS[:1], 10, by=By(ranker="rrf"))
    assert ranked.scores[0] == pytest.approx(sorted(sums.values(), reverse=True)[:10])


def test_a_hit_says_why(worded):
    """Nobody could tell whether words or vectors found a chunk."""
    opened = open_run(worded)
    for hit in opened.search(QUESTIONS[0], 3, explain=True):
        dense, words = hit.reasons
        assert (dense.member, words.member) == ("wordllama", "bm25") and not dense.words
        alone = opened.search(QUESTIONS[0], 95, by="wordllama")
        assert dense.score == pytest.approx(next(one.score for one in alone if one.id == hit.id), abs=1e-6)
        assert dense.rank == next(one.rank for one in alone if (one.collection, one.id) == (hit.collection, hit.id))
        assert words.score == pytest.approx(sum(words.words.values()))
        assert {word for word in ("lease", "device") if word in hit.text.split()} == set(words.words)
    shown = invoke("search", worded, QUESTIONS[0], "-k", "1", "--explain").stdout
    assert "bm25: " in shown and "lease" in shown and ", rank " in shown
    (line,) = invoke("search", worded, QUESTIONS[0], "-k", "1", "--explain", "--json").stdout.splitlines()
    assert [reason["member"] for reason in json.loads(line)["hits"][0]["reasons"]] == ["wordllama", "bm25"]


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda run: run.search("x", by="bm26"), "the run has no model bm26, and there is no ranker bm26"),
        (lambda run: run.vectors("bm25"), "bm25 has words and no dense vectors: choose one of wordllama"),
        (
            lambda run: run.search("x", by="fused"),
            "the run has no fused vectors: choose one of its models, wordllama, bm25",
        ),
    ],
)
def test_a_wrong_choice_is_a_sentence(worded, ask, sentence):
    """A KeyError would be shown."""
    with pytest.raises(ConfigError) as caught:
        ask(open_run(worded))
    assert sentence in str(caught.value)


def test_a_run_without_words_has_no_hybrid(searched):
    """It would rank by vectors alone under a name that promises words."""
    with pytest.raises(
        ConfigError, match="dense members alone, so there is nothing to weigh for each question: choose"
    ):
        open_run(searched).search("x", by="hybrid")


def test_unknown_words_find_nothing_where_words_alone_have_a_weight(worded):
    """The first chunks of the run were the answer to any question."""
    opened, by = open_run(worded), By(ranker="hybrid", weights={"wordllama": 0, "bm25": 1})
    assert opened.search("zzzzqqq", 3, by=by) == []
    assert len(opened.search("lease", 3, by=by)) == 3


def judged(opened, best):
    """Questions of a few words of each chunk, each with the one chunk that `best` chooses for it."""
    chunks = list(opened.chunks())[:60]
    queries = {f"q{row}": " ".join(chunk.text.split()[:6]) for row, chunk in enumerate(chunks)}
    return Qrels(queries=queries, judgements={query: {best(text): 1} for query, text in queries.items()})


def test_a_set_where_words_do_not_help_is_told_so(worded):
    """A user would pay for words, and get worse answers."""
    opened = open_run(worded)
    qrels = judged(opened, lambda text: opened.search(text, 1, by="wordllama")[0].id)
    found = evaluate(opened, qrels)
    assert found.verdict.system == "hybrid" and found.verdict.answer == "hurts"
    assert "Words do not help here, they hurt: hybrid has -" in found.verdict.text
    assert "Leave bm25 out, or give bm25 a lower weight." in found.verdict.text


def test_random_words_are_told_not_to_help(worded, tmp_path):
    """A lexical member of noise would pass for one that helps."""
    folder = RunFolder.open(shutil.copytree(worded, tmp_path / "run"))
    random = np.random.default_rng(4)
    vocabulary = [
        term for text in ("lease chunk vector shard device memory batch token fusion",) for term in text.split()
    ]
    terms = analyser_of("english").terms(" ".join(vocabulary))
    for collection, rows in (("alpha", 70), ("beta", 25)):
        noise = term_rows([dict.fromkeys(random.choice(terms, 3, replace=False).tolist(), 1) for _ in range(rows)])
        write_index_file(folder.path, collection, "bm25", lambda noise=noise: [noise], content="", fingerprint="")
    opened = open_run(folder.path)
    found = evaluate(opened, judged(opened, lambda text: opened.search(text, 1, by="wordllama")[0].id))
    assert found.best_single == "wordllama" and found.verdict.answer == "hurts"
    assert "Words do not help here" in found.verdict.text


def test_words_that_are_as_good_as_the_ensemble_are_told(worded):
    """The verdict would compare the ensemble with models alone, and never advise words alone."""
    opened = open_run(worded)
    found = evaluate(opened, judged(opened, lambda text: opened.search(text, 1, by="bm25")[0].id), tuning=True)
    assert found.best_single == "bm25"
    assert "bm25 alone is better than the ensemble here." in found.verdict.text
    assert {system.name: system.kind for system in found.systems}.items() >= {
        "bm25": "words", "wordllama": "model", "hybrid": "run",
    }.items()  # fmt: skip
    assert "BM25" not in {system.name for system in found.systems}
    assert found.tuned.ranking == "hybrid" and found.tuned.weights["bm25"] > 0.7
    (words,) = [system.cost for system in found.systems if system.name == "bm25"]
    assert words.bytes_per_chunk > 0


def test_weights_that_are_given_are_not_called_those_of_the_run(worded):
    """The verdict would say of weights that were tried on these questions that the run was made with them."""
    opened = open_run(worded)
    qrels = judged(opened, lambda text: opened.search(text, 1, by="wordllama")[0].id)
    found = evaluate(opened, qrels, weights={"wordllama": 0.01, "bm25": 0.99})
    assert found.verdict.text.startswith("The ensemble with these weights does not help here")


@pytest.fixture(scope="module")
def three(make):
    """A run of two models and words."""
    return make("three", models=("wordllama", "bert", "bm25"), fusion=FusionConfig())


def test_the_same_weights_rank_the_same_when_they_are_named(three):
    """The fused vectors would be left out, so that other chunks were found by the very weights of the run."""
    opened = open_run(three)
    named = By(ranker="hybrid", weights={"wordllama": 0.49, "bert": 0.21, "bm25": 0.3})
    other = By(ranker="hybrid", weights={"wordllama": 0.21, "bert": 0.49, "bm25": 0.3})
    for question in QUESTIONS:
        hits = [(hit.id, pytest.approx(hit.score)) for hit in opened.search(question, 10)]
        assert [(hit.id, hit.score) for hit in opened.search(question, 10, by=named)] == hits
        assert [hit.score for hit in opened.search(question, 10, by=other)] != [score for _, score in hits]


def test_words_beside_several_terms_are_judged_too(three):
    """The verdict said nothing of words where no fused vectors stand for all the rest."""
    opened = open_run(three)
    qrels = judged(opened, lambda text: opened.search(text, 1, by="wordllama")[0].id)
    weights = {"wordllama": 0.4, "bert": 0.1, "bm25": 0.5}  # of other proportions than the fused vectors
    found = evaluate(opened, qrels, weights=weights)
    assert "hybrid without bm25" in {system.name for system in found.systems}
    assert "against hybrid without bm25, which is without bm25" in found.verdict.text
    assert "hybrid without bm25" not in {system.name for system in evaluate(opened, qrels).systems}
    alone = evaluate(opened, qrels, weights={"wordllama": 0.7, "bert": 0, "bm25": 0.3})
    assert "against wordllama, which is without bm25" in alone.verdict.text


def test_verify_names_an_index_that_is_missing_or_of_other_chunks(worded, tmp_path):
    """A search would end in an error that verify does not foresee."""
    folder = RunFolder.open(shutil.copytree(worded, tmp_path / "run"))
    assert not verify_run(folder).problems
    file = "alpha/index/bm25/index.safetensors"
    records = folder.manifest.read()
    folder.manifest.replace([record for name, record in records.items() if name != file])
    problems = verify_run(folder).problems
    assert any(f"{file} is not in the manifest" in problem for problem in problems)
    assert any("alpha, bm25: its index is not in the manifest" in problem for problem in problems)
    (folder.path / file).unlink()
    with pytest.raises(OutputError, match=r"index\.safetensors is missing"):
        open_run(folder.path).search("lease", 1)
