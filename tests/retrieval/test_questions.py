"""The query side of a run: a text's bits follow from the text alone, and the roles are those of the run."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.collections import write_collection
from support.routed_models import make_two_encoders
from support.tiny_models import SENTENCES, make_bert, make_mpnet
from support.tiny_sparse import make_splade

import soloist
from soloist.config import FusionConfig, RunConfig
from soloist.encoding.core_threads import CoreThreads, core_threads
from soloist.engine.run import run
from soloist.errors import ConfigError, EncodingError
from soloist.retrieval.questions import Questions
from soloist.stores import RunFolder

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
# Of one token and of hundreds, so that there are several batches; each text is there in several lengths.
TEXTS = ["a", "the", "lease?", *SENTENCES, *(" ".join(WORDS[: 7 * size]) for size in range(2, 20, 3))]
TEXTS += [" ".join(random.Random(size).choices(WORDS, k=size)) for size in range(1, 40, 4)]


def _run(root: Path, dtype: str, **more: Any) -> Path:
    write_collection(root / "chunks", "alpha", 40, longest=40, seed=3)
    models = [
        make_bert(root / "bert"),  # packed
        make_mpnet(root / "mpnet"),  # padded
        make_two_encoders(root / "routes", root / "bert", query_dim=32),  # a table and a layer for questions
        make_splade(root / "splade", num_hidden_layers=1),
    ]
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", models=(*map(str, models), "wordllama", "bm25"),
        accelerator="cpu", dtype=dtype, matmul="torch", shard_chunks=32, lock_dir=root / "locks", **more,
    )  # fmt: skip
    run(config)
    return root / "run"


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with members of every kind. Its fusion has matrices that were fitted."""
    root = tmp_path_factory.mktemp(f"questions-{request.param}")
    return _run(root, request.param, fusion=FusionConfig(method="projection", dim=24))


@pytest.fixture(scope="module")
def questions(path: Path) -> Iterator[Questions]:
    """Its query side. Texts are spread over three threads, whatever the tests were started with."""
    core_threads.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert core_threads().count == 3
    torch.set_num_threads(before)
    yield soloist.open_questions(path)
    core_threads.cache_clear()


def _rows(questions: Questions, name: str, texts: list[str], role: str) -> list[Any]:
    if questions.kinds[name] == "lexical":
        return questions.encode_words(texts, name)
    if questions.kinds[name] == "sparse":
        return questions.encode_sparse(texts, name, role)
    return [row.tobytes() for row in questions.encode(texts, name, role)]


@pytest.fixture(scope="module")
def alone(questions: Questions) -> dict[tuple[str, str], dict[str, Any]]:
    """The row of each text when it is asked alone, by name and role."""
    pairs = [(name, role) for name in questions.names for role in ("query", "document")]
    return {pair: {text: _rows(questions, pair[0], [text], pair[1])[0] for text in TEXTS} for pair in pairs}


@settings(max_examples=12)
@given(st.randoms(use_true_random=False), st.integers(1, len(TEXTS)))
def test_bits_follow_from_the_text_alone(
    questions: Questions, alone: dict[tuple[str, str], dict[str, Any]], order: random.Random, count: int
) -> None:
    """With two threads in a product its size said where it was cut: 12 of 60 vectors had other bits beside others. So
    had rows of float16 that shared a padded batch, and the product with a fusion's matrices.
    """
    texts = order.choices(TEXTS, k=count)
    for (name, role), expected in alone.items():
        assert _rows(questions, name, texts, role) == [expected[text] for text in texts], (name, role)


def test_threads_that_ask_at_once(questions: Questions, alone: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Two calls could mix up their rows, or a module's state of one batch could reach another's."""
    together, pairs = threading.Barrier(6), list(alone)

    def asked(seed: int) -> None:
        order = random.Random(seed)
        together.wait()
        for _ in range(12):
            name, role = order.choice(pairs)
            texts = order.choices(TEXTS, k=order.randrange(1, 9))
            assert _rows(questions, name, texts, role) == [alone[name, role][text] for text in texts], name

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(asked, range(6)))


def test_documents_are_those_of_the_run(path: Path, questions: Questions) -> None:
    """A text that an application adds would lie elsewhere than the run's: another prompt, limit or pipeline."""
    folder = RunFolder.open(path)
    shards = list(folder.shards.indices("alpha"))
    chunks = [chunk.text for shard in shards for chunk in folder.shards.read_chunks("alpha", shard)]
    for name in [name for name, kind in questions.kinds.items() if kind == "dense"]:
        read = folder.shards.read_fused if name == "fused" else lambda c, s, m=name: folder.shards.read_vectors(c, m, s)
        rows = np.concatenate([read("alpha", shard)[1] for shard in shards]).astype(np.float64)
        found = questions.encode(chunks, name, "document").astype(np.float64)
        assert (found * rows).sum(axis=1).min() >= 1 - 1e-6, name
        if name in ("bert", "wordllama"):
            assert np.array_equal(found, rows), name


def test_what_is_asked_for(path: Path, questions: Questions) -> None:
    """A name, a kind or a dim that an application reads could be that of another member."""
    record = soloist.open_run(path).record
    assert questions.names == ("bert", "mpnet", "routes", "wordllama", "splade", "bm25", "fused")
    assert {questions.kinds[name] for name in ("bert", "fused")} == {"dense"}
    assert (questions.kinds["splade"], questions.kinds["bm25"]) == ("sparse", "lexical")
    assert dict(questions.dims) == {"bert": 32, "mpnet": 48, "routes": 32, "wordllama": 256, "fused": 24}
    assert questions.fingerprints["bert"] == record.models["bert"].fingerprint
    assert len(set(questions.fingerprints.values())) == len(questions.names)
    assert questions.encode([]).shape == (0, 24)
    assert not questions.encode(["x y"]).flags.writeable


def test_a_run_is_asked_through_its_questions(path: Path, questions: Questions) -> None:
    """A run and its application would rank differently where the two computed by different code."""
    opened = soloist.open_run(path)
    assert np.array_equal(opened.encode("bert", TEXTS), questions.encode(TEXTS, "bert"))
    assert np.array_equal(opened.encode_fused(TEXTS), questions.encode(TEXTS))
    assert opened.encode_sparse("splade", TEXTS) == questions.encode_sparse(TEXTS, "splade")
    assert opened.encode_words("bm25", TEXTS) == questions.encode_words(TEXTS, "bm25")


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda q: q.encode(["x"], "bge-m3"), "the run has no model bge-m3: choose one of bert, mpnet"),
        (lambda q: q.encode(["x"], "bm25"), "bm25 has words and no dense vectors: choose one of"),
        (lambda q: q.encode(["x"], ["bert"]), "name is ['bert'], of the type list: give the name of a member"),
        (lambda q: q.encode_words(["x"], None), "name is None, of the type NoneType: give the name of a member"),
        (lambda q: q.encode(["x"], role="passage"), "role is 'passage': give query or document"),
        (lambda q: q.encode(["x", " "], "bert"), "a query is empty: give some text"),
        (lambda q: q.encode([" "], "bert", "document"), "a document is empty: give some text"),
        (lambda q: q.encode("x", role="document"), "documents is the text 'x': give a list"),
        (lambda q: q.encode_sparse(["x"], "bert"), "the run has no sparse vectors of bert: choose one of splade"),
        (lambda q: q.encode_sparse(["x"], "splade", "x"), "role is 'x': give query or document"),
        (lambda q: q.encode_words(["x"], "splade"), "the run has no words of splade: choose one of bm25"),
    ],
)
def test_what_cannot_be_asked(questions: Questions, ask: Any, sentence: str) -> None:
    """A wrong name or role would be a vector of something else, or a KeyError."""
    with pytest.raises(ConfigError) as caught:
        ask(questions)
    assert sentence in str(caught.value)


def _threads(count: int) -> CoreThreads:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return CoreThreads()
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_was_ended_is_replaced() -> None:
    """Every later question would wait for the dead thread, and be an error."""
    threads = CoreThreads()

    def end(_: int) -> None:
        raise SystemExit

    with pytest.raises(EncodingError, match="was ended during its work"):
        threads.all([end])
    assert threads.all([lambda number: number] * 3)


def test_a_call_ends_with_all_that_it_began() -> None:
    """After an error or Ctrl-C a process would end while its threads still multiply."""
    threads, at_work, ended = _threads(2), threading.Event(), list[int]()

    def fail(_: int) -> None:
        at_work.wait()
        raise ValueError("no")

    def work(_: int) -> None:
        at_work.set()
        time.sleep(0.1)
        ended.append(1)

    with pytest.raises(ValueError, match="no"):
        threads.all([fail, *[work] * 100])
    assert len(ended) == 3, "more than two for each thread were begun, or something is still at work"


def test_who_asks_little_does_not_wait_for_who_asks_much() -> None:
    """Ten thousand documents of one user would hold up the questions of all others."""
    threads, done = _threads(2), list[str]()
    first = threading.Event()

    def one_of_many(_: int) -> None:
        first.set()
        time.sleep(0.002)
        done.append("many")

    many = threading.Thread(target=lambda: threads.all([one_of_many] * 300))
    many.start()
    first.wait()
    threads.all([lambda _: done.append("few")])
    many.join()
    assert done.index("few") < 150


def test_threads_leave_others_their_number() -> None:
    """A number that is set in torch is that of every thread that begins later, an application's too."""
    before, found = torch.get_num_threads(), list[int]()
    torch.set_num_threads(4)
    try:
        threads = CoreThreads()
        assert threads.all([lambda _: torch.get_num_threads()] * 4) == [1] * 4
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert found == [4]
    finally:
        torch.set_num_threads(before)
