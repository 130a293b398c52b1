"""Rows of token ids to the tensors that a network takes. Knows torch, and a model's own `preprocess`.

The tensors are those of sentence-transformers' own `preprocess`. Only how rows are put together is soloist's: packed
without padding (see packing), or padded to a length that follows from the row alone (see batching).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from soloist.arrays import TokenIds
from soloist.encoding import packing
from soloist.encoding.tokenizer_failures import is_tokenizer_failure
from soloist.encoding.tokenizing import TOKENIZING
from soloist.errors import ModelLoadError
from soloist.models.loading import TORCH_DTYPES, StagedModel
from soloist.wording import first_line

Features = dict[str, Any]
_PADDED_FEATURES = {"input_ids", "attention_mask", "token_type_ids"}
_ONEDNN_TOKENS = 16
_STATIC_FEATURES = {"input_ids", "offsets"}


class BatchFeatures:
    """The form in which a staged model takes its rows.

    Raises:
        ModelLoadError: the model makes no features of a plain text, or asks for others than those of plain texts.
    """

    def __init__(self, staged: StagedModel) -> None:
        self._staged = staged
        self._tokenizer: Any = staged.module.tokenizer
        with TOKENIZING:
            probe = _preprocessed(staged)
        self._tensor_names = {name for name, value in probe.items() if isinstance(value, torch.Tensor)}
        self._constants = {name: value for name, value in probe.items() if name not in self._tensor_names}
        known = _STATIC_FEATURES if staged.is_static else _PADDED_FEATURES
        if not self._tensor_names <= known or self._constants.get("modality", "text") != "text":
            raise ModelLoadError(_foreign_text(staged.spec.name, self._tensor_names - known, self._constants))

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are moved to a device for each batch."""
        return tuple(sorted(self._tensor_names))

    def padded(self, rows: Sequence[TokenIds], padded_length: int) -> Features:
        """Tensors (rows, padded_length)."""
        shape = (len(rows), padded_length)
        ids = np.full(shape, self._tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        is_left = self._tokenizer.padding_side == "left" and not self._staged.counts_positions
        for index, row in enumerate(rows):
            span = slice(padded_length - len(row), padded_length) if is_left else slice(0, len(row))
            ids[index, span] = row
            mask[index, span] = 1
        features: Features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._tensor_names:
            features["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
        return {**self._constants, **features}

    def packed(self, rows: Sequence[TokenIds]) -> Features:
        """Tensors (1, tokens): the rows one behind the other."""
        features: Features = dict(packing.flat_features(rows, self._padding_index, **self._filling))
        if "token_type_ids" in self._tensor_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return {**self._constants, **features}

    def flat(self, rows: Sequence[TokenIds]) -> Features:
        """Ids (tokens) and offsets (rows), for a static model."""
        offsets = np.cumsum([0] + [len(row) for row in rows[:-1]])
        return {
            **self._constants,
            "input_ids": torch.from_numpy(np.concatenate(rows).astype(np.int64)),
            "offsets": torch.from_numpy(offsets.astype(np.int64)),
        }

    def together(self, rows: Sequence[TokenIds]) -> Features:
        """The rows in one batch as sentence-transformers has it: padded to the longest, or flat for a static model."""
        return self.flat(rows) if self._staged.is_static else self.padded(rows, max(map(len, rows)))

    @functools.cached_property
    def _filling(self) -> dict[str, int]:
        """How many tokens a batch has for oneDNN, which keeps what it compiles for each number of them."""
        if self._staged.matmul == "torch":
            return {}
        return {"fewest": packing.fewest_tokens(TORCH_DTYPES[self._staged.dtype]), "multiple": _ONEDNN_TOKENS}

    @functools.cached_property
    def _padding_index(self) -> int | None:
        return packing.padding_index(self._staged.module)


def _preprocessed(staged: StagedModel) -> Features:
    """The features of a short text; of an empty one where the tokenizer does not know its letter.

    Raises:
        ModelLoadError: there are none, e.g. because settings of the model contradict each other.
    """
    prompt = staged.document_prompt or None
    try:
        return dict(staged.module.preprocess(["a"], prompt=prompt))
    except Exception as exc:  # a tokenizer may raise anything at settings that it cannot follow
        if not is_tokenizer_failure(exc):
            raise ModelLoadError(_unprepared_text(staged.spec.name, exc)) from exc
        return dict(staged.module.preprocess([""]))


def _unprepared_text(name: str, error: Exception) -> str:
    said = first_line(error).rstrip(".")
    return (
        f"{name} cannot tokenize a plain text ({type(error).__name__}: {said}): correct its settings in "
        "sentence_bert_config.json or tokenizer_config.json"
    )


def _foreign_text(name: str, foreign: set[str], constants: Mapping[str, Any]) -> str:
    """Why a model is refused that asks for other features than those of plain texts."""
    modality = constants.get("modality", "text")
    if modality == "message":
        return f"{name} needs a chat template for its texts, and soloist applies none: choose a plain text encoder"
    what = f"it asks for {', '.join(sorted(foreign))}" if foreign else f"it reads {modality}"
    return f"{name} is not a plain text encoder ({what}): choose another model"
