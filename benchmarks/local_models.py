"""Models of this machine: their folders, and the tokenizer that cuts the texts. Imports soloist when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

DEFAULT_MODEL = "all-MiniLM-L6-v2"


def located(model: str) -> Path:
    """The folder of a model of the catalogue, or the folder that is given."""
    from soloist.models.catalogue import resolve
    from soloist.models.location import locate

    return locate(resolve(model)).folder


def token_counter() -> Callable[[str], int]:
    """Counts tokens as all-MiniLM-L6-v2 does, whichever model is measured: the texts stay the same."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(located(DEFAULT_MODEL) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)
