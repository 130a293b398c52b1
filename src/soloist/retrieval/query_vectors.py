"""The queries of a run as vectors: by one model, or fused as the run fuses its chunks. Knows nothing of rows."""

from __future__ import annotations

import functools
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.fusion import Fitted, FusionPlan, fuse
from soloist.fusion_methods import FUSED
from soloist.ragged import RaggedRows
from soloist.retrieval.query_checks import checked_queries
from soloist.retrieval.query_encoders import QueryEncoders
from soloist.retrieval.run_record import RunRecord, WordsRecord
from soloist.stores import RunFolder
from soloist.stores.fit_file import read_fit
from soloist.words import Analyser, analyser_of

_PUNCTUATION = string.punctuation


class QueryVectors:
    """The vectors of queries in the spaces of a run. The errors are those of `OpenedRun.encode`."""

    def __init__(self, folder: RunFolder, record: RunRecord, encoders: QueryEncoders) -> None:
        self._folder = folder
        self._record = record
        self._encoders = encoders
        self._analysers: dict[str, Analyser] = {}

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed about queries so far, such as that a model cut one."""
        return self._encoders.notices

    def by_model(self, model: str, queries: Sequence[str]) -> Vectors:
        """By one model, its query prompt before each: (queries, dim) unit float32, read-only."""
        texts = checked_queries(queries)
        self._record.require_model(model)
        if not texts:
            return np.zeros((0, self._record.models[model].dim), np.float32)
        return self._encoders.encode(model, texts)

    def by_name(self, name: str, queries: Sequence[str]) -> Vectors:
        """By one model, or by the run's own fusion, whose name is `fused`."""
        return self.fused(queries) if name == FUSED else self.by_model(name, queries)

    def words(self, member: str, query: str) -> Mapping[str, int]:
        """The terms of a query as a lexical member cuts the chunks, and how often each is there; maybe none.

        Raises:
            ConfigError: a library is not installed, or cuts words otherwise than when the run was made.
        """
        return Counter(self._analyser(member).terms(query))

    def sparse(self, model: str, queries: Sequence[str]) -> RaggedRows:
        """By a sparse model, its query prompt before each: words of its vocabulary and their weights, a row a query."""
        texts = checked_queries(queries)
        return self._encoders.sparse(model, texts) if texts else RaggedRows.empty(0, np.float32)

    def said(self, member: str, query: str) -> Mapping[str, str]:
        """The word of a query, as it stands there, by each of its terms; the errors are those of `words`.

        The terms of a sparse model are numbers: the words are those of its vocabulary.
        """
        if member in self._record.sparse:
            keys, _ = self.sparse(member, [query]).row(0)
            return dict(zip(map(str, keys.tolist()), self._encoders.vocabulary_words(member, keys), strict=True))
        analyser, said = self._analyser(member), dict[str, str]()
        for word in dict.fromkeys(query.split()):
            for term in analyser.terms(word):
                said.setdefault(term, word.strip(_PUNCTUATION) or word)
        return said

    def _analyser(self, member: str) -> Analyser:
        if member not in self._analysers:
            self._analysers[member] = _analyser(self._record.words[member])
        return self._analysers[member]

    def for_fusion(self, plan: FusionPlan, queries: Sequence[str]) -> list[Vectors]:
        """By each model of a fusion; zeros of a model that the fusion does not use, which is not loaded."""
        queries = checked_queries(queries)
        return [
            self.by_model(model, queries) if kept else np.zeros((len(queries), dim), np.float32)
            for model, kept, dim in zip(plan.models, plan.kept_dims, plan.member_dims, strict=True)
        ]

    def fused(self, queries: Sequence[str]) -> Vectors:
        """By the run's own fusion: (queries, dim) unit float32."""
        plan = self._record.fusion_plan
        vectors = self.for_fusion(plan, queries)
        return fuse(plan, vectors, fitted=self._own_fit if plan.needs_fit else None)

    @functools.cached_property
    def _own_fit(self) -> Fitted:
        return Fitted(matrices=read_fit(self._folder.path))


def _analyser(record: WordsRecord) -> Analyser:
    analyser = analyser_of(record.language)
    if analyser.fingerprint != record.fingerprint:
        raise ConfigError(
            f"{record.name} made the run with another version of the libraries that cut words, so a question's words "
            "would not meet the chunks': run the command that made the run again, which cuts the texts again"
        )
    return analyser
