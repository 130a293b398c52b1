"""Text to token ids to batches, for one staged model. Knows torch; knows nothing of shards on disk or of leases.

The parts are `tokenizing` (texts to token ids), `batching` (rows to batches), `features` (a batch to tensors) and
`forward` (tensors to vectors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from soloist.arrays import TokenIds, Vectors
from soloist.encoding.batching import RowsFor, plan_batches, plan_unpadded
from soloist.encoding.features import BatchFeatures, Features
from soloist.encoding.forward import forward
from soloist.encoding.row_forms import can_pack, padding_cosine
from soloist.encoding.tokenizing import TextTokenizer, TokenizedTexts
from soloist.encoding.trial import tried
from soloist.encoding.vocabulary import padding_text, rows_too_few
from soloist.errors import ModelLoadError
from soloist.models.loading import StagedModel
from soloist.types import Batch, Vectorless

# Two texts of different lengths: every model is tried on them, and packed rows must give the vectors of padded ones.
_PROBES = ("which of the rows is longer than the other one, and by how many tokens?", "a short row")
# Letters that few vocabularies have: a tokenizer that fails at what it does not know fails at one of them.
_RARE = "\U00013000 \ua66e \u9f98 \u2603"


class Encoder:
    """The model-specific side of encoding: tokenizing, planning batches, and putting rows together.

    A model is tried on two texts before anything is leased. With `packs`, rows are packed without padding where the
    model allows for it. Where packed rows do not have the vectors of padded ones on those texts, rows are padded.

    Raises:
        ModelLoadError: the model is not a plain text encoder, its tokenizer cannot pad, or it gives no usable vectors.
    """

    def __init__(self, staged: StagedModel, *, packs: bool = False) -> None:
        self._staged = staged
        _require_pad_token(staged)
        self._features = BatchFeatures(staged)
        self._tokenizer = TextTokenizer(staged)
        self._table_rows = rows_too_few(staged.module, staged.module.tokenizer)
        _require_pad_row(staged, self._table_rows)
        self.tokenize([_RARE])
        self._packs, self._padding_cosine = False, None
        rows = self.tokenize(_PROBES).ids
        vectors = _tried_together(staged, self._features, rows) if all(map(len, rows)) else None
        if vectors is not None:
            self._packs = packs and not staged.is_static and can_pack(staged, self._features, rows, vectors)
            self._padding_cosine = None if self._packs else padding_cosine(staged, self._features, rows, vectors)

    @property
    def packs(self) -> bool:
        """Whether rows are packed without padding."""
        return self._packs

    @property
    def padding_cosine(self) -> float | None:
        """How near a text's vector is to the one that it has beside a longer row; None where only rounding differs."""
        return self._padding_cosine

    @property
    def failure(self) -> str | None:
        """The tokenizer's message where it has failed at a text; None where it has read all texts."""
        return self._tokenizer.failure

    @property
    def has_tokens_without_rows(self) -> bool:
        """Whether the tokenizer has tokens for which the network has no vector."""
        return self._table_rows is not None

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors that are moved to a device for each batch."""
        return self._features.names

    @property
    def has_grouped_heads(self) -> bool:
        """Whether the model's attention shares key and value heads among query heads."""
        return any(getattr(part, "num_key_value_groups", 1) > 1 for part in self._staged.module.modules())

    @property
    def staged(self) -> StagedModel:
        """The model that this encodes for."""
        return self._staged

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of documents, with the document prompt before each text."""
        return self._tokenizer.tokenize(texts)

    def vectorless(self, tokenized: TokenizedTexts) -> dict[int, Vectorless]:
        """Why the model has no vector for some of the rows, as far as their tokens show."""
        reasons: dict[int, Vectorless] = {
            row: "no tokens" for row, length in enumerate(tokenized.lengths) if not length
        }
        if self._table_rows is not None:
            for row, ids in enumerate(tokenized.ids):
                if len(ids) and ids.max() >= self._table_rows:
                    reasons[row] = "token without a vector"
        return reasons

    def plan(
        self, tokenized: TokenizedTexts, rows_for: RowsFor, fills: Callable[[int], bool] = lambda padded_length: False
    ) -> tuple[Batch, ...]:
        """The batches of a shard: a pure function of its token lengths and the limits (see `plan_batches`)."""
        return self.plan_lengths(tokenized.lengths, rows_for, fills)

    def plan_lengths(
        self, lengths: Sequence[int], rows_for: RowsFor, fills: Callable[[int], bool] = lambda padded_length: False
    ) -> tuple[Batch, ...]:
        """As `plan`, for texts of which only the token lengths are known."""
        if self._staged.is_static:
            return plan_unpadded(lengths, rows_for)
        if self.packs:  # a row without tokens has no place in a packed batch, and no vector anywhere
            planned = plan_unpadded(lengths, rows_for, longest_first=True)
            full = [replace(batch, rows=tuple(r for r in batch.rows if lengths[r])) for batch in planned]
            return tuple(batch for batch in full if batch.rows)
        return plan_batches(lengths, rows_for, self._staged.max_tokens, fills)

    def computed_tokens(self, lengths: Sequence[int], batches: Sequence[Batch]) -> int:
        """The tokens that devices compute for rows of these lengths in these batches. Padding counts."""
        if self._staged.is_static or self.packs:
            return sum(lengths)
        return sum(batch.padded_tokens for batch in batches)

    def pads(self, lengths: Sequence[int], batch: Batch) -> bool:
        """Whether a row of a batch is padded, so that the network has a mask. `lengths` are those of all rows."""
        if self._staged.is_static or self.packs:
            return False
        return any(lengths[row] < batch.padded_length for row in batch.rows)

    def collate(self, tokenized: TokenizedTexts, batch: Batch) -> Features:
        """The CPU tensors of a batch: flat for a static model, packed or padded for others (see `BatchFeatures`)."""
        rows = [tokenized.ids[row] for row in batch.rows]
        if self._staged.is_static:
            return self._features.flat(rows)
        return self._features.packed(rows) if self._packs else self._features.padded(rows, batch.padded_length)


def _tried_together(staged: StagedModel, features: BatchFeatures, rows: Sequence[TokenIds]) -> Vectors | None:
    """The vectors of the rows in one batch; None where only float32 gives usable ones.

    Raises:
        ModelLoadError: the model gives no usable vectors.
    """
    return tried(staged, lambda module: forward(module, features.together(rows), "cpu")[: len(rows)])


def _require_pad_token(staged: StagedModel) -> None:
    if not staged.is_static and getattr(staged.module.tokenizer, "pad_token_id", 0) is None:
        raise ModelLoadError(
            f"{staged.spec.name} has a tokenizer without a pad token: set pad_token in its tokenizer_config.json"
        )


def _require_pad_row(staged: StagedModel, table_rows: int | None) -> None:
    """Refuse a model whose pad token is not among the tokens of its table."""
    if table_rows is None or staged.is_static:
        return
    tokenizer = staged.module.tokenizer
    if tokenizer.pad_token_id >= table_rows:
        raise ModelLoadError(padding_text(staged.spec.name, tokenizer.pad_token, table_rows))
