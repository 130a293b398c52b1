"""A finished run is searched with what made it: its models, its prompts, its fusion; and every fault is a sentence."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.collections import write_collection
from support.three_models import MODELS, WEIGHTS

import soloist
from soloist.config import FusionConfig
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.errors import ConfigError, OutputError, SoloistError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.user_catalogue import load_catalogue
from soloist.retrieval import By, open_run
from soloist.stores import RunFolder
from soloist.types import Batch

QUESTION = "which shard holds the lease of a device"
QUESTIONS = [QUESTION, "token memory of a model", "norm weight fusion"]


def best_of(scores, count):
    return np.lexsort((np.arange(len(scores)), -scores))[:count]


def ids_of(hits):
    return [(hit.collection, hit.id) for hit in hits]


@pytest.mark.parametrize("name", [*MODELS, "fused"])
def test_hits_are_the_nearest_rows(searched, every_row, name):
    """Another model's vectors, another shard's rows, or an order that is none."""
    run = open_run(searched)
    ids, vectors = every_row(searched, name)
    asked = run.encode_fused([QUESTION])[0] if name == "fused" else run.encode(name, [QUESTION])[0]
    scores = vectors.astype(np.float64) @ asked.astype(np.float64)
    hits = run.search(QUESTION, 20, by=By(ranker="fused") if name == "fused" else By(model=name))
    assert ids_of(hits) == [ids[row] for row in best_of(scores, 20)]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:20])
    assert [hit.rank for hit in hits] == list(range(1, 21))


def test_a_hit_has_the_text_and_metadata_of_its_chunk(searched):
    """The texts of another shard would stand beside the right ids."""
    folder = RunFolder.open(searched)
    chunks = {
        (name, chunk.id): chunk
        for name in ("alpha", "beta")
        for shard in folder.shards.indices(name)
        for chunk in folder.shards.read_chunks(name, shard)
    }
    for hit in soloist.open_run(searched).search(QUESTION, 95):
        assert (hit.text, dict(hit.metadata)) == (
            chunks[hit.collection, hit.id].text, dict(chunks[hit.collection, hit.id].metadata)
        )  # fmt: skip


def test_a_question_gets_the_prompt_for_questions(searched, base):
    """It would be embedded as a document, which models with two prompts were not trained for."""
    staged = stage(resolve("bert", load_catalogue(base / "models.toml")), "float32")
    encoder = Encoder(staged)
    tokenized = encoder.tokenize([f"question: {QUESTION}"])
    batch = Batch(rows=(0,), padded_length=tokenized.lengths[0])
    expected = unit_rows(forward(staged.module, encoder.collate(tokenized, batch), "cpu")[:1])[0]
    found = open_run(searched).encode("bert", [QUESTION])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain = encoder.tokenize([QUESTION])
    batch = Batch(rows=(0,), padded_length=plain.lengths[0])
    other = unit_rows(forward(staged.module, encoder.collate(plain, batch), "cpu")[:1])[0]
    assert np.abs(found - other).max() > 1e-3, "the prompt changes nothing"


def test_collections_are_chosen(searched, every_row):
    """Chunks of others would be found, or positions be those among all."""
    run = open_run(searched)
    ids, vectors = every_row(searched, "fused", ("beta",))
    scores = vectors.astype(np.float64) @ run.encode_fused([QUESTION])[0].astype(np.float64)
    hits = run.search(QUESTION, 10, collections=["beta"])
    assert ids_of(hits) == [ids[row] for row in best_of(scores, 10)]


def test_several_questions_are_one_pass(searched):
    """One question's hits would come under another."""
    run = open_run(searched)
    together = run.search_all(QUESTIONS, 10)
    assert [ids_of(hits) for hits in together] == [ids_of(run.search(question, 10)) for question in QUESTIONS]


def test_fusions_at_the_time_of_a_question(searched, every_row):
    """Ranks or scores would be those of one model, or the weights be left out."""
    run = open_run(searched)
    scores = {}
    for model in MODELS:
        ids, vectors = every_row(searched, model)
        scores[model] = vectors.astype(np.float64) @ run.encode(model, [QUESTION])[0].astype(np.float64)
    ranks = {model: np.argsort(np.argsort(-found, kind="stable"), kind="stable") + 1 for model, found in scores.items()}
    summed = sum(weight / (60 + ranks[model]) for model, weight in WEIGHTS.items())
    hits = run.search(QUESTION, 15, by=By(ranker="rrf"))
    assert [hit.score for hit in hits] == pytest.approx(np.sort(summed)[::-1][:15])
    standard = sum(
        weight * (scores[model] - scores[model].mean()) / scores[model].std() for model, weight in WEIGHTS.items()
    )
    hits = run.search(QUESTION, 15, by=By(ranker="standardised"))
    assert ids_of(hits) == [ids[row] for row in best_of(standard, 15)]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(standard)[::-1][:15], abs=1e-4)
    alone = run.search(QUESTION, 15, by=By(ranker="standardised", weights={"bert": 1, "qwen2": 0, "wordllama": 0}))
    assert ids_of(alone) == ids_of(run.search(QUESTION, 15, by=By(model="bert")))


@pytest.mark.parametrize("method", ["mean", "projection", "aligned-mean"])
def test_questions_are_fused_as_documents_are(make, every_row, method):
    """Questions would lie in another space than the vectors they are compared with."""
    path = make(f"fused-{method}", fusion=FusionConfig(method=method), models=("qwen2", "wordllama"))
    run = open_run(path)
    ids, vectors = every_row(path, "fused")
    texts = [hit.text for hit in run.search("anything", 5)]  # neither model has prompts
    places = [ids.index(place) for place in ids_of(run.search("anything", 5))]
    np.testing.assert_allclose(run.encode_fused(texts), vectors[places], atol=1e-5)


def test_vectors_in_float16(make, every_row):
    """Half the bytes would be read as if they were numbers of twice their size."""
    path = make("float16", vector_dtype="float16")
    run = open_run(path)
    ids, vectors = every_row(path, "fused")
    scores = vectors.astype(np.float64) @ run.encode_fused([QUESTION])[0].astype(np.float64)
    assert ids_of(run.search(QUESTION, 30)) == [ids[row] for row in best_of(scores, 30)]


def test_files_with_other_pages_are_read_too(searched, tmp_path):
    """Vectors are looked for at their places, which files of another writer do not have."""
    expected = ids_of(open_run(searched).search(QUESTION, 30))
    copy = shutil.copytree(searched, tmp_path / "copy")
    for file in copy.rglob("fused/part-*.parquet"):
        pq.write_table(pq.read_table(file), file, compression="zstd", data_page_size=512, row_group_size=7)
    assert ids_of(open_run(copy).search(QUESTION, 30)) == expected


def test_a_long_question_is_cut_and_said_to_be(searched):
    """Half of it would not be looked for, without a word."""
    run = open_run(searched)
    run.search("memory " * 5_000, 3)
    assert any("of a query" in notice and "were cut" in notice for notice in run.notices)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda run: run.search(""), "a query is empty: give some text"),
        (lambda run: run.search(" \n"), "a query is empty"),
        (lambda run: run.search_all([]), "there is no query"),
        (lambda run: run.search("x", 0), "k is 0, but 95 chunks can be found: give a k from 1 to 95"),
        (lambda run: run.search("x", 96), "k is 96, but 95 chunks"),
        (lambda run: run.search("x", 26, collections=["beta"]), "k is 26, but 25 chunks"),
        (lambda run: run.search("x", by=By(model="bge-m3")), "the run has no model bge-m3: choose one of bert, qwen2"),
        (
            lambda run: run.search("x", collections=["gamma"]),
            "the run has no collection gamma: choose one of alpha, beta",
        ),
        (lambda run: run.search("x", by=By(ranker="rrf", weights={"a": 1})), "weights name a, which is not a model"),
        (
            lambda run: run.search("x", by="bge-m3"),
            "the run has no model bge-m3, and there is no ranker bge-m3: choose one of",
        ),
        (lambda run: run.search("x", collections="beta"), "collections is the text 'beta': give a list of names"),
        (lambda run: run.search(None), "a query is of the type NoneType: give a text"),
        (lambda run: run.search(["x"]), "a query is of the type list: give a text"),
        (lambda run: run.search("x", "3"), "k is '3', but 95 chunks"),
    ],
)
def test_what_cannot_be_asked(searched, ask, sentence):
    """It would be a traceback, or fewer hits than were asked for."""
    with pytest.raises(ConfigError) as caught:
        ask(open_run(searched))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["fused", "rrf", "standardised", "bert", "wordllama"])
def test_what_ranks_can_be_named(searched, name):
    """It was an AttributeError of a text that has no model."""
    run = open_run(searched)
    by = By(model=name) if name in run.models else By(ranker=name)
    assert run.search(QUESTION, 5, by=name) == run.search(QUESTION, 5, by=by)


def test_a_run_without_fused_vectors(make):
    """It would be searched by its first model, as if that had been meant."""
    run = open_run(make("unfused", fusion=FusionConfig(method="none")))
    with pytest.raises(ConfigError, match=r"no fused vectors: choose a model \(bert, qwen2, wordllama\), or rrf or"):
        run.search("x")
    with pytest.raises(ConfigError, match="no fused vectors"):
        run.search("x", by=By(ranker="fused"))
    assert len(run.search("x", 3, by=By(ranker="rrf"))) == 3
    single = open_run(make("single", fusion=FusionConfig(method="none"), models=("wordllama",)))
    assert single.search("memory", 3)


def test_runs_that_cannot_be_opened(searched, tmp_path):
    """Half a run would be searched as a whole one."""
    with pytest.raises(OutputError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    copy = shutil.copytree(searched, tmp_path / "copy")
    (copy / "run.json").unlink()
    with pytest.raises(OutputError, match="the run is not finished"):
        open_run(copy)


def test_a_run_at_work_is_waited_for(searched, tmp_path):
    """The advice was to give its command again, which waits for the very same run."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    (copy / "run.json").unlink()
    folder = RunFolder(copy)
    with folder.locked(), pytest.raises(OutputError, match="not finished: it is running, so wait until it ends"):
        open_run(copy)
    with pytest.raises(OutputError, match="not finished: run its soloist embed command again"):
        open_run(copy)


def test_without_a_number_there_are_ten_hits_or_all(searched, make, base):
    """A newcomer's first run has three chunks, and the first question was answered with an error about k."""
    opened = open_run(searched)
    assert len(opened.search(QUESTION)) == 10
    write_collection(base / "few", "few", 3, seed=3)
    few = open_run(make("few-run", chunks_root=base / "few"))
    assert len(few.search(QUESTION)) == 3
    with pytest.raises(ConfigError, match="k is 10, but 3 chunks"):
        few.search(QUESTION, 10)


def test_a_run_of_one_chunk(make, base):
    """`There are 1 chunks to find: give a k from 1 to 1`, and no deviation to standardise by."""
    write_collection(base / "lone", "lone", 1, seed=3)
    lone = open_run(make("lone-run", chunks_root=base / "lone"))
    for by in (None, By(model="bert"), By(ranker="rrf"), By(ranker="standardised")):
        (hit,) = lone.search(QUESTION, by=by)
        assert (hit.rank, hit.id) == (1, "lone-0000")
    with pytest.raises(ConfigError, match=r"k is 2, but 1 chunk can be found: give a k of 1$"):
        lone.search(QUESTION, 2)


def test_a_run_that_changes_while_it_is_open(searched, tmp_path):
    """Rows would be read at the places of the file before."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    run = open_run(copy)
    run.search(QUESTION, 3)
    part = next(copy.rglob("fused/part-00000.parquet"))
    shutil.copy(part, part.with_suffix(".new"))
    part.with_suffix(".new").replace(part)
    with pytest.raises(OutputError, match="has changed since the run was opened: open the run again"):
        run.search(QUESTION, 3)


def test_another_model_of_the_same_name(searched, base, tmp_path, tiny_models):
    """Questions would be embedded by weights that never saw the documents."""
    folder = shutil.copytree(tiny_models["bert"], tmp_path / "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "another": 1}))
    (tmp_path / "models.toml").write_text(f'[models."bert"]\nsource = "{folder}"\n')
    with pytest.raises(ConfigError, match="bert on this machine is not the model that made the run"):
        open_run(searched, catalogue=tmp_path / "models.toml").search("x", by=By(model="bert"))


def test_a_catalogue_that_is_gone(searched, tmp_path):
    """Another model of that name would be taken, or a traceback name a file of another machine."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    catalogue = summary["config"]["catalogue"]
    summary["config"]["catalogue"] = str(tmp_path / "gone.toml")
    (copy / "run.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError) as caught:
        open_run(copy).search("x", by=By(model="bert"))
    assert f"the run's catalogue {tmp_path / 'gone.toml'} is not there: give --catalogue" in str(caught.value)
    assert open_run(copy, catalogue=catalogue).search(QUESTION, 3, by=By(model="bert"))
    with pytest.raises(ConfigError, match=r"the catalogue .*none\.toml cannot be read"):
        open_run(copy, catalogue=tmp_path / "none.toml").search("x", by=By(model="bert"))


def test_a_damaged_file(searched, tmp_path):
    """A traceback of Arrow's."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    part = next(copy.rglob("fused/part-00000.parquet"))
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(SoloistError):
        open_run(copy).search("x")


@pytest.fixture
def opened_files(searched):
    """`opened_files()`: the files of chunks that were opened since the last call, by Linux's own account."""
    library = ctypes.CDLL(None, use_errno=True)
    watch = library.inotify_init1(os.O_NONBLOCK)
    for folder in sorted(searched.glob("*/chunks")):
        assert library.inotify_add_watch(watch, os.fsencode(folder), 0x20) >= 0  # IN_OPEN

    def names():
        with contextlib.suppress(BlockingIOError):
            return re.findall(rb"part-\d+\.parquet", os.read(watch, 1 << 20))
        return []

    yield names
    os.close(watch)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_many_questions_read_each_shard_once(searched, opened_files):
    """A thousand questions read every shard a thousand times, for ten texts each."""
    opened = open_run(searched)
    asked = [f"{word} {number}" for number in range(30) for word in ("lease", "token", "norm")]
    opened.rank(asked[:1], 1, by=By(model="wordllama"))
    opened_files()
    together = opened.search_all(asked, 10, by=By(model="wordllama"))
    assert 1 <= len(opened_files()) <= 2 * 4  # shards; Arrow may open a file twice
    for question, hits in zip(asked[::20], together[::20], strict=True):
        assert opened.search(question, 10, by=By(model="wordllama")) == hits
