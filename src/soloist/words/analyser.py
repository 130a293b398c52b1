"""Texts to terms: cut into words, without stop words, and without endings. By the lists of bm25s and by PyStemmer.

The same for texts and for questions, so that the terms of both meet.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import unicodedata
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.broken_imports import load_optional
from soloist.jsontext import json_text
from soloist.languages import LANGUAGES, Language
from soloist.ragged import TermRows
from soloist.words.counting import blocks_of, counted_terms, joined_terms
from soloist.words.cutting import LONGEST, parts_of, paths_of, words_of

# Raised by one when a version of soloist gives other terms for the same text and language.
WORDS_VERSION = 2

_KNOWN_WORDS = 1 << 18  # of which the terms are kept, some 40 MB
_KNOWN_CHARACTERS = 1 << 22  # of them together: words of data, such as hashes, are long
_BLOCK_CHARACTERS = 1 << 23  # analysed together, in some 100 MB


class Analyser:
    """Makes terms of texts in one language. Threads may share it: one of them works at a time.

    `fingerprint` is 16 hex digits over all that decides the terms: the language, the lists, the versions of the stemmer
    and of Unicode. Texts that were analysed with the same fingerprint have the same terms.
    """

    def __init__(self, name: str, language: Language, stop_words: frozenset[str], stemmer: Any) -> None:
        self.language = name
        self.fingerprint = _fingerprint(name, language, stop_words)
        self._cut = paths_of if language.splits_identifiers else words_of
        self._known = _KnownWords(language, stop_words, stemmer)
        self._at_work = threading.Lock()  # the known words change, and a stemmer is for one thread

    def terms(self, text: str) -> list[str]:
        """The terms of a text in the order of its words, as often as they occur."""
        with self._at_work:
            known = self._known.bounded()
            return [term for word in self._cut(text) for term in known.terms[known[word]]]

    def rows(self, texts: Sequence[str]) -> TermRows:
        """The terms of texts, counted; a text without words has an empty row."""
        return joined_terms([self._block(block) for block in blocks_of(texts, _BLOCK_CHARACTERS)])

    def _block(self, texts: Sequence[str]) -> TermRows:
        """Each word is a number, so that numpy counts: five times as fast as a dict for each text."""
        numbers, lengths = array("i"), []
        with self._at_work:
            known = self._known.bounded()
            for text in texts:
                before = len(numbers)
                numbers.extend(map(known.__getitem__, self._cut(text)))
                lengths.append(len(numbers) - before)
            used, entries = np.unique(np.frombuffer(numbers, np.int32), return_inverse=True)
            terms = [known.terms[number] for number in used.tolist()]
        return counted_terms(terms, entries, np.array(lengths, np.int64))


class _KnownWords(dict[str, int]):
    """The number of every word that occurred. `terms` has those of each number: none for a stop word, several for an
    identifier in parts.
    """

    def __init__(self, language: Language, stop_words: frozenset[str], stemmer: Any) -> None:
        super().__init__()
        self.terms: list[tuple[str, ...]] = []
        self._characters = 0
        self._split: Callable[[str], Sequence[str]] = parts_of if language.splits_identifiers else _whole
        self._stop_words = stop_words
        self._lower = _LOWERED.get(language.stemmer or "", str.lower)
        self._stem: Callable[[str], str] = _as_it_is if stemmer is None else stemmer.stemWord

    def bounded(self) -> _KnownWords:
        """The same, emptied where it has grown large: numbers and hashes are endless."""
        if len(self) >= _KNOWN_WORDS or self._characters >= _KNOWN_CHARACTERS:
            self.clear()
            self.terms.clear()
            self._characters = 0
        return self

    def __missing__(self, word: str) -> int:
        lowered = [self._lower(part) for part in self._split(word) if len(part) <= LONGEST]
        self.terms.append(tuple(self._stem(part) for part in lowered if part not in self._stop_words))
        self._characters += len(word)
        number = self[word] = len(self.terms) - 1
        return number


def _turkish(word: str) -> str:
    """Turkish has an i with a dot and one without, in both cases."""
    return word.translate(_TURKISH).lower()


_TURKISH = {0x130: "i", ord("I"): "\u0131"}
# By the language of the stemmer: how letters are lowered where Unicode's common rules do not hold.
_LOWERED: Mapping[str, Callable[[str], str]] = {"turkish": _turkish}


def _whole(word: str) -> tuple[str]:
    return (word,)


def _as_it_is(word: str) -> str:
    return word


def analyser_of(language: str) -> Analyser:
    """The analyser of a language of `soloist.languages`.

    Raises:
        ConfigError: a library that it needs is not installed.
    """
    row = LANGUAGES[language]
    stemmer = _libraries()[1].Stemmer(row.stemmer, 0) if row.stemmer is not None else None
    return Analyser(language, row, _stop_words(row), stemmer)


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """bm25s' lists, and PyStemmer."""
    need = "a member of words"
    lists = load_optional("bm25s.stopwords", what=need, package="bm25s", extra="lexical")
    return lists, load_optional("Stemmer", what=need, package="PyStemmer", extra="lexical")


def _stop_words(language: Language) -> frozenset[str]:
    if language.stop_words is None:
        return frozenset()
    return frozenset(getattr(_libraries()[0], f"STOPWORDS_{language.stop_words}"))


def _fingerprint(name: str, language: Language, stop_words: frozenset[str]) -> str:
    decisive = {
        "words_version": WORDS_VERSION,
        "language": name,
        "stop_words": sorted(stop_words),
        "stemmer": _libraries()[1].version() if language.stemmer is not None else None,
        "unicode": unicodedata.unidata_version,
    }
    return hashlib.sha256(json_text(decisive).encode()).hexdigest()[:16]
