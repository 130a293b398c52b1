"""Hits at every width: whole ids, long words, and texts of a million lines."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from soloist.reports.hits import print_hits, text_lines
from soloist.reports.table import open_console
from soloist.types import Hit

ID = "https://docs.example.com/en/api/migrating-from-text-completions-to-messages#streaming-format"


def hit(**fields) -> Hit:
    return Hit(**{"rank": 1, "score": 0.5, "collection": "docs", "id": ID, "text": "a lease", **fields})


def printed(console_of, *hits) -> str:
    stream = io.StringIO()
    print_hits(hits, console_of(stream))
    return stream.getvalue()


def at(width):
    return lambda stream: Console(file=stream, width=width, color_system=None, highlight=False)


@pytest.mark.parametrize("console_of", [at(40), at(5), open_console], ids=["40", "5", "a pipe"])
def test_an_id_stays_whole(console_of):
    """It was broken in two where the terminal, or the 100 columns of a pipe, ended, and could not be copied."""
    found = printed(console_of, hit(), hit(rank=2, id=ID * 3))
    assert f"  1  0.5000  docs  {ID}\n" in found and f"  2  0.5000  docs  {ID * 3}\n" in found


def test_a_question_without_a_hit_gets_a_sentence():
    """A run of words alone answered nothing at all to a question whose words no chunk has."""
    assert printed(at(40)) == "no chunk has a word of the question\n"


def test_long_words_are_broken_and_not_lost():
    """A base64 text, and metadata of one word: both vanished, or went beyond the edge."""
    found = printed(at(40), hit(text="x" * 100, metadata={"source": "y" * 79, "other": "z" * 79}))
    lines = found.splitlines()
    assert lines[1] == f"source: {'y' * 68} ..."
    assert [line.strip() for line in lines[2:]] == ["x" * 36, "x" * 36, "x" * 28]


def test_metadata_end_at_a_word():
    """Half a number looks like a number."""
    found = printed(
        at(40), hit(metadata={"title": "one two three four five six", "pages": 12, "year": 123_456_789_012})
    )
    assert found.splitlines()[1] == "title: one two three four five six  pages: 12  year: 123456789012"
    found = printed(at(20), hit(metadata={"title": "one two three four five six", "pages": 123_456_789}))
    assert found.splitlines()[1] == "title: one two three four five six ..."


def test_metadata_say_what_is_not_said_yet():
    """The line was full of the id, the file's path in five forms, and empty lists, and ended before the heading."""
    known = {
        "chunk_id": ID, "file": "docs/a b.md", "filename": "a b.md", "file_extension": ".md", "parent": None,
        "children": [], "index": 5, "language": "md", "heading_text": "Write md", "section_path": ["Write md"],
        "state": "5", "source": "docs/a b.md", "tags": ["docs"], "draft": False, "kind": " ", "whole": "x" * 81,
    }  # fmt: skip
    found = printed(at(400), hit(metadata=known)).splitlines()[1]
    assert found == (
        "heading_text: Write md  file: docs/a b.md  index: 5  language: md  state: 5  tags: docs  draft: false"
    )
    path = ["Guides", "Leases"]
    found = printed(at(400), hit(metadata={"n": "a", "title": "Leases", "section_path": path})).splitlines()[1]
    assert found == 'title: Leases  section_path: ["Guides", "Leases"]  n: a'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n\n", []),
        ("one", ["one"]),
        ("\n  if a:\n\tb\r\n", ["if a:", "  b"]),
        ("one\ntwo\n\nthree\nfour\nfive", ["one", "two", "", "three", "... 2 more lines"]),
        ("one\ntwo\nthree\nfour\nfive", ["one", "two", "three", "four", "... 1 more line"]),
        ("    if a:\n  " + "word " * 9, ["  if a:", "word " * 7 + "word", "word"]),
        ("a \x1b[31mred\x00 word", ["a \\x1b[31mred\\x00 word"]),
    ],
)
def test_texts_as_they_stand(text, lines):
    """A text would move the cursor, or lose its indent."""
    assert text_lines(text, 40) == lines


@pytest.mark.parametrize("text", ["a line of it\n" * 10**6, "word " * 10**6, "x" * 10**7, " " * 10**7 + "x"])
def test_of_a_text_of_a_million_lines_the_beginning_is_looked_at(text):
    """A hit in a log of a million lines took seconds, for four of them."""
    began = time.thread_time()
    found = text_lines(text, 96)
    assert time.thread_time() - began < 0.2
    assert len(found) <= 5 and found[-1].startswith("... about ") and found[-1].endswith(" more characters")


def test_a_hit_says_its_file_and_not_twice():
    """Nobody could tell where a hit came from; where the metadata say it too, it is there once."""
    found = printed(at(80), hit(source_file="docs/a b.md.jsonl", source_index=12, metadata={"page": 3}))
    assert found.splitlines()[1] == "docs/a b.md.jsonl (chunk 12)  page: 3"
    found = printed(at(80), hit(source_file="docs/a b.json", source_index=0, metadata={"file": "a b.json"}))
    assert found.splitlines()[1] == "docs/a b.json (chunk 0)"
    found = printed(at(80), hit(source_file="a\x1b[31m.json", source_index=0))
    assert "\x1b" not in found
