"""Texts to vectors, by the very models that made a run. Knows models and encoders; nothing of where vectors lie.

The bits of a text's vector follow from the text alone: not from the texts of the same call, not from what other threads
ask. So a batch is computed on one core, products have enough rows, and rows are joined only where they keep their bits.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer

from soloist.arrays import Vectors
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
from soloist.ragged import Keys, RaggedRows
from soloist.retrieval.other_models import require_same
from soloist.retrieval.query_checks import Role
from soloist.retrieval.run_record import ModelRecord
from soloist.types import Batch
from soloist.wording import count_text
from soloist.workers import interruptible

# Tokens of a batch: the most, and so many at least where texts are spread over cores.
_BATCH_TOKENS = 2_048
_FEWEST_TOKENS = 256
_MOST_NOTICES = 100  # those of a process that answers for weeks


class TokenCount(NamedTuple):
    """The tokens of a text that a model reads, with those of its prompt, and those that it cuts off."""

    read: int
    cut: int


class QueryEncoders:
    """The models of a run for questions and for documents, on the CPU. A model is loaded when it is first needed.

    Any number of threads may share them. `find` gives the spec of a model where it is on this machine.
    """

    def __init__(self, models: Mapping[str, ModelRecord], find: Callable[[ModelRecord], ModelSpec]) -> None:
        self._models = models
        self._find = find
        self._loading = {model: threading.Lock() for model in models}
        self._staged: dict[str, StagedModel] = {}
        self._sides: dict[tuple[str, Role], _Side] = {}
        self._last: dict[tuple[str, Role], tuple[tuple[str, ...], MemberRows]] = {}
        self._notices: dict[str, None] = {}
        self._noticing = threading.Lock()

    @property
    def notices(self) -> tuple[str, ...]:
        """Which texts were cut, a sentence for each of the last hundred."""
        with self._noticing:
            return tuple(self._notices)

    def encode(self, model: str, texts: Sequence[str], role: Role = "query") -> Vectors:
        """The texts as this dense model sees them, the prompt of the role before each: (texts, dim) unit float32,
        read-only.

        The last call's vectors are kept, because the rankers of an evaluation encode the same questions.

        Raises:
            ConfigError: the model of that name here is not the one that made the run.
            ModelLoadError: it cannot be loaded.
            EncodingError: a text has no vector, e.g. because the model knows none of its words.
        """
        vectors = self._rows(model, tuple(texts), role)
        assert isinstance(vectors, np.ndarray)
        return vectors

    def sparse(self, model: str, texts: Sequence[str], role: Role = "query") -> RaggedRows:
        """The texts as this sparse model sees them, a row each. A text without a weight has an empty row, which finds
        nothing. A row has length 1 if the model is compared by the cosine. As `encode` otherwise.
        """
        rows = self._rows(model, tuple(texts), role)
        assert isinstance(rows, RaggedRows)
        return rows.of_length_one() if self._staged[model].similarity == "cosine" else rows

    def token_counts(self, model: str, texts: Sequence[str], role: Role = "query") -> list[TokenCount]:
        """How much of each text this model reads. The errors are those of `encode`."""
        tokenized = self._side(model, role).tokenized(texts)
        return list(map(TokenCount, tokenized.lengths, tokenized.dropped))

    def vocabulary_words(self, model: str, keys: Keys) -> list[str]:
        """The words of a sparse model's vocabulary by their numbers. The model has encoded a question before."""
        words: list[str] = self._staged[model].module.tokenizer.convert_ids_to_tokens(keys.tolist())
        return words

    def _rows(self, model: str, asked: tuple[str, ...], role: Role) -> MemberRows:
        last, rows = self._last.get((model, role), (None, None))
        if rows is None or last != asked:
            side = self._side(model, role)
            rows = side.encoded(asked, self._notice)
            if isinstance(rows, np.ndarray):
                rows.flags.writeable = False
            self._last[model, role] = asked, rows  # one value: another thread sees texts and rows that belong together
        return rows

    def _notice(self, notice: str) -> None:
        with self._noticing:
            self._notices[notice] = None
            if len(self._notices) > _MOST_NOTICES:
                del self._notices[next(iter(self._notices))]

    def _side(self, model: str, role: Role) -> _Side:
        with self._loading[model]:
            if (model, role) not in self._sides:
                if model not in self._staged:
                    self._staged[model] = self._load(self._models[model])
                self._sides[model, role] = _Side(self._staged[model], role)
            return self._sides[model, role]

    def _load(self, record: ModelRecord) -> StagedModel:
        spec = self._find(record)
        spec = dataclasses.replace(spec, revision=record.revision or spec.revision)
        staged = interruptible(functools.partial(_staged, spec, record))  # it may be downloaded
        require_same(record, staged)
        return dataclasses.replace(staged, query_prompt=record.query_prompt)


class _Side:
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


def _staged(spec: ModelSpec, record: ModelRecord) -> StagedModel:
    """The model, once its files are known to be the run's: at another file the load may fail in any way."""
    if record.files:
        location, files = contents_of(spec)
        require_files(record.name, record.files, files, record.revision, location.revision)
    return stage(spec, record.dtype)


def _joins(staged: StagedModel) -> bool:
    """Whether texts may share a batch. Not where the size of a product says which kernel of the host computes it:
    in float16, and in bfloat16 on the matrix units of Intel (see `packing.FEWEST`).
    """
    if staged.is_static and not any(next(part.parameters(), None) is not None for part in list(staged.module)[1:]):
        return True
    return staged.dtype == "float32" or (staged.dtype == "bfloat16" and not uses_amx(TORCH_DTYPES[staged.dtype]))
