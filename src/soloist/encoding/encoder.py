"""Text to token ids to vectors, for one staged model. Knows torch; knows nothing of shards on disk or of leases.

The features that a model gets are those of sentence-transformers' own `preprocess`; only how rows are put together is
ours: packed without padding (see packing) or padded to a length that follows from the row alone (see batching).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch.overrides import TorchFunctionMode

from soloist.arrays import Vectors
from soloist.encoding import packing
from soloist.encoding.batching import RowsFor, plan_batches, plan_unpadded, slices
from soloist.encoding.trial import foreign_features_text, tried
from soloist.encoding.vocabulary import padding_text, rows_too_few
from soloist.errors import ModelLoadError
from soloist.models.loading import StagedModel
from soloist.types import Batch, Vectorless

Features = dict[str, Any]
# Two texts of other lengths: every model is tried on them, and packed rows must give the vectors of padded ones.
_PROBES = ("which of the rows is longer than the other one, and by how many tokens?", "a short row")
# Letters that few vocabularies have: a tokenizer that fails at what it does not know fails at one of them.
_RARE = "\U00013000 \ua66e \u9f98 \u2603"
# Longer than a limit by these factors, so that a tokenizer cuts off one piece, a few, and the last of them a short one.
_TIMES_TOO_LONG = (1.2, 3.5, 6)
_LONGEST_TRIED_LIMIT = 512  # tokens; a higher limit would only take longer to try
_NEAR_ENOUGH = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}  # 1 - cosine
_PADDED_FEATURES = {"input_ids", "attention_mask", "token_type_ids"}
# A Rust tokenizer's truncation is a setting of the object, and models that share weights share that object. One
# lock for all of them: a tokenizer has threads of its own, so two at a time would gain nothing.
_tokenizing = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedTexts:
    """The token ids of some texts: prompt and special tokens included, cut at the model's limit.

    `dropped` is the number of tokens that the limit cost each row.
    """

    ids: tuple[NDArray[np.int32], ...]
    dropped: tuple[int, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, padding excluded."""
        return [len(row) for row in self.ids]


class Encoder:
    """The model-specific side of encoding: tokenizing, putting rows together, and one forward pass.

    A model is tried on two texts before anything is leased. With `packs`, rows are packed without padding where the
    model allows for it: what does not give the vectors of padded rows on those texts is padded.

    Raises:
        ModelLoadError: the model is not a plain text encoder, its tokenizer cannot pad, or it gives no usable vectors.
    """

    def __init__(self, staged: StagedModel, *, packs: bool = False) -> None:
        self._staged = staged
        self._tokenizer: Any = staged.module.tokenizer
        if not staged.is_static and getattr(self._tokenizer, "pad_token_id", 0) is None:
            raise ModelLoadError(
                f"{staged.spec.name} has a tokenizer without a pad token: set pad_token in its tokenizer_config.json"
            )
        # Of a fast tokenizer: its Rust part. A static model's tokenizer is one itself, and adds no special tokens.
        self._backend: Tokenizer | None = None if staged.is_static else getattr(self._tokenizer, "_tokenizer", None)
        self._failure: str | None = None
        with _tokenizing:
            probe = _preprocessed(staged)
            if self._backend is not None and not self._tells_what_it_cuts(self._backend):
                self._backend = None
        self._tensor_names = {name for name, value in probe.items() if isinstance(value, torch.Tensor)}
        self._constants = {name: value for name, value in probe.items() if name not in self._tensor_names}
        known = {"input_ids", "offsets"} if staged.is_static else _PADDED_FEATURES
        if not self._tensor_names <= known or self._constants.get("modality", "text") != "text":
            raise ModelLoadError(foreign_features_text(staged.spec.name, self._tensor_names - known, self._constants))
        self._padding_index: int | None = None
        self._rows = rows_too_few(staged.module, self._tokenizer)
        if self._rows is not None and not staged.is_static and self._tokenizer.pad_token_id >= self._rows:
            raise ModelLoadError(padding_text(staged.spec.name, self._tokenizer.pad_token, self._rows))
        self.tokenize([_RARE])
        rows = self.tokenize(_PROBES).ids
        padded = tried(staged, lambda module: self._together(module, rows)) if all(map(len, rows)) else None
        self._packs = packs and not staged.is_static and padded is not None and self._can_pack(rows, padded)
        self._padding_cosine = 1.0 if padded is None or self._packs else self._alone_to_together(rows, padded)

    @property
    def packs(self) -> bool:
        """Whether rows are packed without padding."""
        return self._packs

    @property
    def padding_cosine(self) -> float | None:
        """How near a text's vector is to that of the same text in a longer row; None where it is the same but for
        rounding.
        """
        return self._padding_cosine if self._padding_cosine < 1 - _NEAR_ENOUGH[self._staged.dtype] else None

    @property
    def failure(self) -> str | None:
        """What the tokenizer says where it has failed at a text; None where it has read all of them."""
        return self._failure

    @property
    def has_tokens_without_rows(self) -> bool:
        """Whether the tokenizer has tokens for which the network has no vector."""
        return self._rows is not None

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors that are moved to a device for each batch."""
        return tuple(sorted(self._tensor_names))

    @property
    def has_grouped_heads(self) -> bool:
        """Whether the model's attention shares key and value heads among query heads."""
        return any(getattr(part, "num_key_value_groups", 1) > 1 for part in self._staged.module.modules())

    @property
    def staged(self) -> StagedModel:
        """The model that this encodes for."""
        return self._staged

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of documents, with the document prompt before each text.

        A few megabytes of text at a time: what a tokenizer says of a text takes hundreds of times its size.
        """
        return _joined([self._tokenize(some) for some in slices(texts)])  # some tokenizers cannot take no texts

    def vectorless(self, tokenized: TokenizedTexts) -> dict[int, Vectorless]:
        """Why the model has no vector for some of the rows, as far as their tokens show."""
        found: dict[int, Vectorless] = {row: "no tokens" for row, length in enumerate(tokenized.lengths) if not length}
        if self._rows is not None:
            for row, ids in enumerate(tokenized.ids):
                if len(ids) and ids.max() >= self._rows:
                    found[row] = "token without a vector"
        return found

    def plan(
        self, tokenized: TokenizedTexts, rows_for: RowsFor, fills: Callable[[int], bool] = lambda padded_length: False
    ) -> tuple[Batch, ...]:
        """The batches of a shard: a pure function of its token lengths and the limits (see `plan_batches`)."""
        if self._staged.is_static:
            return plan_unpadded(tokenized.lengths, rows_for)
        if self.packs:  # a row of no tokens has no place there, nor a vector anywhere
            planned = plan_unpadded(tokenized.lengths, rows_for, longest_first=True)
            full = [replace(batch, rows=tuple(r for r in batch.rows if tokenized.lengths[r])) for batch in planned]
            return tuple(batch for batch in full if batch.rows)
        return plan_batches(tokenized.lengths, rows_for, self._staged.max_tokens, fills)

    def computed_tokens(self, tokenized: TokenizedTexts, batches: Sequence[Batch]) -> int:
        """The tokens that devices compute for these batches: padding included, where rows are padded."""
        if self._staged.is_static or self.packs:
            return sum(tokenized.lengths)
        return sum(batch.padded_tokens for batch in batches)

    def collate(self, tokenized: TokenizedTexts, batch: Batch) -> Features:
        """The CPU tensors of a batch: (rows, padded_length) each, (1, tokens) where rows are packed, flat ids and
        offsets for a static model.
        """
        rows = [tokenized.ids[row] for row in batch.rows]
        if self._staged.is_static:
            return {**self._constants, **self._flat(rows)}
        if self._packs:
            return {**self._constants, **self._packed(rows)}
        return {**self._constants, **self._padded(rows, batch.padded_length)}

    def _together(self, module: SentenceTransformer, rows: Sequence[NDArray[np.int32]]) -> Vectors:
        made = self._flat(rows) if self._staged.is_static else self._padded(rows, max(map(len, rows)))
        return forward(module, {**self._constants, **made}, "cpu")[: len(rows)]

    def _alone_to_together(self, rows: Sequence[NDArray[np.int32]], together: Vectors) -> float:
        """The cosine between the vectors that the shortest row has alone and among longer rows."""
        if self._staged.is_static:
            return 1.0
        shortest = min(range(len(rows)), key=lambda row: len(rows[row]))
        alone = self._together(self._staged.module, [rows[shortest]])
        return float(unit_rows(alone)[0][0] @ unit_rows(together)[0][shortest])

    def _can_pack(self, rows: Sequence[NDArray[np.int32]], padded: Vectors) -> bool:
        """Whether packed rows have the vectors of padded ones, and the same bits whatever lies beside them."""
        module = self._staged.module
        if not packing.prepare(module):
            return False
        self._padding_index = packing.padding_index(module)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a lane has it: with more a product is cut where its size says
        try:
            together = self._try_packed(rows)
            alone = np.concatenate([self._try_packed([row]) for row in rows])
        except Exception:  # whatever a network says to features of another form: padded ones are tried next
            return False
        finally:
            torch.set_num_threads(threads)
        cosines = np.einsum("ij,ij->i", unit_rows(together)[0], unit_rows(padded)[0])
        near = cosines.min() >= 1 - _NEAR_ENOUGH[self._staged.dtype]
        return bool(near) and np.array_equal(together, alone)

    def _try_packed(self, rows: Sequence[NDArray[np.int32]]) -> Vectors:
        features = {**self._constants, **self._packed(rows)}
        return forward(self._staged.module, features, "cpu")[: len(rows)]

    def _tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """The tokens of some texts; none of those at which the tokenizer fails."""
        try:
            return self._of_a_batch(texts)
        except Exception as exc:
            if type(exc) is not Exception:  # the class that the Rust side raises has no name of its own
                raise
            self._failure = str(exc)
        if len(texts) == 1:
            return TokenizedTexts(ids=(np.empty(0, np.int32),), dropped=(0,))
        middle = len(texts) // 2
        return _joined([self._tokenize(texts[:middle]), self._tokenize(texts[middle:])])

    def _of_a_batch(self, texts: Sequence[str]) -> TokenizedTexts:
        prompted = [self._staged.document_prompt + text for text in texts]
        with _tokenizing:
            if self._backend is not None:
                return self._in_one_pass(self._backend, prompted, self._staged.max_tokens)
            return self._in_two_passes(prompted, self._staged.max_tokens)

    def _tells_what_it_cuts(self, backend: Tokenizer) -> bool:
        """Whether one pass finds what two find, tried on texts that are too long: tokenizers 0.23.1 and 0.23.2 give
        only some of the pieces that they cut off.
        """
        if self._staged.max_tokens is None:
            return True
        limit = min(self._staged.max_tokens, _LONGEST_TRIED_LIMIT)
        words = len(_PROBES[0].split())  # a token each, at the least
        texts = [" ".join([_PROBES[0]] * -(-round(times * limit) // words)) for times in _TIMES_TOO_LONG]
        one, two = self._in_one_pass(backend, texts, limit), self._in_two_passes(texts, limit)
        same_ids = all(np.array_equal(a, b) for a, b in zip(one.ids, two.ids, strict=True))
        return same_ids and one.dropped == two.dropped and all(two.dropped)

    def _in_one_pass(self, backend: Tokenizer, texts: Sequence[str], limit: int | None) -> TokenizedTexts:
        """What the limit cuts off comes along, in pieces that have special tokens of their own."""
        backend.no_padding()
        if limit is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(limit, strategy="longest_first", direction=self._tokenizer.truncation_side)
        added = self._tokenizer.num_special_tokens_to_add(pair=False)
        encoded = backend.encode_batch_fast(texts)
        return TokenizedTexts(
            ids=tuple(np.asarray(row.ids, dtype=np.int32) for row in encoded),
            dropped=tuple(sum(len(piece) - added for piece in row.overflowing) for row in encoded),
        )

    def _in_two_passes(self, texts: Sequence[str], limit: int | None) -> TokenizedTexts:
        """All texts whole, and too long ones a second time: for tokenizers that do not say what they cut off."""
        whole = self._ids(texts, limit=None)
        long = [row for row, ids in enumerate(whole) if limit is not None and len(ids) > limit]
        cut = dict(zip(long, self._ids([texts[row] for row in long], limit=limit), strict=True)) if long else {}
        return TokenizedTexts(
            ids=tuple(np.asarray(cut.get(row, ids), dtype=np.int32) for row, ids in enumerate(whole)),
            dropped=tuple(len(ids) - len(cut[row]) if row in cut else 0 for row, ids in enumerate(whole)),
        )

    def _ids(self, texts: Sequence[str], *, limit: int | None) -> list[list[int]]:
        if self._staged.is_static:
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
            kept = slice(-limit, None) if limit and self._staged.keeps_end else slice(limit)
            return [row.ids[kept] for row in encoded]
        encoded = self._tokenizer(
            list(texts),
            truncation="longest_first" if limit is not None else False,
            max_length=limit,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])

    def _padded(self, rows: Sequence[NDArray[np.int32]], padded_length: int) -> Features:
        shape = (len(rows), padded_length)
        ids = np.full(shape, self._tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        left = self._tokenizer.padding_side == "left" and not self._staged.counts_places
        for index, row in enumerate(rows):
            span = slice(padded_length - len(row), padded_length) if left else slice(0, len(row))
            ids[index, span] = row
            mask[index, span] = 1
        features: Features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._tensor_names:
            features["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
        return features

    def _packed(self, rows: Sequence[NDArray[np.int32]]) -> Features:
        features: Features = dict(packing.flat_features(rows, self._padding_index))
        if "token_type_ids" in self._tensor_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return features

    def _flat(self, rows: Sequence[NDArray[np.int32]]) -> Features:
        offsets = np.cumsum([0] + [len(row) for row in rows[:-1]])
        return {
            "input_ids": torch.from_numpy(np.concatenate(rows).astype(np.int64)),
            "offsets": torch.from_numpy(offsets.astype(np.int64)),
        }


def _preprocessed(staged: StagedModel) -> Features:
    """The features of a short text; of an empty one where the tokenizer does not know its letter."""
    prompt = staged.document_prompt or None
    try:
        return dict(staged.module.preprocess(["a"], prompt=prompt))
    except Exception as exc:
        if type(exc) is not Exception:
            raise
        return dict(staged.module.preprocess([""]))


def _joined(parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
    return TokenizedTexts(
        ids=tuple(row for part in parts for row in part.ids),
        dropped=tuple(count for part in parts for count in part.dropped),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Computed:
    """The vectors of a batch, which a CUDA device may still be computing."""

    host: torch.Tensor
    copied: torch.cuda.Event | None

    def rows(self) -> Vectors:
        """(rows, dim) float32 in host memory, once they are there.

        Raises:
            RuntimeError: the device failed at them.
        """
        if self.copied is not None:
            self.copied.synchronize()
        return self.host.numpy()


def forward(
    module: SentenceTransformer, features: Features, device: str, *, attention: TorchFunctionMode | None = None
) -> Vectors:
    """One forward pass on `device`; (rows, dim) float32 in host memory, not yet normalised, and perhaps more rows
    behind those of the batch (see `flat_features`).
    """
    return begin(module, features, device, attention=attention).rows()


def begin(
    module: SentenceTransformer, features: Features, device: str, *, attention: TorchFunctionMode | None = None
) -> Computed:
    """`forward`, which on CUDA does not wait for the device: what it is given and what it gives are copied while the
    host goes on.

    `attention` is what attention calls go through on the way to the device (see `ExpandGroupedHeads`).
    """
    with torch.inference_mode(), attention or contextlib.nullcontext(), packing.apart(features):
        moved = {
            name: _moved(value, device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        return _fetched(_through(module, moved).float())


def _through(module: SentenceTransformer, features: Features) -> torch.Tensor:
    """The vectors of a batch; where modules behind the pooling multiply, of enough rows for their products too.

    Those work a row at a time, as the network works a token at a time, and fewer rows than `packing.FEWEST` would go
    through another kernel of the matrix library: the first row comes again behind the others.
    """
    parts = list(module)
    pooled = next((index for index, part in enumerate(parts) if isinstance(part, Pooling)), len(parts))
    if not any(True for part in parts[pooled + 1 :] for _ in part.parameters()):
        vectors: torch.Tensor = module(features)["sentence_embedding"]
        return vectors[:, : module.truncate_dim]
    for index, part in enumerate(parts):
        features = part(features)
        if index == pooled:
            rows = features["sentence_embedding"]
            more = rows[:1].expand(max(0, packing.FEWEST - len(rows)), -1)
            features["sentence_embedding"] = torch.cat([rows, more])
    last: torch.Tensor = features["sentence_embedding"]
    return last[:, : module.truncate_dim]


def _moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # from other memory a copy is no copy beside


def _fetched(vectors: torch.Tensor) -> Computed:
    if not vectors.is_cuda:
        return Computed(host=vectors.cpu(), copied=None)
    host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    return Computed(host=host, copied=copied)


def unit_rows(vectors: Vectors) -> tuple[Vectors, list[int]]:
    """The rows scaled to norm 1, and the indices of those that cannot be: NaN, infinite or zero."""
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0)).tolist()
        units = (vectors / norms[:, None]).astype(np.float32)
    return units, bad
