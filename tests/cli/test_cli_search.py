"""The command `search`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from support.ctrl_c import interrupted
from support.forks import Forked
from support.invoking import invoke

from soloist.cli.stdin_lines import incoming_lines
from soloist.retrieval import By, open_run

QUESTION = "which device has the lease"
STOPPED = "soloist: stopped by Ctrl-C; nothing was changed, and the same command starts again\n"


def test_hits_on_the_terminal(folder):
    """Somebody looks for a chunk: its place, its score, its words."""
    result = invoke("search", folder / "run", QUESTION, "-k", 3)
    assert result.exit_code == 0, result.stderr
    hits = open_run(folder / "run").search(QUESTION, 3)
    lines = result.stdout.splitlines()
    for hit in hits:
        assert f"{hit.rank:>3}  {hit.score:.4f}  alpha  {hit.id}" in lines
        assert any(line.strip() and line.strip() in " ".join(hit.text.split()) for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_hits_as_json_for_each_line_of_stdin(folder):
    """A script asks a thousand questions: one load of the models, a line for each."""
    asked = [QUESTION, "tokens of a batch"]
    result = invoke("search", folder / "run", "-", "--json", "-k", 4, input="\n".join(asked) + "\n\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == asked
    expected = open_run(folder / "run").search_all(asked, 4)
    for line, hits in zip(lines, expected, strict=True):
        assert [(hit["id"], hit["text"], hit["rank"]) for hit in line["hits"]] == [(h.id, h.text, h.rank) for h in hits]
        assert line["hits"][0]["metadata"]["title"].startswith("Part ")


@pytest.mark.parametrize(
    ("options", "by"),
    [
        (["--model", "random"], By(model="random")),
        (["--fused"], By(ranker="fused")),
        (["--rrf", "--weights", "wordllama=.9,random=.1"], By(ranker="rrf", weights={"wordllama": 0.9, "random": 0.1})),
        (["--standardised"], By(ranker="standardised")),
    ],
)
def test_what_ranks_is_chosen(folder, options, by):
    """The option would not arrive."""
    result = invoke("search", folder / "run", QUESTION, "--json", *options)
    found = [hit["id"] for hit in json.loads(result.stdout)["hits"]]
    assert found == [hit.id for hit in open_run(folder / "run").search(QUESTION, 10, by=by)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "{run}", ""), "a query is empty"),
        (("search", "{run}", "x", "-k", "61"), "k is 61, but 60 chunks"),
        (("search", "{run}", "x", "--model", "bge-m3"), "the run has no model bge-m3"),
        (("search", "{run}", "x", "--model", ""), "the run has no model"),
        (("search", "{run}", "x", "--collection", "beta"), "the run has no collection beta"),
        (("search", "{run}", "x", "--fused", "--rrf"), "--fused and --rrf are two ways to rank"),
        (("search", "{run}", "x", "--weights", "a=1"), "--weights needs --hybrid, --rrf or --standardised"),
    ],
)
def test_usage_errors(folder, arguments, message):
    """A setting that cannot be honoured is 2 and one sentence."""
    result = invoke(*(argument.format(run=folder / "run") for argument in arguments))
    assert result.exit_code == 2, result.stdout
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_no_run_is_one_sentence(tmp_path):
    """The usual slip: the folder of chunks in the place of the run."""
    for command in (["search", tmp_path, "x"], ["search", tmp_path / "none", "x"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "soloist embed" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("options_of_search", [(), ("--json",)])
def test_a_first_run_of_three_chunks_with_half_a_character(options, chunks_root, tmp_path, options_of_search):
    """Three chunks were too few for the usual ten hits, and a lone surrogate in metadata broke the JSON."""
    file = chunks_root / "notes" / "a_chunks.json"
    chunks = json.loads(file.read_text())
    chunks[0]["metadata"]["title"] = "half \ud800"
    file.write_text(json.dumps(chunks))
    assert invoke(*options).exit_code == 0
    result = invoke("search", tmp_path / "run", QUESTION, *options_of_search)
    assert result.exit_code == 0, result.stderr
    assert all(f"n{number}" in result.stdout for number in range(3)) and "half \\ud800" in result.stdout


DEAF = """
import hashlib
from pathlib import Path

from sentence_transformers.sentence_transformer.modules import Transformer


class Own(Transformer):
    @classmethod
    def load(cls, *args, **kwargs):
        Path({at_work!r}).touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)  # minutes in C, which hears no signal
        return super().load(*args, **kwargs)
"""


def test_ctrl_c_is_heard_while_a_model_is_loaded(folder, tiny_models, tmp_path):
    """A model of gigabytes is downloaded for a question, and the terminal hangs until it is there."""
    own, at_work = shutil.copytree(tiny_models["bert"], tmp_path / "own"), tmp_path / "at-work"
    (own / "own_code.py").write_text(DEAF.format(at_work=str(at_work)))
    modules = json.loads((own / "modules.json").read_text())
    modules[0]["type"] = "own_code.Own"
    (own / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "own.toml").write_text(f'[models."random"]\nsource = "{own}"\ntrust_remote_code = true\n')
    made = shutil.copytree(folder / "run", tmp_path / "run")
    summary = json.loads((made / "run.json").read_text())
    for model in summary["models"]:  # as an earlier version wrote it: another model's files are refused unloaded
        del model["files"]
    (made / "run.json").write_text(json.dumps(summary))
    command = [sys.executable, "-m", "soloist", "search", made, "x", "--catalogue", tmp_path / "own.toml"]
    ended = interrupted([*command, "--model", "random"], at_work.exists)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", STOPPED)


@pytest.fixture
def piped():
    """`write(bytes)` into a pipe, its lines as `incoming_lines` gives them, and `close()`."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as stream:
        ends = iter([writing])

        def close():
            for end in ends:
                os.close(end)

        yield lambda data: os.write(writing, data), incoming_lines(stream), close
        close()


def test_lines_are_given_as_they_come(piped):
    """A reader waited for a block of eight kilobytes, and who asked for the end of the input."""
    write, lines, close = piped
    write(b"one\n\ntwo\r\nthr")
    assert next(lines) == ["one", "", "two"]
    write("ee \u00e9".encode()[:-1])
    write("\u00e9\n".encode()[1:])
    assert next(lines) == ["three \u00e9"]
    write(b"caf\xe9\nlast")
    assert next(lines) == ["caf\udce9"]
    close()
    assert list(lines) == [["last"]]


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "a\r\nb\rc\n\nd", "x" * 3_000_000 + "\ny"])
def test_lines_are_those_that_python_reads(text):
    """A long line would be cut where a read ends, or a carriage return be one more line."""
    stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    assert [line for lines in incoming_lines(stream) for line in lines] == text.splitlines()
    assert [line for lines in incoming_lines(io.StringIO(text)) for line in lines] == [
        line.rstrip("\n\r") for line in io.StringIO(text)
    ]


def test_each_line_is_answered_before_the_next_one_comes_until_ctrl_c(folder):
    """A program that asks and waits for the answer waited for ever, and Ctrl-C ended it with a traceback."""
    command = [sys.executable, "-m", "soloist", "search", str(folder / "run"), "-", "--json", "-k", "2"]
    with Forked(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        for question in (QUESTION, "tokens of a batch"):
            asking.stdin.write(f"{question}\n\n".encode())
            asking.stdin.flush()
            found = json.loads(asking.stdout.readline())
            assert found["query"] == question and len(found["hits"]) == 2
        asking.send_signal(signal.SIGINT)
        assert asking.wait(timeout=300) == 130
        assert asking.stderr.read().decode() == STOPPED and asking.stdout.read() == b""


def test_what_was_asked_before_a_line_that_is_no_text_is_answered(folder):
    """One bad line among a thousand lost the answers of all that came in with it."""
    result = invoke("search", folder / "run", "-", "--json", input=f"{QUESTION}\n".encode() + b"caf\xe9\nlast")
    assert result.exit_code == 2 and "has a lone surrogate at character 3" in result.stderr
    assert [json.loads(line)["query"] for line in result.stdout.splitlines()] == [QUESTION]


def test_a_last_line_without_an_end_counts_and_each_has_its_question_above(folder):
    """`printf question | soloist search RUN -` found nothing to ask."""
    result = invoke("search", folder / "run", "-", "-k", 1, input=f"\n{QUESTION}\n  \ntokens of a batch")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line in (QUESTION, "tokens of a batch")] == [
        QUESTION, "tokens of a batch",
    ]  # fmt: skip
    assert result.stdout.count("  1  ") == 2


def test_a_query_that_was_cut_is_said_once_with_its_answer(folder):
    """The notice came at the end of a day, or with every answer."""
    long = "memory " * 3_000
    result = invoke("search", folder / "run", "-", "-k", 1, input=f"{long}\n{QUESTION}\n{long}\n")
    assert result.stderr.count("tokens of a query") == 1
