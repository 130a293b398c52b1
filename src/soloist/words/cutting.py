"""Where a text is cut into words. Pure: a text in, the words in their order out, in the case that the text has.

A word is two or more letters, digits and underscores, as in scikit-learn and bm25s. Beyond ASCII:

- Texts are in Unicode's form NFKC, so that ligatures of PDF files, full-width letters and composed accents are the
  letters that people type.
- Characters inside of words that nobody sees or types, such as soft hyphens and joiners, are left out.
- A mark that belongs to a letter, as vowel signs of Hindi do, is part of the word.
- Scripts without spaces (Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese) give each pair of neighbouring
  characters, as Lucene's CJKAnalyzer does. A character that stands alone is a word.

Emoji and other signs are not words. A word of more than `LONGEST` characters is left out: it is data rather than
language, and would be in the index for nobody.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

LONGEST = 255  # characters, the limit of Lucene's tokenizers
_ASCII_WORDS = re.compile(r"\w\w+", re.ASCII).findall
_ASCII_PATHS = re.compile(r"\w+(?:\.\w+)+|\w\w+", re.ASCII).findall
# Hiragana, katakana, Han with its extensions, Hangul syllables; Thai, Lao, Khmer, Burmese.
_SPACELESS_RANGES = (
    "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003347f"
    "\u0e01-\u0e4e\u0e80-\u0ece\u1000-\u109f\u1780-\u17d3\u3005\u3007"
)
_SPACELESS = re.compile(f"([{_SPACELESS_RANGES}]+)")
# Where an identifier has its seams: HTTP|Server|2, get|User|Name, snake|case.
_SEAM = re.compile(r"_+|(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)").split
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)  # choose how an emoji is drawn
_LAST_MARK = 0x1F000
# Inside of words and not seen: soft hyphens of PDF files, joiners of Hindi and Persian, word joiners. People type none.
_UNSEEN = dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))


def words_of(text: str) -> list[str]:
    """The words of a text."""
    if text.isascii():
        return _ASCII_WORDS(text)
    return _beyond_ascii(text, _patterns()[0])


def paths_of(text: str) -> list[str]:
    """The words of a text, where names with dots between them, such as `a.b.c`, are one word."""
    if text.isascii():
        return _ASCII_PATHS(text)
    return _beyond_ascii(text, _patterns()[1])


def parts_of(path: str) -> list[str]:
    """A word of `paths_of`, and all of its parts of two or more characters.

    >>> parts_of("os.getUserName")
    ['os.getUserName', 'os', 'getUserName', 'get', 'User', 'Name']
    >>> parts_of("snake_case")
    ['snake_case', 'snake', 'case']
    """
    found = [path]
    names = path.split(".")
    for name in names:
        if len(name) > LONGEST:
            continue
        if len(names) > 1:
            found.append(name)
        parts = _SEAM(name)
        if len(parts) > 1:
            found += parts
    return [each for each in found if len(each) > 1 or _SPACELESS.match(each)]


def _beyond_ascii(text: str, pattern: re.Pattern[str]) -> list[str]:
    normal = unicodedata.normalize("NFKC", text.translate(_UNSEEN))
    words: list[str] = pattern.findall(normal)
    if _SPACELESS.search(normal) is None:
        return [word for word in words if len(word) > 1]
    return list(itertools.chain.from_iterable(map(_pieces, words)))


def _pieces(word: str) -> Iterator[str]:
    """A word, cut where it has characters of a script without spaces."""
    for number, piece in enumerate(_SPACELESS.split(word)):
        if number % 2:  # what the group of the pattern has matched
            yield from (piece,) if len(piece) == 1 else _pairs(piece)
        elif len(piece) > 1:
            yield piece


def _pairs(run: str) -> Iterable[str]:
    return map("".join, itertools.pairwise(run))


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words and paths, marks included. Made once a text beyond ASCII is there, because it takes some 30 ms."""
    marks = (
        code
        for code in range(0x300, _LAST_MARK)
        if unicodedata.category(chr(code))[0] == "M" and code not in _VARIATION_SELECTORS
    )
    word = rf"\w[\w{_ranges(marks)}]*"
    return re.compile(word), re.compile(rf"{word}(?:\.{word})*")


def _ranges(codes: Iterable[int]) -> str:
    """Ascending code points as the inside of a character class."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)
