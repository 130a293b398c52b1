"""The command `search`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from support.ctrl_c import interrupted
from typer.testing import CliRunner

from soloist.cli import app
from soloist.retrieval import By, open_run

QUESTION = "which device has the lease"


def invoke(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


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
        (["--fused"], By(fusion="fused")),
        (["--rrf", "--weights", "wordllama=.9,random=.1"], By(fusion="rrf", weights={"wordllama": 0.9, "random": 0.1})),
        (["--standardised"], By(fusion="standardised")),
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
        (("search", "{run}", "x", "-k", "61"), "k is 61, but there are 60 chunks"),
        (("search", "{run}", "x", "--model", "bge-m3"), "the run has no model bge-m3"),
        (("search", "{run}", "x", "--collection", "beta"), "the run has no collection beta"),
        (("search", "{run}", "x", "--fused", "--rrf"), "--fused and --rrf are two ways to rank"),
        (("search", "{run}", "x", "--weights", "a=1"), "--weights are for --rrf and --standardised"),
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
        assert result.exit_code == 1
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
    command = [sys.executable, "-m", "soloist", "search", folder / "run", "x", "--catalogue", tmp_path / "own.toml"]
    ended = interrupted([*command, "--model", "random"], at_work.exists)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "soloist: stopped\n")
