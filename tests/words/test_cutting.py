"""Words of texts: the same as bm25s' own in English, identifiers in parts, and texts of every script."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bm25s
import pytest
import Stemmer

from soloist.languages import LANGUAGES
from soloist.words import analyser, analyser_of
from soloist.words.counting import blocks_of, joined_terms

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def _counted(language: str, texts: list[str]) -> list[dict[str, int]]:
    rows = analyser_of(language).rows(texts)
    rows.rows.require_sound()
    return [dict(rows.terms(number)) for number in range(len(rows))]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the judged sets in {SHARED}")
def test_english_words_are_those_of_bm25s() -> None:
    """Figures that are known of BM25 would be others: bm25s' own cutting, stop words and stemmer are the reference."""
    lines = (SHARED / "code_rag" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    texts = [text for text in (json.loads(line)["text"] for line in lines) if text.isascii()]
    assert len(texts) > 100
    reference = bm25s.tokenize(
        texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    english = analyser_of("english")
    assert [english.terms(text) for text in texts] == reference
    assert _counted("english", texts) == [dict(sorted(Counter(terms).items())) for terms in reference]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("getUserName", ["getusername", "get", "user", "name"]),
        ("snake_case", ["snake_case", "snake", "case"]),
        ("os.path.joinAll", ["os.path.joinall", "os", "path", "joinall", "join", "all"]),
        ("a.b.c", ["a.b.c"]),
        ("HTTPServer2", ["httpserver2", "http", "server"]),
        ("__init__", ["__init__", "init"]),
        ("the end. Next", ["the", "end", "next"]),
        ("größteZahl", ["größtezahl", "größte", "zahl"]),
    ],
)
def test_identifiers_are_found_whole_and_by_their_parts(text: str, terms: list[str]) -> None:
    """A question for `user name` that does not find `getUserName`, or one for `a.b.c` that does not find it."""
    assert sorted(analyser_of("none").terms(text)) == sorted(terms)


def test_code_has_the_stop_words_and_endings_of_english() -> None:
    """The parts of an identifier that are never stemmed, and so never meet the words of a question."""
    assert sorted(analyser_of("code").terms("the getUserNames")) == ["get", "getusernam", "name", "user"]
    assert analyser_of("english").terms("the getUserNames") == ["getusernam"]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("全文検索", ["全文", "文検", "検索"]),
        ("水 and 火", ["水", "and", "火"]),
        ("使用Python编程", ["使用", "python", "编程"]),
        ("สวัสดี", ["สว", "วั", "ัส", "สด", "ดี"]),
        ("한국어", ["한국", "국어"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 \ufb01nd \uff21\uff22\uff23", ["café", "find", "abc"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("🚀🎉 👩‍❤️‍👩 1️⃣", []),
        ("", []),
        (" \n\t.,;- a ", []),
        ("x" * 256, []),
        ("x" * 255, ["x" * 255]),
        ("x" * 2_000_000, []),
        ("🚀" * 100_000, []),
    ],
)
def test_every_script_has_words(text: str, terms: list[str]) -> None:
    """A script whose texts nobody can find, half a letter as a word, or a fault where a text has no words."""
    assert analyser_of("none").terms(text) == terms
    assert _counted("none", [text]) == [Counter(terms)]


def test_a_text_of_one_script_without_spaces_is_bounded_by_its_length() -> None:
    """Two million characters without a space that take a time of their square, or are taken for one long word."""
    (row,) = _counted("english", ["水火" * 1_000_000])
    assert row == {"水火": 1_000_000, "火水": 999_999}


def test_a_text_of_stop_words_has_no_terms() -> None:
    """A row that is left out, so that all rows after it are of other chunks."""
    assert _counted("english", ["the and of", "tree", "it is"]) == [{}, {"tree": 1}, {}]
    assert _counted("english", []) == []


def test_blocks_and_a_full_memory_of_words_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of words that outlive the memory in which they were given, or terms that lose their rows in a block."""
    texts = [f"word{number} common {'rare' * (number % 3)} getUser{number}" for number in range(60)]
    whole = _counted("none", texts)
    monkeypatch.setattr(analyser, "_KNOWN_WORDS", 7)
    monkeypatch.setattr(analyser, "_BLOCK_CHARACTERS", 200)
    assert _counted("none", texts) == whole
    blocks = list(blocks_of(texts, 200))
    assert len(blocks) > 5
    assert [text for block in blocks for text in block] == texts
    rows = joined_terms([analyser_of("none").rows(block) for block in blocks])
    assert [dict(rows.terms(number)) for number in range(len(rows))] == whole


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_the_table_has_its_libraries_parts(language: str) -> None:
    """A row whose list or stemmer the installed library does not have."""
    assert analyser_of(language).terms("München 12 straße")


def test_what_decides_the_terms_decides_the_fingerprint() -> None:
    """Terms of two languages in one index."""
    fingerprints = {analyser_of(language).fingerprint for language in LANGUAGES}
    assert len(fingerprints) == len(LANGUAGES)
    assert analyser_of("english").fingerprint == analyser_of("english").fingerprint


def test_the_models_page_has_every_language() -> None:
    """A language that a reader of the page does not know of, or a row of the table that no command takes."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.partition("| language |")[2].partition("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(named) == sorted(LANGUAGES)
    kinds = {name: line.split("|")[2:5] for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line)}
    for name, row in LANGUAGES.items():
        stop_words, endings, identifiers = kinds[name]
        assert ("left out" in stop_words) == (row.stop_words is not None), name
        assert ("cut off" in endings) == (row.stemmer is not None), name
        assert ("parts" in identifiers) == row.splits_identifiers, name


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("english", "Fro\u00adst", "frost"),  # a soft hyphen of a PDF file
        ("hindi", "\u0915\u094d\u200d\u0937", "\u0915\u094d\u0937"),  # a joiner
        ("none", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
        ("turkish", "\u0130STANBUL", "istanbul"),
        ("turkish", "ISPARTA", "\u0131sparta"),
    ],
)
def test_a_word_that_looks_the_same_is_the_same(language: str, one: str, other: str) -> None:
    """A question would not find the word in a PDF file, or in capital letters."""
    assert analyser_of(language).terms(one) == analyser_of(language).terms(other) != []


@pytest.mark.parametrize("language", ["english", "code", "none"])
def test_a_word_that_is_data_has_no_part_in_the_index(language: str) -> None:
    """Hexadecimal digits of a file gave thousands of terms by their parts."""
    digest = "0a1b2c3d" * 100
    assert analyser_of(language).terms(f"see {digest} and os.{digest}") == [
        term for term in analyser_of(language).terms("see and os") if len(term) > 1
    ]


def test_known_words_are_bounded_by_their_characters() -> None:
    """A million words of data would stay in memory, a megabyte each."""
    none = analyser_of("none")
    for number in range(12):
        none.rows([f"{number:x}" * 1_000_000])
    assert sum(map(len, none._known)) <= analyser._KNOWN_CHARACTERS + 1_000_000


def test_threads_may_share_an_analyser(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread emptied the known words while another one read them: an IndexError, or terms of other words."""
    monkeypatch.setattr(analyser, "_KNOWN_WORDS", 40)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    none = analyser_of("none")
    texts = [["word" * ((at * 7 + offset) % 60 + 1) for offset in range(5)] for at in range(2_000)]
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda words: none.terms(" ".join(words)), texts))
    finally:
        sys.setswitchinterval(interval)
    assert found == texts
