"""A text that a tokenizer cannot read costs itself, and none of the texts beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.encoding.tokenizer_failures import tokenized_in_halves


def lengths(texts: Sequence[str]) -> list[int]:
    """A tokenizer that fails at a word, as those of the Rust side do: the class of its error is Exception itself."""
    for text in texts:
        if "?" in text:
            raise Exception(f"unknown token in {text}")
    return [len(text) for text in texts]


@given(st.lists(st.text(alphabet="ab?", min_size=1, max_size=3), min_size=1, max_size=17))
def test_every_readable_text_is_read_in_its_place(texts):
    """A half that is lost, or comes in another order, gives texts the tokens of their neighbours."""
    parts = tokenized_in_halves(texts, lengths, unreadable=lambda message: [-1])
    assert [length for part in parts for length in part] == [-1 if "?" in text else len(text) for text in texts]


def test_a_text_that_cannot_be_read_comes_with_the_tokenizers_message():
    """A notice without the message does not say which word is at fault."""
    messages: list[str] = []

    def unreadable(message: str) -> list[int]:
        messages.append(message)
        return [0]

    assert list(tokenized_in_halves(["a", "b?", "c"], lengths, unreadable)) == [[1], [0], [1]]
    assert messages == ["unknown token in b?"]


def test_texts_that_can_be_read_go_in_one_call():
    """Halving where nothing fails would cost a call for each text."""
    calls: list[Sequence[str]] = []

    def tokenize(texts: Sequence[str]) -> list[int]:
        calls.append(texts)
        return lengths(texts)

    assert list(tokenized_in_halves(["a", "bb"], tokenize, unreadable=lambda message: [0])) == [[1, 2]]
    assert calls == [["a", "bb"]]


def test_other_errors_are_not_a_texts_fault():
    """A bug that is taken for an unknown word leaves texts out of a run in silence."""

    def tokenize(texts: Sequence[str]) -> list[int]:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        list(tokenized_in_halves(["a", "b"], tokenize, unreadable=lambda message: [0]))
