"""The query side of an ensemble: texts to the vectors that ask what a run made, wherever its vectors went.

questions = soloist.open_questions("run")
vector = questions.encode(["how is a device given back?"])[0]
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.fusion import Fitted, FusionPlan
from soloist.fusion_methods import FUSED
from soloist.jsontext import json_text
from soloist.models.spec import ModelSpec
from soloist.retrieval.query_checks import Role, checked_queries, checked_role
from soloist.retrieval.query_encoders import QueryEncoders, TokenCount
from soloist.retrieval.query_vectors import QueryVectors
from soloist.retrieval.run_record import EnsembleRecord, ModelRecord
from soloist.types import MemberKind
from soloist.wording import listed


class Questions:
    """An ensemble for questions, made by `open_questions`. Models are loaded when they are first asked, and stay.

    Any number of threads may ask at once. The bits of a text's vector follow from the text alone, whatever other texts
    are in the call, and whatever other threads ask meanwhile.

    A text with the role `document` is read as the run read its chunks: with their prompt, their limit and, where a
    model has two, their pipeline. Its vector is the one of the run's row, as near as rounding allows. It has the same
    bits where the run computed with `--matmul torch` on a CPU. Where oneDNN or numpy computed the run, the lowest
    cosine that was measured is 1 - 1e-7 in float32 and 1 - 5e-5 in bfloat16. No GPU has been compared. A run with
    `--vector-dtype float16` has rounded each number of its rows.
    """

    def __init__(
        self,
        path: Path,
        record: EnsembleRecord,
        find: Callable[[ModelRecord], ModelSpec],
        fit: Callable[[], Fitted],
    ) -> None:
        self._path = path
        self._record = record
        self._fit = functools.cache(fit)
        self._vectors = QueryVectors(record, QueryEncoders({**record.models, **record.sparse}, find), self._fit)

    @property
    def path(self) -> Path:
        """The folder that was opened."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """The members in the run's order, and then `fused` where the run has fused vectors."""
        return tuple(self.kinds)

    @functools.cached_property
    def kinds(self) -> Mapping[str, MemberKind]:
        """What each name gives: `dense` vectors, `sparse` ones, or words, which are `lexical`."""
        fused: dict[str, MemberKind] = {FUSED: "dense"} if self._record.fusion is not None else {}
        return MappingProxyType({**self._record.kinds, **fused})

    @functools.cached_property
    def dims(self) -> Mapping[str, int]:
        """The dimensions of each dense name."""
        dims = {name: model.dim for name, model in self._record.models.items()}
        if self._record.fusion is not None:
            dims[FUSED] = self._record.fusion.dim
        return MappingProxyType(dims)

    @functools.cached_property
    def weights(self) -> Mapping[str, float]:
        """What the run's own ranking weighs, by name: one of 1, or several whose standardised scores are added up.

        It is empty for a run of several dense models without a fusion.
        """
        record = self._record
        if record.hybrid is not None:
            return MappingProxyType(record.hybrid.weights)
        alone = [FUSED] if record.fusion is not None else list(record.kinds)
        return MappingProxyType({alone[0]: 1.0} if len(alone) == 1 else {})

    @functools.cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """16 hex digits for each name over all that decides its vectors of chunks. Vectors of equal fingerprints may be
        compared.

        Raises:
            OutputError: the file of a fusion's matrices is missing or damaged.
        """
        record = self._record
        found = {name: model.fingerprint for name, model in (*record.models.items(), *record.sparse.items())}
        found |= {name: member.fingerprint for name, member in record.words.items()}
        if record.fusion is not None:
            fitted = self._fit() if record.fusion.needs_fit else None
            found[FUSED] = _fused_fingerprint(record.fusion, found, fitted)
        return MappingProxyType(found)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed about texts, such as that a model cut one; the last hundred sentences."""
        return self._vectors.notices

    @property
    def record(self) -> EnsembleRecord:
        """What is recorded of the members and of their fusion."""
        return self._record

    @property
    def vectors(self) -> QueryVectors:
        """The same as the rankers of a run ask for it."""
        return self._vectors

    def encode(self, texts: Sequence[str], name: str | None = None, role: Role = "query") -> Vectors:
        """The vectors of texts by a dense member, or the fused ones, whose name is `fused`: (texts, dim) unit float32,
        read-only.

        Without a name they are the fused ones, or those of the only dense member of a run without fusion.

        Raises:
            ConfigError: there is no such name; `texts` is one text, or one of them is empty; or the model on this
                machine is not the one that made the run.
            ModelLoadError: the model cannot be loaded.
            EncodingError: a model makes no vector of a text.
        """
        role = checked_role(role)
        chosen = _dense(self._record, name)
        return self._vectors.by_name(chosen, texts, role)

    def token_counts(self, texts: Sequence[str], name: str | None = None, role: Role = "query") -> list[TokenCount]:
        """For each text the tokens that a dense member reads, and those that it cuts off; see `encode`.

        By `fused` they are those of all members that the fusion uses.
        """
        role = checked_role(role)
        chosen = _dense(self._record, name)
        return self._vectors.token_counts(chosen, texts, role)

    def encode_sparse(self, texts: Sequence[str], name: str, role: Role = "query") -> list[dict[int, float]]:
        """For each text its dimensions by a sparse model, counted from 0, and their weights; see `encode`.

        The weights have length 1 where the model compares by cosine.
        """
        role = checked_role(role)
        self._record.require_posted(_checked_name(name), self._record.sparse, "sparse vectors")
        rows = self._vectors.sparse(name, texts, role)
        return [dict(zip(keys.tolist(), values.tolist(), strict=True)) for keys, values in rows]

    def encode_words(self, texts: Sequence[str], name: str) -> list[dict[str, int]]:
        """For each text its terms as a lexical member cuts the chunks, and how often each is there; maybe none.

        Raises:
            ConfigError: there are no such words; `texts` is one text, or one of them is empty; or a library on this
                machine cuts words otherwise than when the run was made.
        """
        self._record.require_posted(_checked_name(name), self._record.words, "words")
        return [dict(self._vectors.words(name, text)) for text in checked_queries(texts)]


def _dense(record: EnsembleRecord, name: str | None) -> str:
    """The name of dense vectors, or the one that is meant without a name.

    Raises:
        ConfigError: there are no such vectors, or several.
    """
    chosen = _checked_name(name) if name is not None else FUSED
    if name is None and record.fusion is None:
        if not record.models:
            others = listed(list(record.kinds))
            raise ConfigError(f"the run has no dense vectors: ask for those of {others} by their own calls")
        if len(record.models) == 1:
            chosen = next(iter(record.models))
    record.require_vectors(chosen)
    return chosen


def _fused_fingerprint(plan: FusionPlan, members: Mapping[str, str], fitted: Fitted | None) -> str:
    decisive = {**plan.to_dict(), "notices": [], "members": [members[name] for name in plan.models]}
    digest = hashlib.sha256(json_text(decisive).encode())
    for matrix in fitted.matrices if fitted is not None else ():
        digest.update(matrix.tobytes())
    return digest.hexdigest()[:16]


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"name is {name!r}, of the type {type(name).__name__}: give the name of a member, as a text")
    return name
