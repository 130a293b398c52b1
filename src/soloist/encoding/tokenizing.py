"""Texts to token ids, as one model reads them: its prompt before the text, its special tokens, its limit.

Knows tokenizers. Knows nothing of networks, of batches or of shards.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from soloist.arrays import TokenIds
from soloist.encoding.batching import slices
from soloist.encoding.tokenizer_failures import tokenized_in_halves
from soloist.encoding.wordwise import WordwiseTokenizer, read_whole, wordwise
from soloist.models.loading import StagedModel
from soloist.models.module_facts import has_special_tokens

# A Rust tokenizer's truncation is a setting of the object, and models that share weights share that object. One
# lock for all of them: a tokenizer has threads of its own, so two at a time would gain nothing.
TOKENIZING = threading.Lock()
# Long texts are tried with these words, every one of which has at least one token.
_WORDS = "which of the rows is longer than the other one, and by how many tokens?"
# Longer than a limit by these factors, so that a tokenizer cuts off one piece, a few, and the last of them a short one.
_TIMES_TOO_LONG = (1.2, 3.5, 6)
_LONGEST_TRIED_LIMIT = 512  # tokens; a higher limit would only take longer to try


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedTexts:
    """The token ids of some texts: prompt and special tokens included, cut at the model's limit.

    `dropped` is the number of tokens that the limit cost each row.
    """

    ids: tuple[TokenIds, ...]
    dropped: tuple[int, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, padding excluded."""
        return [len(row) for row in self.ids]

    @property
    def counts(self) -> NDArray[np.int32]:
        """Tokens of each text and those cut off, (rows, 2)."""
        return np.array([self.lengths, self.dropped], dtype=np.int32).T


class TextTokenizer:
    """The tokenizer of a staged model."""

    def __init__(self, staged: StagedModel) -> None:
        self._staged = staged
        self._tokenizer: Any = staged.module.tokenizer
        self._failure: str | None = None
        self._adds_special = has_special_tokens(staged.module)
        # Of a fast tokenizer: its Rust part. A static model's tokenizer is one itself, and adds no special tokens.
        self._backend: Tokenizer | None = None if staged.is_static else getattr(self._tokenizer, "_tokenizer", None)
        self._wordwise: WordwiseTokenizer | None = None
        with TOKENIZING:
            if self._backend is not None and not self._tells_what_it_cuts(self._backend):
                self._backend = None
            if staged.is_static:
                self._wordwise = wordwise(self._tokenizer)

    @property
    def failure(self) -> str | None:
        """The tokenizer's message where it has failed at a text; None where it has read all texts."""
        return self._failure

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of texts, with the prompt before each; none of a text at which the tokenizer fails.

        A few megabytes of text go at a time: what a tokenizer says of a text takes hundreds of times its size.
        """
        parts = [  # some tokenizers fail at an empty list of texts: of no texts there are no slices
            part for some in slices(texts) for part in tokenized_in_halves(some, self._of_a_batch, self._unreadable)
        ]
        return TokenizedTexts(
            ids=tuple(row for part in parts for row in part.ids),
            dropped=tuple(count for part in parts for count in part.dropped),
        )

    def in_one_pass(self, texts: Sequence[str], limit: int | None) -> TokenizedTexts | None:
        """The tokens by the Rust part alone, with what the limit cuts off; None where it cannot be trusted with that.

        What is cut off comes along in pieces that have special tokens of their own.
        """
        return None if self._backend is None else self._one_pass(self._backend, texts, limit)

    def in_two_passes(self, texts: Sequence[str], limit: int | None) -> TokenizedTexts:
        """All texts whole, and too long ones once more: for tokenizers that do not say what they cut off."""
        whole = self._ids(texts, limit=None)
        long = [row for row, ids in enumerate(whole) if limit is not None and len(ids) > limit]
        cut = dict(zip(long, self._ids([texts[row] for row in long], limit=limit), strict=True)) if long else {}
        return TokenizedTexts(
            ids=tuple(np.asarray(cut.get(row, ids), dtype=np.int32) for row, ids in enumerate(whole)),
            dropped=tuple(len(ids) - len(cut[row]) if row in cut else 0 for row, ids in enumerate(whole)),
        )

    def _of_a_batch(self, texts: Sequence[str]) -> TokenizedTexts:
        prompted = [self._staged.document_prompt + text for text in texts]
        limit = self._staged.max_tokens
        with TOKENIZING:
            if self._staged.is_static:
                return self._of_a_static_model(prompted, limit)
            tokenized = self.in_one_pass(prompted, limit)
            return self.in_two_passes(prompted, limit) if tokenized is None else tokenized

    def _of_a_static_model(self, texts: Sequence[str], limit: int | None) -> TokenizedTexts:
        """The tokens of whole texts, cut off at the limit afterwards. There are no special tokens."""
        whole = self._wordwise.ids(texts) if self._wordwise is not None else read_whole(self._tokenizer, texts)
        kept = slice(-limit, None) if limit and self._staged.keeps_end else slice(limit)
        ids = tuple(row[kept] for row in whole)
        return TokenizedTexts(ids=ids, dropped=tuple(len(row) - len(cut) for row, cut in zip(whole, ids, strict=True)))

    def _unreadable(self, message: str) -> TokenizedTexts:
        self._failure = message
        return TokenizedTexts(ids=(np.empty(0, np.int32),), dropped=(0,))

    def _tells_what_it_cuts(self, backend: Tokenizer) -> bool:
        """Whether one pass finds what two passes find, tried on texts that are too long.

        Tokenizers 0.23.1 and 0.23.2 give only some of the pieces that they cut off.
        """
        if self._staged.max_tokens is None:
            return True
        limit = min(self._staged.max_tokens, _LONGEST_TRIED_LIMIT)
        words = len(_WORDS.split())
        texts = [" ".join([_WORDS] * -(-round(times * limit) // words)) for times in _TIMES_TOO_LONG]
        one, two = self._one_pass(backend, texts, limit), self.in_two_passes(texts, limit)
        same_ids = all(np.array_equal(a, b) for a, b in zip(one.ids, two.ids, strict=True))
        return same_ids and one.dropped == two.dropped and all(two.dropped)

    def _one_pass(self, backend: Tokenizer, texts: Sequence[str], limit: int | None) -> TokenizedTexts:
        backend.no_padding()
        if limit is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(limit, strategy="longest_first", direction=self._tokenizer.truncation_side)
        added = self._tokenizer.num_special_tokens_to_add(pair=False) if self._adds_special else 0
        encoded = backend.encode_batch_fast(texts, add_special_tokens=self._adds_special)
        return TokenizedTexts(
            ids=tuple(np.asarray(row.ids, dtype=np.int32) for row in encoded),
            dropped=tuple(sum(len(piece) - added for piece in row.overflowing) for row in encoded),
        )

    def _ids(self, texts: Sequence[str], *, limit: int | None) -> list[list[int]]:
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=self._adds_special,
            truncation="longest_first" if limit is not None else False,
            max_length=limit,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])
