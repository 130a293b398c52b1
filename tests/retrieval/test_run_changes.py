"""A run that is embedded again while it is open: what is read of two states of it is no answer."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest
from sentence_transformers import SentenceTransformer
from torch.nn.modules.module import register_module_forward_hook

from soloist.cli import app
from soloist.errors import OutputError
from soloist.models.token_table import TablePipeline
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels
from soloist.stores import RunFolder

QUESTION = "which shard holds the lease of a device"


def embed_again(path):
    """Put other texts under the ids of a collection, as a run does that is given changed chunks."""
    folder = RunFolder(path)
    summary = folder.read_json("run.json")
    folder.reopen()
    for shard in folder.shards.indices("beta"):
        chunks = folder.shards.read_chunks("beta", shard)
        folder.manifest.append(
            folder.shards.write_chunks(
                "beta", shard, [dataclasses.replace(chunk, text=f"new {chunk.text}") for chunk in chunks]
            )
        )
    folder.finish(summary)


@pytest.fixture
def copy(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "copy")


@pytest.fixture
def while_encoding():
    """`while_encoding(call)`: have it made once, as soon as a model gets a question."""
    calls, hooks = [], []

    def note(module, _, __):
        if calls and isinstance(module, (SentenceTransformer, TablePipeline)):
            calls.pop()()

    hooks.append(register_module_forward_hook(note))
    yield calls.append
    hooks[0].remove()


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.search(QUESTION, 5, collections=["beta"]),
        lambda run: run.search_all([QUESTION], 5, by=By(model="bert"), collections=["beta"]),
        lambda run: run.rank([QUESTION], 5, by=By(ranker="rrf")),
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "while a model reads the question"])
def test_a_search_of_two_runs_is_no_answer(copy, while_encoding, ask, before):
    """New texts stood beside the scores of old vectors, and nobody could tell."""
    opened = open_run(copy)
    if before:
        ask(opened)
        embed_again(copy)
    else:
        while_encoding(lambda: embed_again(copy))
    with pytest.raises(OutputError) as caught:
        ask(opened)
    assert str(caught.value) == (
        f"the run in {copy} was changed meanwhile: open and search it again when it is finished"
    )
    assert open_run(copy).search(QUESTION, 1, collections=["beta"])[0].text.startswith("new ")


def test_an_evaluation_of_two_runs_is_no_verdict(copy, while_encoding):
    """Half of the systems ranked the chunks of before, and the others those of after."""
    opened = open_run(copy)
    (_, chunk), *_ = opened.corpus(["beta"]).ids()
    qrels = Qrels(queries={"q": QUESTION}, judgements={"q": {chunk: 1}})
    while_encoding(lambda: embed_again(copy))
    with pytest.raises(OutputError, match="was changed meanwhile: open and evaluate it again when it is finished"):
        evaluate(opened, qrels, bm25=False)
    assert evaluate(open_run(copy), qrels, bm25=False).questions == 1


def test_a_run_that_goes_away_is_the_reason_of_what_fails_then(copy):
    """A missing file, or chunks that are too few for k: true, and no help."""
    opened = open_run(copy)
    folder = RunFolder(copy)
    folder.reopen()
    shutil.rmtree(copy / "beta")
    with pytest.raises(OutputError, match="was changed meanwhile"):
        opened.search(QUESTION, 5)


def test_questions_are_waited_for_before_the_run_is_opened(copy, monkeypatch, capsys):
    """Whoever pipes questions in as they are thought of would search the run of an hour ago, or be refused."""

    def late():
        embed_again(copy)
        yield f"{QUESTION}\n"

    monkeypatch.setattr(sys, "stdin", late())
    app(["search", str(copy), "-", "--json", "-k", "1", "--collection", "beta"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["hits"][0]["text"].startswith("new ")


def test_a_folder_that_is_no_run_is_told_before_questions_are_waited_for(tmp_path, monkeypatch, capsys):
    """Somebody types twenty questions, and then learns of the slip in the first word."""
    questions = iter([f"{QUESTION}\n"])
    monkeypatch.setattr(sys, "stdin", questions)
    app(["search", str(tmp_path / "none"), "-"], standalone_mode=False)
    assert "does not exist" in capsys.readouterr().err
    assert list(questions), "stdin was read"
