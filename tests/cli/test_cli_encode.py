"""The command `encode`: a vector as text and as JSON, of every kind of member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collections import write_collection
from support.invoking import invoke
from support.tiny_sparse import make_splade

import soloist
from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.exports import export_run

TEXT = "which device has the lease"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with members of every kind, and its questions beside it."""
    root = tmp_path_factory.mktemp("encode")
    write_collection(root / "chunks", "alpha", 20, longest=20, seed=3)
    models = ("wordllama", str(make_splade(root / "splade", num_hidden_layers=1)), "bm25")
    run(
        RunConfig(
            chunks_root=root / "chunks", out=root / "run", models=models, accelerator="cpu", dtype="float32",
            fusion=soloist.FusionConfig(dim=64), lock_dir=root / "locks",
        )
    )  # fmt: skip
    export_run(root / "run", "questions", out=root / "questions")
    return root


@pytest.mark.parametrize("folder", ["run", "questions"])
@pytest.mark.parametrize("options", [[], ["--fused"], ["--model", "wordllama"], ["--role", "document"]])
def test_a_dense_vector_as_text_and_as_json(made: Path, folder: str, options: list[str]) -> None:
    """Somebody's shell script would get other numbers than its application, or too few digits of them."""
    name = "wordllama" if "--model" in options else None
    expected = soloist.open_questions(made / "run").encode([TEXT], name, "document" if "--role" in options else "query")
    shown = invoke("encode", made / folder, TEXT, *options)
    assert shown.exit_code == 0, shown.stderr
    assert np.array_equal(np.array(shown.stdout.split(), np.float32), expected[0])
    (line,) = map(json.loads, invoke("encode", made / folder, TEXT, "--json", *options).stdout.splitlines())
    assert line["text"] == TEXT and line.keys() == {"text", "vector"}
    assert np.array_equal(np.array(line["vector"], np.float32), expected[0])


def test_a_sparse_vector_and_words(made: Path) -> None:
    """They would be refused, or printed as a dense vector of 30,000 numbers."""
    questions = soloist.open_questions(made / "run")
    (sparse,), (words,) = questions.encode_sparse([TEXT], "splade"), questions.encode_words([TEXT], "bm25")
    assert sparse and words
    shown = invoke("encode", made / "run", TEXT, "--model", "splade").stdout.split()
    assert {int(pair.split(":")[0]): np.float32(pair.split(":")[1]) for pair in shown} == sparse
    line = json.loads(invoke("encode", made / "run", TEXT, "--model", "splade", "--json").stdout)
    assert dict(zip(line["indices"], map(np.float32, line["values"]), strict=True)) == sparse
    shown = invoke("encode", made / "run", TEXT, "--model", "bm25").stdout.split()
    assert shown == [f"{word}:{count}" for word, count in words.items()]
    assert json.loads(invoke("encode", made / "run", TEXT, "--model", "bm25", "--json").stdout)["words"] == words
    assert json.loads(invoke("encode", made / "run", "the", "--model", "bm25", "--json").stdout)["words"] == {}


def test_texts_of_stdin(made: Path) -> None:
    """A load of the models for each text, or lines in another order."""
    texts = [TEXT, "tokens of a batch", "x" * 10]
    result = invoke("encode", made / "questions", "-", "--json", input="\n\n".join(texts) + "\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["text"] for line in lines] == texts
    expected = soloist.open_questions(made / "run").encode(texts)
    assert np.array_equal(np.array([line["vector"] for line in lines], np.float32), expected)


def test_a_text_without_a_vector_ends_after_those_before_it(made: Path) -> None:
    """One odd line of a thousand would cost the answers to the others that came with it."""
    result = invoke(
        "encode", made / "run", "-", "--model", "wordllama", input=f"{TEXT}\n".encode() + b"\xff\n" + TEXT.encode()
    )
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 1
    assert "the query '\\udcff' has a lone surrogate at character 0" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["x", "--fused", "--model", "wordllama"], "--fused and --model wordllama are two vectors: give one of them"),
        (["x", "--model", "bert"], "the run has no model bert: choose one of wordllama"),
        (["x", "--role", "passage"], "role is 'passage': give query or document"),
        ([" "], "a query is empty: give some text"),
        (["-"], "stdin has no text: give one a line, or give it as QUESTION"),
    ],
)
def test_what_cannot_be_asked(made: Path, options: list[Any], said: str) -> None:
    """A wrong name or role would be a vector of something else."""
    result = invoke("encode", made / "run", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_folder_that_is_neither(made: Path) -> None:
    """A path that is mistyped would be a traceback."""
    result = invoke("encode", made / "chunks", "x")
    assert result.exit_code == 2
    assert "chunks has neither questions.json nor the files of a run: give the folder of" in result.stderr
