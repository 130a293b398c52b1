"""Texts for which a model has no vector, found on the host before any device computes them.

Most models have tokens for every text: special tokens, a prompt, or a token for each byte. For other models the texts
are tokenized beforehand. A static model's vectors are computed too, which costs less than its tokens: a row of its
table may be zero, and rows may cancel each other out. Knows encoders; knows nothing of shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers

from soloist.arrays import Vectors
from soloist.encoding.batching import within
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.types import Batch, Vectorless

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BATCH_TOKENS = 1 << 16
# Steps that leave something of every text that is not empty.
_KEEPING_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
_KEEPING_SPLITS = {"ByteLevel", "Digits", "Split"}


def may_lack_vectors(encoder: Encoder) -> bool:
    """Whether there may be texts for which the model has no vector, as far as that shows without a device."""
    if encoder.staged.is_static or encoder.has_tokens_without_rows or encoder.failure is not None:
        return True
    has_tokens_of_its_own = encoder.tokenize([""]).lengths != [0]
    return not has_tokens_of_its_own and not _has_a_token_for_each_byte(encoder.staged.module.tokenizer)


class Look:
    """Finds the texts for which a model has no vector."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._in_float32: SentenceTransformer | None = None

    def at(self, texts: Sequence[str]) -> dict[int, Vectorless]:
        """Why the model has no vector for some of the texts, by their index."""
        tokenized = self._encoder.tokenize(texts)
        reasons = self._encoder.vectorless(tokenized)
        if self._encoder.staged.is_static:
            reasons |= self._without_a_norm(tokenized, reasons)
        return dict(sorted(reasons.items()))

    def _without_a_norm(self, tokenized: TokenizedTexts, lacking: Mapping[int, Vectorless]) -> dict[int, Vectorless]:
        """Why other rows have no vector: theirs is zero or not finite, in float32 too."""
        reasons: dict[int, Vectorless] = {}
        for batch in self._encoder.plan(tokenized, within(_BATCH_TOKENS)):
            rows = [row for row in batch.rows if row not in lacking]
            bad = [rows[at] for at in unit_rows(self._vectors(self._encoder.staged.module, tokenized, rows))[1]]
            vectors = self._vectors(self._float32(), tokenized, bad) if bad else np.empty((0, 1), np.float32)
            for at in unit_rows(vectors)[1]:
                reasons[bad[at]] = "zero vector" if not vectors[at].any() else "NaN or infinity"
        return reasons

    def _vectors(self, module: SentenceTransformer, tokenized: TokenizedTexts, rows: Sequence[int]) -> Vectors:
        if not rows:
            return np.empty((0, 1), np.float32)
        features = self._encoder.collate(tokenized, Batch(rows=tuple(rows), padded_length=1))
        return forward(module, features, "cpu")[: len(rows)]

    def _float32(self) -> SentenceTransformer:
        if self._in_float32 is None:
            self._in_float32 = replicate(self._encoder.staged.module, "cpu", torch.float32)
        return self._in_float32


def _has_a_token_for_each_byte(tokenizer: Any) -> bool:
    """Whether this is a byte-level BPE with a token for every byte, as in GPT-2, Qwen and Llama 3."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return False
    content = json.loads(backend.to_str())
    splits = _steps(content["pre_tokenizer"], "pretokenizers")
    return (
        content["model"]["type"] == "BPE"
        and set(pre_tokenizers.ByteLevel.alphabet()) <= content["model"]["vocab"].keys()
        and all(step["type"] in _KEEPING_NORMALIZERS for step in _steps(content["normalizer"], "normalizers"))
        and any(step["type"] == "ByteLevel" for step in splits)
        and all(step["type"] in _KEEPING_SPLITS and step.get("behavior") != "Removed" for step in splits)
    )


def _steps(part: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, those of a sequence one by one."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for member in part[inner] for step in _steps(member, inner)]
    return [part]
