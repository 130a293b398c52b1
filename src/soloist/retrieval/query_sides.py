"""A model for questions or for documents: texts in, rows out. Knows models and encoders; nothing of where vectors lie.

The bits of a text's vector follow from the text alone: not from the texts of the same call, not from what other threads
ask. So a batch is computed on one core, products have enough rows, and rows are joined only where they keep their bits.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from soloist.encoding.batching import within
from soloist.encoding.copies import twin
from soloist.encoding.core_threads import core_threads
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.encoding.found_rows import FoundRows, MemberRows, found_rows_of, tokens_of_words
from soloist.encoding.packing import FEWEST, uses_amx
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import EncodingError
from soloist.models.differences import require_files
from soloist.models.files_here import contents_of
from soloist.models.loading import TORCH_DTYPES, StagedModel, stage
from soloist.models.spec import ModelSpec
from soloist.retrieval.other_models import require_same
from soloist.retrieval.query_checks import Role
from soloist.retrieval.run_record import ModelRecord
from soloist.types import Batch
from soloist.wording import count_text
from soloist.workers import interruptible

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["MemberRows", "Side", "loaded"]

# Tokens of a batch: the most, and so many at least where texts are spread over cores.
_BATCH_TOKENS = 2_048
_FEWEST_TOKENS = 256


def loaded(record: ModelRecord, find: Callable[[ModelRecord], ModelSpec]) -> StagedModel:
    """The model of a run, as `find` finds it on this machine.

    Raises:
        ConfigError: it is not the one that made the run.
        ModelLoadError: it cannot be loaded.
    """
    spec = find(record)
    spec = dataclasses.replace(spec, revision=record.revision or spec.revision)
    staged = interruptible(functools.partial(_staged, spec, record))  # it may be downloaded
    require_same(record, staged)
    return dataclasses.replace(staged, query_prompt=record.query_prompt)


def _staged(spec: ModelSpec, record: ModelRecord) -> StagedModel:
    """The model, once its files are known to be the run's: at another file the load may fail in any way."""
    if record.files:
        location, files = contents_of(spec)
        require_files(record.name, record.files, files, record.revision, location.revision)
    return stage(spec, record.dtype)


class Side:
    """A model for the texts of a role: its encoder, and a module tree for each thread that computes with it."""

    def __init__(self, staged: StagedModel, role: Role) -> None:
        asking = staged.for_queries() if role == "query" else staged
        # In a thread as it computes later: it is tried there whether rows keep their bits beside others.
        self._encoder = core_threads().all([lambda _: Encoder(asking, packs=True)])[0]
        self._role = role
        self._modules = {0: asking.module}
        self._adding = threading.Lock()

    def tokenized(self, texts: Sequence[str]) -> TokenizedTexts:
        """The texts as the model reads them."""
        return self._encoder.tokenize(texts)

    def encoded(self, texts: Sequence[str], notice: Callable[[str], object]) -> MemberRows:
        """The rows of texts, in order. `notice` is told which were cut.

        Raises:
            EncodingError: a text has no vector.
        """
        encoder = self._encoder
        staged, tokenized = encoder.staged, encoder.tokenize(texts)
        for text, dropped in zip(texts, tokenized.dropped, strict=True):
            if dropped:
                notice(self._cut_notice(text, dropped))
        for row, reason in encoder.vectorless(tokenized).items():
            if staged.kind == "dense" or reason != "no tokens":
                raise self._no_vector(texts[row])
        found = found_rows_of(staged, len(texts))
        batches = encoder.plan(tokenized, within(self._most_tokens(sum(tokenized.lengths))))
        core_threads().all([functools.partial(self._compute, tokenized, batch, found) for batch in batches])
        for row in found.unusable():
            raise self._no_vector(texts[row])
        return found.finished((), None)

    def _compute(self, tokenized: TokenizedTexts, batch: Batch, found: FoundRows, thread: int) -> None:
        filled = self._filled(batch)
        computed = forward(self._module(thread), self._encoder.collate(tokenized, filled), "cpu")
        found.put(batch.rows, computed[: len(batch.rows)])

    def _filled(self, batch: Batch) -> Batch:
        """The batch with enough tokens for its products (see `packing.FEWEST`): padded rows come again."""
        if self._encoder.packs or self._encoder.staged.is_static:
            return batch
        missing = -(-FEWEST // max(1, batch.padded_length)) - len(batch.rows)
        return dataclasses.replace(batch, rows=batch.rows + batch.rows[:1] * missing) if missing > 0 else batch

    def _module(self, thread: int) -> SentenceTransformer:
        with self._adding:
            if thread not in self._modules:
                self._modules[thread] = twin(self._modules[0])
            return self._modules[thread]

    def _most_tokens(self, tokens: int) -> int:
        """The tokens of a batch, where there are so many in all: none where a text has to be alone."""
        staged, threads = self._encoder.staged, core_threads().count
        if not _joins(staged):
            return 0
        most = min(_BATCH_TOKENS, max(_FEWEST_TOKENS, -(-tokens // threads)))
        return min(most, tokens_of_words(staged.dim) // threads) if staged.predicts_words else most

    def _cut_notice(self, text: str, dropped: int) -> str:
        were = "was" if dropped == 1 else "were"
        return (
            f"{self._encoder.staged.spec.name} reads {self._encoder.staged.max_tokens} tokens of a {self._role}: "
            f"{count_text(dropped, 'token')} of {text[:40]!r} {were} cut off"
        )

    def _no_vector(self, text: str) -> EncodingError:
        return EncodingError(
            f"{self._encoder.staged.spec.name} makes no vector of the {self._role} {text[:40]!r}: use other words, or "
            "another model"
        )


def _joins(staged: StagedModel) -> bool:
    """Whether texts may share a batch. Not where the size of a product says which kernel of the host computes it:
    in float16, and in bfloat16 on the matrix units of Intel (see `packing.FEWEST`).
    """
    if staged.is_static and not any(next(part.parameters(), None) is not None for part in list(staged.module)[1:]):
        return True
    return staged.dtype == "float32" or (staged.dtype == "bfloat16" and not uses_amx(TORCH_DTYPES[staged.dtype]))
