"""Questions with chunks to token ids to batches, for one cross-encoder. Knows torch; knows nothing of devices.

Pairs become tokens by sentence-transformers' own `preprocess`: its prompt, its template, its way to cut long pairs.
Only how rows are put together is soloist's: padded to a length that follows from the row alone (see batching).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from soloist.arrays import TokenIds
from soloist.encoding.batching import RowsFor, plan_batches, slices
from soloist.encoding.features import Features
from soloist.encoding.tokenizing import TOKENIZING, TokenizedTexts
from soloist.errors import EncodingError, ModelLoadError
from soloist.models.loading import StagedModel
from soloist.types import Batch
from soloist.wording import first_line

Pair = tuple[str, str]

_NEEDED = {"input_ids", "attention_mask"}
_KNOWN = {*_NEEDED, "token_type_ids"}
_PROBE: tuple[Pair, ...] = (("which of the rows is longer?", "a row, and another row behind it"), ("a row", "a text"))
_AT_ONCE = 256  # pairs that are padded to the longest of them while they become tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedPairs(TokenizedTexts):
    """The token ids of pairs, and the type of each token: 0 in a question, 1 in a chunk, for models that ask for it.

    `dropped` is 1 for a pair that the limit cut.
    """

    types: tuple[TokenIds, ...]


class PairEncoder:
    """The model-specific side of scoring pairs: tokenizing, planning batches, and putting rows together.

    Raises:
        ModelLoadError: the model makes no features of a pair of texts, or asks for others than those of plain texts.
    """

    def __init__(self, staged: StagedModel) -> None:
        self._staged = staged
        self._tokenizer: Any = staged.module.tokenizer
        probe = self._probed()
        self._tensor_names = {name for name, value in probe.items() if isinstance(value, torch.Tensor)}
        self._constants = {name: value for name, value in probe.items() if name not in self._tensor_names}
        if not _NEEDED <= self._tensor_names <= _KNOWN:
            foreign = sorted(self._tensor_names - _KNOWN)
            what = f"asks for {', '.join(foreign)}" if foreign else "has no mask of its tokens"
            raise ModelLoadError(
                f"{staged.spec.name} cannot rerank, because it does not read a pair as plain text (it {what}): choose "
                "another cross-encoder"
            )
        self._pads_left = _pads_left(probe["attention_mask"], self._tokenizer)

    @property
    def staged(self) -> StagedModel:
        """The model that this encodes for."""
        return self._staged

    @property
    def has_grouped_heads(self) -> bool:
        """Whether the model's attention shares key and value heads among query heads."""
        return any(getattr(part, "num_key_value_groups", 1) > 1 for part in self._staged.module.modules())

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors that are moved to a device for each batch."""
        return tuple(sorted(self._tensor_names))

    def tokenize(self, pairs: Sequence[Pair]) -> TokenizedPairs:
        """Token ids of a question with a chunk, prompt, template and special tokens included, cut at the limit."""
        ids: list[TokenIds] = []
        types: list[TokenIds] = []
        dropped: list[int] = []
        for start in range(0, len(pairs), _AT_ONCE):
            for some in _of_bounded_size(pairs[start : start + _AT_ONCE]):
                features = self._preprocessed(some)
                mask = features["attention_mask"].bool()
                ids += _rows(features["input_ids"], mask)
                types += _rows(features.get("token_type_ids", torch.zeros_like(features["input_ids"])), mask)
                dropped += _cut(features, len(some))
        return TokenizedPairs(ids=tuple(ids), types=tuple(types), dropped=tuple(dropped))

    def plan_lengths(self, lengths: Sequence[int], rows_for: RowsFor) -> tuple[Batch, ...]:
        """The batches of pairs of these token lengths, the largest first (see `plan_batches`).

        Padding on the left would shift positions that the network counts, so such rows are not padded at all.
        """
        if not (self._pads_left and self._staged.counts_positions):
            return plan_batches(lengths, rows_for, self._staged.max_tokens)
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            by_length.setdefault(length, []).append(row)
        return tuple(
            Batch(rows=tuple(rows[start : start + rows_for(length)]), padded_length=length)
            for length, rows in sorted(by_length.items(), reverse=True)
            for start in range(0, len(rows), rows_for(length))
        )

    def collate(self, tokenized: TokenizedTexts, batch: Batch) -> Features:
        """The CPU tensors of a batch, (rows, padded length)."""
        assert isinstance(tokenized, TokenizedPairs)
        shape = (len(batch.rows), batch.padded_length)
        ids = np.full(shape, self._padding_id, dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.full(shape, self._padding_type, dtype=np.int64)
        for index, row in enumerate(batch.rows):
            length = len(tokenized.ids[row])
            span = slice(batch.padded_length - length, None) if self._pads_left else slice(0, length)
            ids[index, span], types[index, span], mask[index, span] = tokenized.ids[row], tokenized.types[row], 1
        features: Features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._tensor_names:
            features["token_type_ids"] = torch.from_numpy(types)
        return {**self._constants, **features}

    @property
    def _padding_id(self) -> int:
        found = getattr(self._tokenizer, "pad_token_id", None)
        return 0 if found is None else int(found)

    @property
    def _padding_type(self) -> int:
        return int(getattr(self._tokenizer, "pad_token_type_id", 0) or 0)

    def _probed(self) -> Features:
        try:
            features: Features = self._preprocessed(_PROBE)
            return features
        except EncodingError as exc:
            raise ModelLoadError(f"{exc}: correct its settings in tokenizer_config.json or config.json") from exc

    def _preprocessed(self, pairs: Sequence[Pair]) -> Any:
        try:
            with TOKENIZING:
                return self._staged.module.preprocess(list(pairs), prompt=self._staged.document_prompt or None)
        except Exception as exc:  # a tokenizer or a template may raise anything
            said = first_line(exc).rstrip(".")
            raise EncodingError(
                f"{self._staged.spec.name} cannot read a question with a chunk ({type(exc).__name__}: {said})"
            ) from exc


def _of_bounded_size(pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
    """The pairs in order, in parts with a few megabytes of text each."""
    parts, start = [], 0
    for some in slices([question + text for question, text in pairs]):
        parts.append(pairs[start : start + len(some)])
        start += len(some)
    return parts


def _rows(values: torch.Tensor, mask: torch.Tensor) -> list[TokenIds]:
    """The values of each row that are not padding."""
    return [row[kept].numpy().astype(np.int32) for row, kept in zip(values, mask, strict=True)]


def _cut(features: Any, rows: int) -> list[int]:
    """1 for each pair that the limit cut, as far as the tokenizer says so."""
    encodings = getattr(features, "encodings", None) or []
    return [int(bool(encoding.overflowing)) for encoding in encodings] or [0] * rows


def _pads_left(mask: torch.Tensor, tokenizer: Any) -> bool:
    """Whether rows are filled up on the left: as two rows of different lengths are, or as the tokenizer says."""
    if bool(mask.all()):
        return getattr(tokenizer, "padding_side", "right") == "left"
    return not bool(mask[:, 0].all())
