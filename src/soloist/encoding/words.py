"""How texts are cut into words whose tokens do not depend on each other. Knows tokenizers' steps, and no models.

The tokens of a text are then the tokens of its words, in order. This is known of two families of tokenizers: those that
split texts at spaces, as BERT's do, and the BPE of Llama 2. Texts of any other tokenizer are not cut.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models

# A special token between two words, where a tokenizer reads several words in one text.
BETWEEN = "\ue000soloist\ue000"
# Every text is searched for each added token, so a tokenizer with more of them reads texts whole.
_MOST_ADDED_TOKENS = 64
_SPACE = "\u2581"  # what SentencePiece has for a space
_PUNCTUATION = r"!-/:-@\[-`{-~"

# Steps that leave a space where it is, and treat the text before the space apart from the text behind it.
_APART = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
_SPLITTING_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}

# A word of Llama begins with all spaces before it, because runs of spaces have tokens of their own. It ends at the next
# space, or where letters change to signs or back. A word with other characters ends at the next space only.
_LETTERS = "A-Za-z0-9"
_SIGNS = rf"{_PUNCTUATION}\x00-\x1f\x7f"
_LLAMA_WORD = rf" *[{_LETTERS}]+(?![^ {_SIGNS}])| *[{_SIGNS}]+(?![^ {_LETTERS}])| *[^ ]+| +"
_LLAMA_STEPS = [
    {"type": "Prepend", "prepend": _SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
]
# A token across the end of such a word. In the text that is searched, a space separates the vocabulary's tokens.
_ACROSS = re.compile(rf"[^ {_SPACE}]{_SPACE}|[{_LETTERS}][{_SIGNS}]|[{_SIGNS}][{_LETTERS}]")
_OF_ITS_OWN = re.compile(r"<(0x[0-9A-F]{2}|unk|/?s)>")  # bytes, unknown words, the ends of a text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """How texts are cut into words: the matches of `pattern` in `before` + text. An empty text has no words.

    `reader` gives the tokens of a word in which each space is replaced by `space`. `reader` has the token `BETWEEN`.
    A text that contains one of `whole_with` is not cut.
    """

    pattern: re.Pattern[str]
    reader: Tokenizer
    whole_with: tuple[str, ...]
    before: str = ""
    space: str = " "


def words_of(backend: Tokenizer) -> Words | None:
    """How a tokenizer's texts are cut into words; None if the tokens of two words may depend on each other."""
    added = list(backend.get_added_tokens_decoder().values())
    if len(added) > _MOST_ADDED_TOKENS or any(token.normalized or not token.content for token in added):
        return None
    if backend.truncation is not None or backend.padding is not None or getattr(backend.model, "dropout", None):
        return None
    # The end of a word may look like the beginning of `BETWEEN`. Both together would be read as that token.
    whole_with = (*(token.content for token in added), BETWEEN[0])
    pattern = _between_spaces(backend)
    if pattern is not None:
        reader = _reader(backend, backend.normalizer, backend.pre_tokenizer)
        return Words(pattern=re.compile(pattern), reader=reader, whole_with=whole_with)
    if not _is_llama(backend):
        return None
    return Words(
        pattern=re.compile(_LLAMA_WORD), reader=_reader(backend), whole_with=(*whole_with, _SPACE), before=" ",
        space=_SPACE,
    )  # fmt: skip


def _reader(backend: Tokenizer, normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """A tokenizer with the same model, with these steps before the model, and with the token `BETWEEN`."""
    reader = Tokenizer(backend.model)
    reader.normalizer, reader.pre_tokenizer = normalizer, pre_tokenizer
    reader.add_special_tokens([BETWEEN])
    return reader


def _between_spaces(backend: Tokenizer) -> str | None:
    """The pattern of words, if a tokenizer splits texts at spaces; else None.

    BERT's pre-tokenizer splits at punctuation too. The pattern does so with BERT's normalizer only, because NFC joins
    `=` and an accent.
    """
    normal, split = ([step["type"] for step in _steps(part)] for part in (backend.normalizer, backend.pre_tokenizer))
    if len(split) != 1 or not {*split} <= _SPLITTING_AT_SPACES or not {*normal} <= _APART:
        return None
    is_bert = normal == ["BertNormalizer"] and split == ["BertPreTokenizer"]
    return rf"[^ \t\n\r{_PUNCTUATION}]+|[{_PUNCTUATION}]+" if is_bert else r"[^ \t\n\r]+"


def _steps(part: Any) -> list[dict[str, Any]]:
    """The settings of each step of a normalizer or pre-tokenizer, which may be a sequence of steps."""
    if part is None:
        return []
    content = json.loads(part.__getstate__())
    steps: list[dict[str, Any]] = content.get("normalizers", content.get("pretokenizers", [content]))
    return steps


def _is_llama(backend: Tokenizer) -> bool:
    """Whether this is the BPE of Llama 2, which reads a text as one word, and no token lies across the end of a word.

    Neighbours are merged only into a token of the vocabulary. So no merge crosses the end of a word, and merges on one
    side of the end do not depend on the other side. `<s>` is not made by a merge: one of its two parts would be a token
    across the end of a word. A letter that is not in the vocabulary becomes the tokens of its bytes. Without these
    tokens, unknown neighbours would become one token.
    """
    model = backend.model
    if not isinstance(model, models.BPE) or _steps(backend.normalizer) != _LLAMA_STEPS or _steps(backend.pre_tokenizer):
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix or model.ignore_merges:
        return False
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if not model.byte_fallback or not {_SPACE, *(f"<0x{byte:02X}>" for byte in range(256))} <= vocabulary.keys():
        return False
    plain = " ".join(token for token in vocabulary if not _OF_ITS_OWN.fullmatch(token))
    return _ACROSS.search(plain) is None
