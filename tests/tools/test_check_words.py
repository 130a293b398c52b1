"""Sentences are told apart as a reader tells them, and those that are too long are named with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_words import complaints, main
from tools.markdown_text import sentences


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("One two. Three\nfour! Five?", ["One two.", "Three four!", "Five?"]),
        # A name in small letters begins a sentence too.
        ("It ends. soloist goes on.", ["It ends.", "soloist goes on."]),
        ("Use fp16, e.g. on a T4, i.e. not here. Then stop.", ["Use fp16, e.g. on a T4, i.e. not here.", "Then stop."]),
        ("Files, logs, etc. are kept. Files, logs, etc. Then more.",
         ["Files, logs, etc. are kept.", "Files, logs, etc.", "Then more."]),
        ("It takes 0.5 s of v1.2.3 at https://a.b/c.d?e. Good.",
         ["It takes 0.5 s of v1.2.3 at https://a.b/c.d?e.", "Good."]),
        ('He said "stop." (So it did.) **Bold.** End.', ['He said "stop."', "(So it did.)", "Bold.", "End."]),
        ("Wait ... for it. Done.", ["Wait ... for it.", "Done."]),
        # Code is read as it stands; its full stops end nothing.
        ("Run `a. b. c` now. See [the page. Really](x.md) first.",
         ["Run a. b. c now.", "See the page.", "Really first."]),
        ("# A heading\nText\n## Another", ["A heading", "Text", "Another"]),
        ("- one\n  two\n- three\n\n  four\n\n1. five", ["one two", "three", "four", "five"]),
        ("> quoted\n> text", ["quoted text"]),
        ("Text:\n\n```sh\nsoloist embed. Not text.\n```\n\n    indented. code.\n\nMore.", ["Text:", "More."]),
        ("- item\n\n  ~~~\n  code\n  ~~~\n\n  rest", ["item", "rest"]),
        ("| a b. c | d |\n|---|---|\n| e f. g | h |\n\nText", ["Text"]),
        ("---\ntitle: A page. Really\n---\nText", ["Text"]),
        ("<!-- a comment. -->\n\nText <b>bold</b> ![picture. of it](x.png) end <!-- no --> now",
         ["Text bold end now"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_are_those_that_a_reader_sees(markdown, expected):
    """A splitter that takes a table for a sentence fails good pages; one that misses an end passes bad ones."""
    assert [sentence.text for sentence in sentences(markdown)] == expected


def test_a_sentence_knows_its_line():
    """A complaint that names the line of the paragraph sends its reader looking through all of it."""
    markdown = "---\nx: y\n---\n# Title\n\nOne.\nTwo three.\nFour\nfive. Six.\n"
    found = [(sentence.line, sentence.text) for sentence in sentences(markdown)]
    assert found == [(4, "Title"), (6, "One."), (7, "Two three."), (8, "Four five."), (9, "Six.")]


def test_signs_are_not_words():
    """A dash, a plus and an arrow between blanks are not words that a reader has to hold."""
    assert [sentence.words for sentence in sentences("a - b + c -> `d e` (f-g) 5 %")] == [7]


def write_repository(root: Path, **texts: str) -> Path:
    (root / "docs" / "deeper").mkdir(parents=True)
    for name in ("README", "CHANGELOG", "CONTRIBUTING"):
        (root / f"{name}.md").write_text(texts.get(name, "Text."), encoding="utf-8")
    (root / "docs" / "deeper" / "page.md").write_text(texts.get("page", "Text."), encoding="utf-8")
    return root


def words(count: int) -> str:
    return " ".join(["word"] * count) + "."


def test_each_document_has_its_own_bound(tmp_path):
    """A page in a folder of docs, or the file that everybody edits last, would be left out of the check."""
    root = write_repository(
        tmp_path, README=words(30) + "\n\n" + words(31), CHANGELOG=words(36), CONTRIBUTING=words(35), page=words(36)
    )
    eight = "word word word word word word word word ..."
    assert list(complaints(root)) == [
        f"README.md:3: a sentence has 31 words; at most 30 are allowed: {eight}",
        f"CHANGELOG.md:1: a sentence has 36 words; at most 35 are allowed: {eight}",
        f"docs/deeper/page.md:1: a sentence has 36 words; at most 35 are allowed: {eight}",
    ]
    assert main(root) == 1


def test_a_long_readme_is_named(tmp_path):
    """The README grows by a line at a time, and nobody counts."""
    root = write_repository(tmp_path, README="\n" * 130)
    assert main(root) == 0
    (root / "README.md").write_text("\n" * 131, encoding="utf-8")
    assert list(complaints(root)) == ["README.md: the file has 131 lines; at most 130 are allowed"]
