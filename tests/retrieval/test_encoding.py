"""A run's models for questions: what they take, what they give, and that threads may share them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from soloist.errors import ConfigError
from soloist.exports import export_run
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels

JUDGED = Qrels(queries={"q": "x"}, judgements={"q": {"a": 1}})
ASKED = [f"lease {number} of a device" for number in range(6)]


def test_threads_share_a_run(searched, passes_through):
    """Each thread of a server loaded the model for itself, and could get the vectors of another thread's question."""
    alone = open_run(searched)
    expected = [alone.encode("bert", [text]) for text in ASKED]
    once = len(passes_through)
    passes_through.clear()
    shared, together = open_run(searched), threading.Barrier(len(ASKED))

    def encoded(text):
        together.wait()
        return shared.encode("bert", [text])

    with ThreadPoolExecutor(len(ASKED)) as pool:
        found = list(pool.map(encoded, ASKED))
    assert all(np.array_equal(*each) for each in zip(found, expected, strict=True))
    assert len(passes_through) == once, "the model was loaded more than once"


TWO = ["which device has the lease", "tokens of a batch"]


@pytest.mark.parametrize(
    "given",
    [tuple(TWO), (text for text in TWO), np.array(TWO), np.array(TWO, dtype=object), dict.fromkeys(TWO).keys()],
    ids=["tuple", "generator", "array", "array of objects", "keys"],
)
def test_questions_in_whatever_has_an_order(searched, given):
    """A generator was used up by the first of three models, and an array's texts were of a type of their own."""
    run = open_run(searched)
    assert np.array_equal(run.encode_fused(given), run.encode_fused(TWO))


def test_a_generator_of_questions_and_collections_is_asked_once(searched):
    """It was empty when it was read again: ten chunks of everywhere, or a question without hits."""
    run = open_run(searched)
    found = run.search_all((text for text in TWO), 3, by="rrf", collections=(name for name in ["beta"]))
    assert found == run.search_all(TWO, 3, by="rrf", collections=["beta"])


ONE = "is the text 'one text': give a list of texts, such as ['one text']"


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda run: run.encode("wordllama", "one text"), f"queries {ONE}"),
        (lambda run: run.encode_fused("one text"), f"queries {ONE}"),
        (lambda run: run.search_all("one text"), f"queries {ONE}"),
        (lambda run: run.rank("one text", 3, by=By(model="wordllama")), f"queries {ONE}"),
        (lambda run: run.encode_fused("long " * 50), f"queries is the text {'long ' * 8!r}: give"),
        (lambda run: run.encode("wordllama", ["x", 3]), "queries has 3, of the type int: give a list of texts"),
        (lambda run: run.encode("wordllama", b"x"), "queries is b'x', of the type bytes: give a list of texts"),
        (lambda run: run.encode("wordllama", {"x"}), "queries is {'x'}, of the type set: give"),
        (lambda run: run.encode("wordllama", {"x": "y"}), "of the type dict: give a list of texts"),
        (lambda run: run.encode("wordllama", np.array("x")), "of the type ndarray: give a list of texts"),
        (lambda run: run.encode("wordllama", np.array([["x"]])), "queries has array(['x']"),
        (lambda run: run.encode("wordllama", None), "queries is None, of the type NoneType: give"),
        (lambda run: run.encode("wordllama", ["x", " "]), "a query is empty"),
        (lambda run: run.encode("wordllama", ["\udcff"]), "has a lone surrogate at character 0"),
        (lambda run: run.encode("bge-m3", ["x"]), "the run has no model bge-m3"),
        (lambda run: run.corpus("beta"), "collections is the text 'beta': give a list of names, such as ['beta']"),
        (lambda run: run.search("x", collections=["alpha", 3]), "collections has 3, of the type int: give a list of"),
        (lambda run: evaluate(run, JUDGED, collections="beta"), "collections is the text 'beta': give a list of"),
        (lambda run: export_run("run", "jsonl", collections="beta"), "collections is the text 'beta': give a list"),
        (lambda run: export_run("run", "jsonl", vectors=["fused"]), "vectors is ['fused']: give one name, such as"),
    ],
)
def test_what_is_no_list_of_texts(searched, ask, sentence):
    """Each letter of the question was embedded, or asked, or a letter was looked for among the collections."""
    with pytest.raises(ConfigError) as caught:
        ask(open_run(searched))
    assert sentence in str(caught.value)


def test_no_questions_have_no_vectors(searched):
    """A loop over batches would need a branch of its own for the last one."""
    run = open_run(searched)
    assert run.encode("bert", []).shape == (0, run.record.models["bert"].dim)
    assert run.encode_fused([]).shape == (0, run.record.fusion_plan.dim)
