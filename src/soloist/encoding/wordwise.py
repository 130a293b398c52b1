"""Texts to token ids word by word: each different word goes to the tokenizer once. Knows tokenizers, and no models.

The words of texts repeat: 20,000 short chunks have 454,000 words, and 26,000 of these are different. So the tokens of a
known word are looked up. If all words are known, that takes a quarter of the tokenizer's time (see docs/log.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from soloist.arrays import TokenIds
from soloist.encoding.words import BETWEEN, Words, words_of

# A word takes some 200 bytes. Beyond these bounds all words are forgotten. The words in use are soon known again.
KEPT_WORDS = 1 << 17
KEPT_CHARACTERS = 1 << 22
_READ_TOGETHER = 128  # words that go to the tokenizer in one text
# Runs of spaces, punctuation, accents, a character that NFKC splits in two, controls, other spaces, repeated words.
PROBES = (
    "", " ", "a", "  which of  the rows is\n longer, than the(other) one?! ", "the  rows\tof the rows . , ..",
    "3,14e-7", "\u00c5 cafe\u0301 \ufb01 \u0301x <\u0338", "\u4e2d\u6587\u3002 \u2603\u00a0x \U0001f600\U0001f600 the",
    "a\x01b \x1fc", "a\u2581b \u2581 c\u2581 d", f"of {BETWEEN} it",
)  # fmt: skip


class _Numbers(dict[str, int]):
    """Words and their numbers, from 0. A new word gets the next number."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class WordwiseTokenizer:
    """Gives the tokens that a tokenizer gives, and has it read each word once. For one thread at a time."""

    def __init__(self, backend: Tokenizer, words: Words) -> None:
        self._backend = backend
        self._words = words
        self._between = words.reader.token_to_id(BETWEEN)
        self._numbers = _Numbers()
        self._characters = 0  # of all known words
        self._ids: TokenIds = np.empty(0, np.int32)
        self._ends: NDArray[np.int64] = np.zeros(1, np.int64)  # word n has the ids from ends[n] to ends[n + 1]

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text, without special tokens.

        Raises:
            Exception: the tokenizer fails at a word.
        """
        whole = self._whole(texts)
        if not whole:
            return self._looked_up(texts)
        found = self._looked_up(["" if row in whole else text for row, text in enumerate(texts)])
        for row, ids in zip(whole, read_whole(self._backend, [texts[row] for row in whole]), strict=True):
            found[row] = ids
        return found

    def _whole(self, texts: Sequence[str]) -> dict[int, None]:
        """The rows of texts that are not cut into words."""
        together = " ".join(texts)
        there = [part for part in self._words.whole_with if part in together]
        return {row: None for row, text in enumerate(texts) if any(part in text for part in there)} if there else {}

    def _looked_up(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text, from those of its words."""
        split, before = self._words.pattern.findall, self._words.before
        words: list[str] = []
        counts = [0]
        for text in texts:
            if text:
                words += split(before + text)
            counts.append(len(words))
        numbers = self._numbered(words)
        starts, lengths = self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # The index of each token in `self._ids`: its index among these tokens, plus the shift of its word.
        ids = self._ids[np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths)]
        return [ids[first:last] for first, last in itertools.pairwise(ends[counts].tolist())]

    def _numbered(self, words: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of words. Words that are new become known."""
        if len(self._numbers) > KEPT_WORDS or self._characters > KEPT_CHARACTERS:
            self._forget()
        known = len(self._numbers)
        try:
            numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
            new = itertools.islice(reversed(self._numbers), len(self._numbers) - known)
            self._learn([*new][::-1])
        except BaseException:  # words without tokens would shift the tokens of later words
            self._forget()
            raise
        return numbers

    def _learn(self, new: Sequence[str]) -> None:
        """Have the tokenizer read words, and keep their tokens."""
        if not new:
            return
        own = [word.replace(" ", self._words.space) for word in new]
        groups = (own[at : at + _READ_TOGETHER] for at in range(0, len(own), _READ_TOGETHER))
        ids = np.concatenate(read_whole(self._words.reader, [BETWEEN.join((*group, "")) for group in groups]))
        is_between = ids == self._between
        counts = np.flatnonzero(is_between) - np.arange(len(new))  # the tokens of the words up to and including each
        self._ends = np.concatenate([self._ends, self._ends[-1] + counts])
        self._ids = np.concatenate([self._ids, ids[~is_between]])
        self._characters += sum(map(len, new))

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._characters = 0
        self._ids = np.empty(0, np.int32)
        self._ends = np.zeros(1, np.int64)


def wordwise(backend: Tokenizer) -> WordwiseTokenizer | None:
    """A tokenizer of words around this one; None if the tokens may differ from those of whole texts."""
    words = words_of(backend)
    if words is None:
        return None
    found = WordwiseTokenizer(backend, words)
    try:
        pairs = zip(found.ids(PROBES), read_whole(backend, PROBES), strict=True)
        return found if all(np.array_equal(own, whole) for own, whole in pairs) else None
    except Exception:  # the tokenizer has no token for unknown words
        return None


def read_whole(backend: Tokenizer, texts: Sequence[str]) -> list[TokenIds]:
    """The token ids of each text, without special tokens, by the tokenizer itself."""
    encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(row.ids, dtype=np.int32) for row in encoded]
