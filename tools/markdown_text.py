"""The sentences of a Markdown file. Pure: text in, sentences out.

Code blocks, tables, comments and front matter have no sentences. A sentence ends where its heading, list item or
paragraph does, with or without a full stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt("commonmark").enable("table")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_BREAKS = ("softbreak", "hardbreak")
_HIDDEN = ("html_inline", "image")

# A full stop inside of code ends no sentence: it is another character until the sentences are apart.
_MASK = str.maketrans(".!?\n", "\ue000\ue001\ue002 ")
_UNMASK = str.maketrans("\ue000\ue001\ue002", ".!?")
_END = re.compile(r"(?P<stop>[.!?…]+)[\"'\u201d\u2019)\]]*(?=\s|$)")
_WORD_BEFORE = re.compile(r"[\w.]*\Z")
# A full stop after these is a part of the word.
_ABBREVIATIONS = frozenset({"e.g", "i.e", "cf", "vs", "approx", "fig", "no", "al", "dr", "mr", "ms", "ca", "resp"})
# These may end a sentence: they do where no small letter follows. So may three dots.
_MAYBE_AT_END = frozenset({"etc", "inc", "ltd", "a.m", "p.m"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence, and the line of the file on which it begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """How many parts between blanks have a letter or a digit."""
        return sum(any(map(str.isalnum, word)) for word in self.text.split())


def sentences(markdown: str) -> Iterator[Sentence]:
    """All sentences of a file, in order."""
    tokens = _PARSER.parse(_without_front_matter(markdown))
    for block in _outside_tables(tokens):
        yield from _sentences(_text(block.children or ()), block.map[0] + 1 if block.map else 1)


def _without_front_matter(markdown: str) -> str:
    """The file with empty lines in the place of its front matter, so that lines keep their numbers."""
    return _FRONT_MATTER.sub(lambda match: "\n" * match[0].count("\n"), markdown)


def _outside_tables(tokens: Sequence[Token]) -> Iterator[Token]:
    """The tokens that hold text."""
    is_table = False
    for token in tokens:
        if token.type in ("table_open", "table_close"):
            is_table = token.type == "table_open"
        elif token.type == "inline" and not is_table:
            yield token


def _text(children: Sequence[Token]) -> str:
    """The words of a block as a reader sees them, with the line breaks of the file."""
    parts: list[str] = []
    for child in children:
        if child.type in _BREAKS:
            parts.append("\n")
        elif child.type == "code_inline":
            parts.append(child.content.translate(_MASK))
        elif child.type not in _HIDDEN:
            parts.append(child.content)
    return "".join(parts)


def _sentences(text: str, line: int) -> Iterator[Sentence]:
    start = 0
    for end in [*_ends(text), len(text)]:
        sentence = text[start:end]
        if sentence.strip():
            begins_at = start + len(sentence) - len(sentence.lstrip())
            words = " ".join(sentence.split()).translate(_UNMASK)
            yield Sentence(line=line + text.count("\n", 0, begins_at), text=words)
        start = end


def _ends(text: str) -> Iterator[int]:
    """Where sentences end."""
    for match in _END.finditer(text):
        before = _WORD_BEFORE.search(text[: match.start()])
        word = before[0].lower() if before else ""
        rest = text[match.end() :].lstrip()
        goes_on = rest[:1].islower() and (word in _MAYBE_AT_END or match["stop"] in ("...", "…"))
        if not (goes_on or (match["stop"] == "." and word in _ABBREVIATIONS)):
            yield match.end()
