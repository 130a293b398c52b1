"""Queries to vectors, by the very models that made a run. Knows models and encoders; nothing of where vectors lie."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from soloist.arrays import Vectors
from soloist.config import RunConfig
from soloist.encoding.batching import within
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.encoding.found_rows import MemberRows, found_rows_of, tokens_of_words
from soloist.errors import ConfigError, EncodingError
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue
from soloist.ragged import Keys, RaggedRows
from soloist.retrieval.run_record import ModelRecord
from soloist.wording import count_text
from soloist.workers import interruptible

# Tokens in a batch of queries, which are short.
_BATCH_TOKENS = 2_048


class QueryEncoders:
    """The query side of a run's models, on the CPU. A model is loaded when it is first needed.

    Threads may share them. A model encodes for one thread at a time, since its tokenizer and its last batch are shared.
    `catalogue` is a file of the user's models, if those of the run are in other places on this machine.
    """

    def __init__(self, config: RunConfig, models: Mapping[str, ModelRecord], catalogue: Path | None = None) -> None:
        self._config = config
        self._models = models
        self._catalogue = catalogue
        self._locks = {model: threading.Lock() for model in models}
        self._encoders: dict[str, Encoder] = {}
        self._last: dict[str, tuple[tuple[str, ...], MemberRows]] = {}
        self._notices: dict[str, None] = {}

    @property
    def notices(self) -> tuple[str, ...]:
        """Which queries were cut, a sentence for each."""
        return tuple(self._notices)

    def encode(self, model: str, texts: Sequence[str]) -> Vectors:
        """The queries as this dense model sees them, its query prompt before each: (texts, dim) unit float32,
        read-only.

        The last batch is kept, because the rankers of an evaluation encode the same queries.

        Raises:
            ConfigError: the model of that name here is not the one that made the run.
            ModelLoadError: it cannot be loaded.
            EncodingError: a query has no vector, e.g. because the model knows none of its words.
        """
        vectors = self._rows(model, tuple(texts))
        assert isinstance(vectors, np.ndarray)
        vectors.flags.writeable = False
        return vectors

    def sparse(self, model: str, texts: Sequence[str]) -> RaggedRows:
        """The queries as this sparse model sees them, a row each. A query without a weight has an empty row, which
        finds nothing. A row has length 1 if the model is compared by the cosine. As `encode` otherwise.
        """
        rows = self._rows(model, tuple(texts))
        assert isinstance(rows, RaggedRows)
        return rows.of_length_one() if self._encoders[model].staged.similarity == "cosine" else rows

    def vocabulary_words(self, model: str, keys: Keys) -> list[str]:
        """The words of a sparse model's vocabulary by their numbers. The model has encoded a query before."""
        words: list[str] = self._encoders[model].staged.module.tokenizer.convert_ids_to_tokens(keys.tolist())
        return words

    def _rows(self, model: str, asked: tuple[str, ...]) -> MemberRows:
        with self._locks[model]:
            last, rows = self._last.get(model, (None, None))
            if rows is None or last != asked:
                encoder = self._encoders.get(model)
                if encoder is None:
                    encoder = self._encoders[model] = self._load(self._models[model])
                rows = self._encode(encoder, asked)
                self._last[model] = asked, rows
            return rows

    def _load(self, record: ModelRecord) -> Encoder:
        spec = self._spec(record)
        top = self._config.sparse_top or None
        spec = dataclasses.replace(spec, revision=record.revision or spec.revision, sparse_top=top)
        staged = interruptible(functools.partial(stage, spec, record.dtype))  # it may be downloaded
        _require_same(staged, record)
        asking = dataclasses.replace(staged, query_prompt=record.query_prompt).for_queries()
        return Encoder(asking, packs=True)

    def _encode(self, encoder: Encoder, texts: Sequence[str]) -> MemberRows:
        staged, tokenized = encoder.staged, encoder.tokenize(texts)
        for text, dropped in zip(texts, tokenized.dropped, strict=True):
            if dropped:
                self._notices[_cut_notice(encoder, text, dropped)] = None
        for row, reason in encoder.vectorless(tokenized).items():
            if staged.kind == "dense" or reason != "no tokens":
                raise _no_vector(encoder, texts[row])
        found = found_rows_of(staged, len(texts))
        most = min(_BATCH_TOKENS, tokens_of_words(staged.dim)) if staged.predicts_words else _BATCH_TOKENS
        for batch in encoder.plan(tokenized, within(most)):
            computed = forward(staged.module, encoder.collate(tokenized, batch), "cpu")
            found.put(batch.rows, computed[: len(batch.rows)])
        for row in found.unusable():
            raise _no_vector(encoder, texts[row])
        return found.finished((), None)

    def _spec(self, record: ModelRecord) -> ModelSpec:
        path = self._catalogue or self._config.catalogue
        is_gone = self._catalogue is None and path is not None and catalogue_there(self._config) is None
        catalogue = load_catalogue(None if is_gone else path)
        for name in (record.name, *self._config.models):
            with contextlib.suppress(ConfigError):  # another of the run's models may have moved
                spec = resolve(name, catalogue)
                if spec.name == record.name:
                    return spec
        gone = f", and the run's catalogue {path} is not there" if is_gone else ""
        raise ConfigError(
            f"{record.name} made the run, but is not found on this machine{gone}: give --catalogue a file that has the "
            f'folder of the model as source under [models."{record.name}"]'
        )


def catalogue_there(config: RunConfig) -> Path | None:
    """The catalogue with which a run was made, where it is still there."""
    return config.catalogue if config.catalogue is not None and config.catalogue.is_file() else None


def _cut_notice(encoder: Encoder, text: str, dropped: int) -> str:
    were = "was" if dropped == 1 else "were"
    return (
        f"{encoder.staged.spec.name} reads {encoder.staged.max_tokens} tokens of a query: "
        f"{count_text(dropped, 'token')} of {text[:40]!r} {were} cut off"
    )


def _no_vector(encoder: Encoder, text: str) -> EncodingError:
    return EncodingError(
        f"{encoder.staged.spec.name} makes no vector of the query {text[:40]!r}: use other words, or another model"
    )


def _require_same(staged: StagedModel, record: ModelRecord) -> None:
    if staged.fingerprint != record.fingerprint:
        raise ConfigError(
            f"{record.name} on this machine is not the model that made the run: its weights, prompts or limits differ, "
            "or an earlier version of soloist made the run. Give --catalogue with the folder of that model, or run the "
            "command that made the run again, which computes the vectors again"
        )
