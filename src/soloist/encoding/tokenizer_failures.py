"""What happens where a tokenizer fails at a text: its batch is tried in halves, down to the texts that it cannot read.

Some tokenizers have no token for what they do not know, and fail at it. Pure: texts and a function in, results out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def is_tokenizer_failure(error: Exception) -> bool:
    """Whether the Rust side of a tokenizer raised this error, whose class has no name of its own."""
    return type(error) is Exception


def tokenized_in_halves(
    texts: Sequence[str], tokenize: Callable[[Sequence[str]], Result], unreadable: Callable[[str], Result]
) -> Iterator[Result]:
    """The results of `tokenize` for all texts, in order: one result, or several where the tokenizer fails at a text.

    The result of a single text at which it fails is that of `unreadable`, which is given the tokenizer's message.
    """
    try:
        result = tokenize(texts)
    except Exception as exc:
        if not is_tokenizer_failure(exc):
            raise
        message = str(exc)
    else:
        yield result
        return
    if len(texts) == 1:
        yield unreadable(message)
        return
    middle = len(texts) // 2
    for half in (texts[:middle], texts[middle:]):
        yield from tokenized_in_halves(half, tokenize, unreadable)
