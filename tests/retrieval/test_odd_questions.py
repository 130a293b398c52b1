"""Questions as they come through pipes: NULs, bytes that are no text, carriage returns, two million characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.forks import run_forked
from typer.testing import CliRunner

from soloist.cli import app
from soloist.errors import ConfigError
from soloist.retrieval import By, open_run

QUESTION = "which shard holds the lease of a device"


def command(*arguments):
    return [sys.executable, "-m", "soloist", *map(str, arguments)]


def test_a_file_that_begins_with_a_mark_alone_asks_nothing(searched):
    """An empty file of some editors: the mark was a question, with ten answers."""
    result = CliRunner().invoke(app, ["search", str(searched), "-"], input="\ufeff\n")
    assert result.exit_code == 2 and "stdin has no query: give one a line" in result.stderr


def test_a_nul_is_a_character_like_others(searched):
    """A C string would end there, and half of the question be asked."""
    opened = open_run(searched)
    for question in ("\0", "lease\0device", "\0lease", "lease\0"):
        assert len(opened.search(question, 95)) == 95
    result = CliRunner().invoke(app, ["search", str(searched), "-", "--json", "-k", "1"], input="lease \0 device\n")
    assert json.loads(result.stdout)["query"] == "lease \0 device"


@pytest.mark.parametrize("by", [By(ranker="fused"), By(model="bert"), By(model="wordllama"), By(ranker="rrf")])
def test_half_a_character_is_a_sentence(searched, by):
    """A tokenizer's TypeError, which names a union of types."""
    with pytest.raises(ConfigError) as caught:
        open_run(searched).search("lease \udcff", 3, by=by)
    assert str(caught.value) == (
        r"the query 'lease \udcff' has a lone surrogate at character 6, which is not text: give it in UTF-8"
    )


@pytest.mark.parametrize("stdin", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:surrogateescape"], ids=["as in en_US", "as in C"])
def test_bytes_that_are_no_utf_8_are_one_line_and_a_usage_error(searched, stdin, encoding):
    """`unexpected TypeError` or `UnicodeDecodeError`, where a file of questions is in another encoding."""
    question = b"caf\xe9 lease"
    asked = command("search", searched, "-") if stdin else [*command("search", searched), question]
    done = run_forked(
        asked, input=question + b"\n" if stdin else b"", capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 2
    assert b"has a lone surrogate at character 3" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_questions_from_windows_are_those_from_elsewhere(searched, encoding):
    """Each question would end in a character that tokenizers know, and the first begin with one that nobody sees."""
    done = run_forked(
        command("search", searched, "-", "--json", "-k", 5), capture_output=True, check=True,
        input=f"{QUESTION}\r\n\r\ntokens\r\n".encode(encoding), env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["query"] for line in lines] == [QUESTION, "tokens"]
    expected = open_run(searched).search(QUESTION, 5)
    assert [hit["id"] for hit in lines[0]["hits"]] == [hit.id for hit in expected]


def test_a_question_of_two_million_characters_needs_no_more_than_its_tokens(searched):
    """A mistaken `< file`: all of it would go through the models, and the machine with it.

    Its imports take some 0.7 GiB, so a GiB is left for the question.
    """
    code = (
        "import sys\nfrom support.readings import peak_bytes\nfrom soloist.cli import main\n"
        "try:\n    main()\nfinally:\n    print(peak_bytes(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "search", str(searched), "-", "--json", "-k", "1"],
        input=b"memory " * 285_714 + b"\n", capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert len(json.loads(done.stdout)["hits"]) == 1
    assert int(done.stderr.split()[-1]) < 1.7 * 2**30
