"""The queries of a run as vectors: by one model, or fused as the run fuses its chunks. Knows nothing of rows."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.fusion import Fitted, FusionPlan, fuse
from soloist.fusion_methods import FUSED
from soloist.models.numpy_threads import one_thread
from soloist.ragged import RaggedRows
from soloist.retrieval.query_checks import Role, checked_queries
from soloist.retrieval.query_encoders import QueryEncoders, TokenCount
from soloist.retrieval.run_record import EnsembleRecord, WordsRecord
from soloist.words import Analyser, analyser_of

_PUNCTUATION = string.punctuation


class QueryVectors:
    """The vectors of texts in the spaces of a run. The errors are those of `Questions.encode`.

    `fit` gives the matrices of a fusion that has some. Any number of threads may share this.
    """

    def __init__(self, record: EnsembleRecord, encoders: QueryEncoders, fit: Callable[[], Fitted]) -> None:
        self._record = record
        self._encoders = encoders
        self._fit = fit
        self._analysers: dict[str, Analyser] = {}

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed about texts so far, such as that a model cut one."""
        return self._encoders.notices

    def by_model(self, model: str, queries: Sequence[str], role: Role = "query") -> Vectors:
        """By one model, the prompt of the role before each: (queries, dim) unit float32, read-only."""
        texts = checked_queries(queries, role)
        self._record.require_model(model)
        if not texts:
            return np.zeros((0, self._record.models[model].dim), np.float32)
        return self._encoders.encode(model, texts, role)

    def token_counts(self, name: str, queries: Sequence[str], role: Role = "query") -> list[TokenCount]:
        """How much of each text one model reads, or all models of the run's own fusion together."""
        texts = checked_queries(queries, role)
        counts = [self._encoders.token_counts(model, texts, role) for model in self._models_of(name)]
        return [TokenCount(*map(sum, zip(*each, strict=True))) for each in zip(*counts, strict=True)]

    def _models_of(self, name: str) -> list[str]:
        if name != FUSED:
            return [name]
        plan = self._record.fusion_plan
        return [model for model, kept in zip(plan.models, plan.kept_dims, strict=True) if kept]

    def by_name(self, name: str, queries: Sequence[str], role: Role = "query") -> Vectors:
        """By one model, or by the run's own fusion, whose name is `fused`."""
        return self.fused(queries, role) if name == FUSED else self.by_model(name, queries, role)

    def words(self, member: str, query: str) -> Mapping[str, int]:
        """The terms of a query as a lexical member cuts the chunks, and how often each is there; maybe none.

        Raises:
            ConfigError: a library is not installed, or cuts words otherwise than when the run was made.
        """
        return Counter(self._analyser(member).terms(query))

    def sparse(self, model: str, queries: Sequence[str], role: Role = "query") -> RaggedRows:
        """By a sparse model, the prompt of the role before each: words of its vocabulary and their weights, a row a
        query.
        """
        texts = checked_queries(queries, role)
        return self._encoders.sparse(model, texts, role) if texts else RaggedRows.empty(0, np.float32)

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

    def for_fusion(self, plan: FusionPlan, queries: Sequence[str], role: Role = "query") -> list[Vectors]:
        """By each model of a fusion; zeros of a model that the fusion does not use, which is not loaded."""
        queries = checked_queries(queries, role)
        return [
            self.by_model(model, queries, role) if kept else np.zeros((len(queries), dim), np.float32)
            for model, kept, dim in zip(plan.models, plan.kept_dims, plan.member_dims, strict=True)
        ]

    def fused(self, queries: Sequence[str], role: Role = "query") -> Vectors:
        """By the run's own fusion: (queries, dim) unit float32, read-only."""
        plan = self._record.fusion_plan
        vectors = self.for_fusion(plan, queries, role)
        fused = self._by_the_fit(plan, vectors) if plan.needs_fit else fuse(plan, vectors)
        fused.flags.writeable = False
        return fused

    def _by_the_fit(self, plan: FusionPlan, vectors: Sequence[Vectors]) -> Vectors:
        """Row by row, on one core: the number of rows and of threads say how a product is cut, and so its last bits."""
        rows, fitted = range(len(vectors[0])), self._fit()
        with one_thread:
            each = [fuse(plan, [part[row : row + 1] for part in vectors], fitted=fitted) for row in rows]
        return np.concatenate([np.zeros((0, plan.dim), np.float32), *each])


def _analyser(record: WordsRecord) -> Analyser:
    analyser = analyser_of(record.language)
    if analyser.fingerprint != record.fingerprint:
        raise ConfigError(
            f"{record.name} made the run with another version of the libraries that cut words, so a question's words "
            "would not meet the chunks': run the command that made the run again, which cuts the texts again"
        )
    return analyser
