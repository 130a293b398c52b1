"""Texts that are read word by word have the tokens of texts that are read whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import SENTENCES
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from soloist.encoding import wordwise as module
from soloist.encoding.wordwise import WordwiseTokenizer, read_whole, wordwise
from soloist.models.catalogue import resolve
from soloist.models.location import WORDLLAMA_TOKENIZER, locate

# What can stand at the end of a word: spaces of all kinds, punctuation, controls, accents, added tokens, other letters.
_PARTS = (
    " ", "  ", "   ", "\n", "\t", "\r", "\x00", "\x01", "\x1c", "\x85", "\u00a0", "\u2003", "\u2581", "\u0301",
    "\u0338", ",", ".", "-", "_", "=", "<", ">", "'", "\u201d", "\u2014", "<s>", "</s>", "<unk>", "[SEP]", "[UNK]",
    "<0x0A>", "##s", "the", "The", "rows", "s", "3", "14", "caf\u00e9", "\u00c5", "\ufb01", "\u4e2d", "\U0001f600",
    "\u0638", "\ud7a3", "soloist", "\ue000",
    "\ue000soloist", "soloist\ue000", "\ue000soloist\ue000",
)  # fmt: skip
_joined = st.lists(st.sampled_from(_PARTS), max_size=12).map("".join)
_texts = st.lists(st.one_of(_joined, st.text(max_size=30)), max_size=6)


def _word_level(words: list[str], **settings: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, **settings))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tiny_models) -> dict[str, Tokenizer]:
    """Tokenizers that can be read word by word."""
    bert, spaced = (Tokenizer.from_file(str(tiny_models["bert"] / "tokenizer.json")) for _ in range(2))
    spaced.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    for tokenizer in (bert, spaced):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    llama = Tokenizer.from_file(str(locate(resolve("wordllama")).folder / WORDLLAMA_TOKENIZER))
    words = _word_level(["?", "the", "The", "rows", "rows,", "s"], unk_token="?")
    return {"llama": llama, "bert": bert, "bert, composed": spaced, "words": words}


@pytest.fixture(scope="module")
def found(tokenizers) -> dict[str, WordwiseTokenizer | None]:
    """The word by word tokenizer of each, which knows the words of all texts that it was given."""
    return {name: wordwise(tokenizer) for name, tokenizer in tokenizers.items()}


@pytest.mark.parametrize("name", ["llama", "bert", "bert, composed", "words"])
@given(texts=_texts)
@settings(max_examples=150, deadline=None)
def test_word_by_word_a_text_has_the_same_tokens(tokenizers, found, name, texts):
    """A word that is cut off from its neighbour could have other tokens, and its texts other vectors."""
    expected = [ids.tolist() for ids in read_whole(tokenizers[name], texts)]
    assert [ids.tolist() for ids in found[name].ids(texts)] == expected
    assert [ids.tolist() for ids in found[name].ids([*reversed(texts)])] == expected[::-1]  # by now every word is known


def test_words_that_are_forgotten_are_read_again(tokenizers, monkeypatch):
    """Memory would grow with the collection, or a word would get the tokens of another word after a reset."""
    monkeypatch.setattr(module, "KEPT_WORDS", 20)
    found = wordwise(tokenizers["llama"])
    assert found is not None
    for text in [*SENTENCES, *SENTENCES]:
        (ids,) = found.ids([text])
        assert ids.tolist() == read_whole(tokenizers["llama"], [text])[0].tolist()
        assert len(found._numbers) <= 20 + len(text)


def test_long_words_are_not_kept(tokenizers, monkeypatch):
    """Each line of base64 is one word: thousands of lines would take as much memory as the whole collection."""
    monkeypatch.setattr(module, "KEPT_CHARACTERS", 1000)
    found = wordwise(tokenizers["bert"])
    assert found is not None
    for row in range(5):
        found.ids([f"{row}" + "a" * 600])
        assert sum(map(len, found._numbers)) < 2000


def test_a_word_at_which_the_tokenizer_fails_leaves_the_others_as_they_were():
    """Words without tokens would keep their numbers, and later words would get the tokens of other words."""
    split = pre_tokenizers.WhitespaceSplit().pre_tokenize_str
    known = dict.fromkeys(word for probe in module.PROBES for word, _ in split(probe))
    tokenizer = _word_level([*known, "boats"])
    found = wordwise(tokenizer)
    assert found is not None
    with pytest.raises(Exception, match="WordLevel error"):
        found.ids(["which boats", "grey harbour"])
    assert [ids.tolist() for ids in found.ids(["boats of the rows"])] == [
        [tokenizer.token_to_id(word) for word in ("boats", "of", "the", "rows")]
    ]


def _changed(name: str, tokenizers: dict[str, Tokenizer], **settings: object) -> Tokenizer:
    """A copy of a tokenizer with other settings in its model."""
    content = json.loads(tokenizers[name].to_str())
    content["model"].update(settings)
    return Tokenizer.from_str(json.dumps(content))


def _merging_across(tokenizers: dict[str, Tokenizer], left: str, right: str) -> Tokenizer:
    """The tokenizer of Llama with one more token, which lies across the end of a word."""
    content = json.loads(tokenizers["llama"].to_str())["model"]
    vocabulary = {**content["vocab"], left + right: len(content["vocab"])}
    return _changed("llama", tokenizers, vocab=vocabulary, merges=[*content["merges"], [left, right]])


def _with(tokenizer: Tokenizer, **steps: object) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    for name, step in steps.items():
        setattr(copy, name, step)
    return copy


def _adding(tokenizer: Tokenizer, token: AddedToken) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_tokens([token])
    return copy


def _cutting(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(8)
    return copy


_REFUSED = {
    "a token across a space": lambda known: _merging_across(known, "e", "\u2581"),
    "a token of a letter and a sign": lambda known: _merging_across(known, "s", "."),
    "a token of a line's end and a letter": lambda known: _merging_across(known, "<0x0A>", "a"),
    "unknown letters become one token": lambda known: _changed("llama", known, byte_fallback=False),
    "words are cut by chance": lambda known: _changed("llama", known, dropout=0.1),
    "no sign before a text": lambda known: _with(known["llama"], normalizer=normalizers.Replace(" ", "\u2581")),
    "another way to split": lambda known: _with(known["llama"], pre_tokenizer=pre_tokenizers.ByteLevel()),
    "a step that changes spaces": lambda known: _with(known["bert"], normalizer=normalizers.Replace(" ", "")),
    "an added token in any case": lambda known: _adding(known["bert"], AddedToken("the rows", normalized=True)),
    "texts are cut off": lambda known: _cutting(known["bert"]),
    "no token for unknown words": lambda known: _word_level(["the", "rows"]),
}


@pytest.mark.parametrize("why", list(_REFUSED))
def test_other_tokenizers_read_their_texts_whole(tokenizers, why):
    """If tokens may lie across the end of a word, the tokens of words would differ, and nobody would see it."""
    assert wordwise(_REFUSED[why](tokenizers)) is None


def test_the_tokenizer_itself_stays_as_it_is(tokenizers):
    """Models that share weights share their tokenizer: a token that was added to it would be in all vocabularies."""
    before = tokenizers["bert"].to_str()
    found = wordwise(tokenizers["bert"])
    assert found is not None
    found.ids(["the rows, and the other rows"])
    assert tokenizers["bert"].to_str() == before
