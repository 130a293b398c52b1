"""A finished run, opened to be searched: the same models, prompts and fusion as made it.

run = soloist.open_run("run")
for hit in run.search("how is a device given back?", k=5):
    print(hit.score, hit.id, hit.text)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.config import FusionConfig
from soloist.errors import ConfigError, OutputError
from soloist.fusion import Fitted, FusionPlan, Member, fuse, plan_fusion
from soloist.retrieval.exact import Best, Block, DamagedRowError, Question, moments, passes, search_all
from soloist.retrieval.query_checks import checked_queries, checked_query
from soloist.retrieval.query_encoders import QueryEncoders
from soloist.retrieval.ranking import RRF_DEPTH, reciprocal_ranks
from soloist.retrieval.row_index import RowIndex, RunVectors
from soloist.retrieval.run_record import RunRecord, read_record
from soloist.stores import RunFolder, Unchanged
from soloist.stores.fit_file import read_fit
from soloist.text_lists import list_of_texts
from soloist.types import Chunk, Hit
from soloist.wording import count_text, is_or_are

QueryFusion = Literal["rrf", "standardised"]
FUSED = "fused"
_HITS = 10
# A float32 cosine is off by about this much: scores that differ by less are the same.
_FLAT = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """What ranks the chunks: one model's vectors, the fused ones, or several models' rankings or scores together.

    `weights` are the models' in a fusion at query time; empty weighs as the run does, or all alike.
    """

    model: str | None = None
    fusion: QueryFusion | Literal["fused"] | None = None
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.fusion is not None:
            raise ConfigError(f"{self.model} and {self.fusion} are two ways to rank: give one of them")
        fusions = get_args(QueryFusion)
        if self.fusion not in (None, FUSED, *fusions):
            raise ConfigError(f"there is no fusion {self.fusion}: choose one of {', '.join((FUSED, *fusions))}")
        if self.weights and self.fusion not in fusions:
            raise ConfigError(f"weights are for {' and '.join(fusions)}: leave them out, or choose one of these")

    def __str__(self) -> str:
        return self.model or self.fusion or FUSED


def open_run(path: str | Path, *, catalogue: str | Path | None = None) -> OpenedRun:
    """Open a finished run; `catalogue` is a file of models of one's own, where those of the run lie elsewhere now.

    Raises:
        OutputError: there is no finished run, or its files cannot be read.
    """
    opened = Unchanged.of(Path(path))  # before anything is read
    folder = RunFolder.open(Path(path))
    return OpenedRun(folder, read_record(folder), opened, Path(catalogue) if catalogue is not None else None)


class OpenedRun:
    """A finished run, made by `open_run`. One that is changed meanwhile has to be opened again, and says so."""

    def __init__(self, folder: RunFolder, record: RunRecord, opened: Unchanged, catalogue: Path | None = None) -> None:
        self._folder = folder
        self._record = record
        self._opened = opened
        self._encoders = QueryEncoders(record.config, record.models, catalogue)
        self._row_indexes: dict[tuple[str, ...], RowIndex] = {}
        self._vectors: dict[tuple[tuple[str, ...], str], RunVectors] = {}
        self._fit: Fitted | None = None

    @property
    def record(self) -> RunRecord:
        """What run.json says of it."""
        return self._record

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._folder.path

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order of their passes."""
        return tuple(self._record.models)

    @property
    def collections(self) -> tuple[str, ...]:
        """The collections that have chunks."""
        return self._record.collections

    @property
    def notices(self) -> tuple[str, ...]:
        """What was found out about queries so far, e.g. that one was cut."""
        return self._encoders.notices

    @contextlib.contextmanager
    def unchanged(self, way_on: str = "open and search it again") -> Iterator[None]:
        """Within this, what is read of the run is that of the run that was opened: no new texts beside old vectors.

        Raises:
            OutputError: the run was changed meanwhile, which is then what any other error came of; `way_on` ends the
                sentence.
        """
        try:
            yield
        except Exception:
            self._opened.require(way_on)
            raise
        self._opened.require(way_on)

    def search(
        self, query: str, k: int | None = None, *, by: By | str | None = None, collections: Sequence[str] = ()
    ) -> list[Hit]:
        """The `k` best chunks for a query; see `search_all`."""
        return self.search_all([checked_query(query)], k, by=by, collections=collections)[0]

    def search_all(
        self,
        queries: Sequence[str],
        k: int | None = None,
        *,
        by: By | str | None = None,
        collections: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """The `k` best chunks for each query, in as few passes over the vectors as memory allows.

        Without `k` they are 10, or all chunks where there are fewer. `by` is a `By`, or the name of a model, "fused",
        "rrf" or "standardised"; without it the fused vectors rank, or those of the only model. Without collections
        all are searched.

        Raises:
            ConfigError: a query is empty, `k` is more than there are chunks or, by reciprocal ranks, more than
                `RRF_DEPTH`, or the run has no such model, collection or fusion; or a model on this machine is not the
                one that made the run.
            OutputError: a file is missing, has changed or is damaged.
        """
        queries, collections = checked_queries(queries), self._chosen(collections)
        with self.unchanged():
            shown = min(_HITS, self.row_index(collections).rows) if k is None else k
            best = self.rank(queries, shown, by=self._by(by), collections=collections)
            chunks = self.chunks_at(best.positions, collections)
            return [_hits(*each, chunks) for each in zip(best.positions, best.scores, strict=True)]

    def rank(self, queries: Sequence[str], k: int, *, by: By, collections: Sequence[str] = ()) -> Best:
        """The positions and scores of the `k` best rows for each query, without their texts; see `search`."""
        with self.unchanged():
            return self._rank(checked_queries(queries), k, by, self._chosen(collections))

    def _rank(self, queries: Sequence[str], k: int, by: By, collections: Sequence[str]) -> Best:
        if not queries:
            raise ConfigError("there is no query: ask something")
        index = self.row_index(collections)
        if not isinstance(k, int) or not 1 <= k <= index.rows:
            raise ConfigError(
                f"k is {k!r}, but there {is_or_are(index.rows)} {count_text(index.rows, 'chunk')} to find: give a k "
                f"{'of 1' if index.rows == 1 else f'from 1 to {index.rows}'}"
            )
        if by.model is not None:
            return self._nearest(by.model, self.encode(by.model, queries), k, collections)
        if by.fusion == "rrf":
            return self._by_ranks(queries, k, by, collections)
        if by.fusion == "standardised":
            return self._by_scores(queries, k, by, collections)
        return self._nearest(FUSED, self.encode_fused(queries), k, collections)

    def _by(self, by: By | str | None) -> By:
        """What ranks, spelled out; a model that is called as a fusion is the model."""
        if by is None:
            return self.default
        if isinstance(by, By):
            return by
        if by in self.models:
            return By(model=by)
        fusions = (FUSED, *get_args(QueryFusion))
        if by not in fusions:
            every = ", ".join((*self.models, *fusions))
            raise ConfigError(f"the run has no model {by}, and there is no such fusion: choose one of {every}")
        return By(fusion=cast(QueryFusion, by))

    @property
    def default(self) -> By:
        """The fused vectors, or the only model.

        Raises:
            ConfigError: the run has several models and no fused vectors.
        """
        if self._record.fusion is not None:
            return By(fusion="fused")
        if len(self.models) == 1:
            return By(model=self.models[0])
        raise ConfigError(
            f"the run has no fused vectors: choose a model ({', '.join(self.models)}), or combine the models "
            f"with {' or '.join(get_args(QueryFusion))}"
        )

    def encode(self, model: str, queries: Sequence[str]) -> Vectors:
        """The queries as a model sees them, its query prompt before each: (queries, dim) unit float32, read-only.

        Raises:
            ConfigError: the run has no such model, `queries` is one text, or one of them is empty; or the model on
                this machine is not the one that made the run.
            EncodingError: the model gives a query no vector.
        """
        asked = checked_queries(queries)
        if model not in self._record.models:
            raise ConfigError(f"the run has no model {model}: choose one of {', '.join(self.models)}")
        if not asked:
            return np.zeros((0, self._record.models[model].dim), np.float32)
        return self._encoders.encode(model, asked)

    def encode_fused(self, queries: Sequence[str]) -> Vectors:
        """The queries' fused vectors, by the run's own fusion: (queries, dim) unit float32; see `encode`."""
        queries = checked_queries(queries)
        return fuse(self.fusion_plan, self.encode_for(self.fusion_plan, queries), fitted=self.fit)

    def encode_for(self, plan: FusionPlan, queries: Sequence[str]) -> list[Vectors]:
        """The queries as each model of a fusion sees them; zeros where it uses nothing of a model, which is not run."""
        queries = checked_queries(queries)
        return [
            self.encode(model, queries) if kept else np.zeros((len(queries), dim), np.float32)
            for model, kept, dim in zip(plan.models, plan.kept_dims, plan.member_dims, strict=True)
        ]

    @property
    def fusion_plan(self) -> FusionPlan:
        """The run's own fusion.

        Raises:
            ConfigError: it has none.
        """
        if self._record.fusion is None:
            raise ConfigError(
                f"the run has no fused vectors, it was made with fusion none: choose one of {', '.join(self.models)}"
            )
        return self._record.fusion

    @property
    def fit(self) -> Fitted | None:
        """The matrices of a fusion that has any."""
        if self.fusion_plan.needs_fit and self._fit is None:
            self._fit = Fitted(matrices=read_fit(self._folder.path))
        return self._fit

    @property
    def members(self) -> list[Member]:
        """The models as a fusion sees them."""
        return [
            Member(name=model.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)
            for model in self._record.models.values()
        ]

    def row_index(self, collections: Sequence[str] = ()) -> RowIndex:
        """The rows of some collections, or of all.

        Raises:
            ConfigError: the run has no such collection.
        """
        chosen = self._chosen(collections)
        if chosen not in self._row_indexes:
            self._row_indexes[chosen] = RowIndex(self._folder, chosen)
        return self._row_indexes[chosen]

    def vectors(self, name: str, collections: Sequence[str] = ()) -> RunVectors:
        """The vectors of all rows by a model, or the fused ones, whose name is `fused`."""
        key = (self._chosen(collections), name)
        if key not in self._vectors:
            self._vectors[key] = self.row_index(collections).vectors(functools.partial(self._file, name))
        return self._vectors[key]

    def _file(self, name: str, collection: str, shard: int) -> str:
        if name == FUSED:
            return self._folder.shards.fused_file(collection, shard)
        return self._folder.shards.vectors_file(collection, name, shard)

    def chunks(self, collection: str, shard: int) -> list[Chunk]:
        """The chunks of a shard."""
        return self._folder.shards.read_chunks(collection, shard)

    def weights(self, by: By) -> list[float]:
        """The models' weights in a fusion at query time, in their order.

        Raises:
            ConfigError: weights of other models, or that are no weights.
        """
        fusion = self._record.fusion
        if by.weights:
            plan = plan_fusion(FusionConfig(weights=by.weights), self.members)
            assert plan is not None
            return list(plan.weights)
        return list(fusion.weights) if fusion is not None else [1 / len(self.models)] * len(self.models)

    def _nearest(self, name: str, asked: Vectors, k: int, collections: Sequence[str]) -> Best:
        """The best rows by a model's vectors, or by the fused ones."""
        with self._damage_named([name], collections):
            return search_all(Question.of([asked]), lambda: self.blocks([name], collections), k)

    def _by_ranks(self, queries: Sequence[str], k: int, by: By, collections: Sequence[str]) -> Best:
        if k > RRF_DEPTH:
            raise ConfigError(
                f"k is {k:,}, but reciprocal ranks count {RRF_DEPTH:,} deep in each model's ranking: give a k of "
                f"{RRF_DEPTH:,} or less, or rank otherwise"
            )
        depth = min(self.row_index(collections).rows, RRF_DEPTH)
        models, weights = self.weighted(by)
        asked = {model: self.encode(model, queries) for model in models}
        found = []
        for part in passes(len(queries), max(each.shape[1] for each in asked.values()), depth):
            rankings = [self._nearest(model, each[part], depth, collections) for model, each in asked.items()]
            found.append(reciprocal_ranks(rankings, weights, k))
        return Best.joined(found)

    def _by_scores(self, queries: Sequence[str], k: int, by: By, collections: Sequence[str]) -> Best:
        """Each model's cosines as multiples of their own standard deviation over all rows, added up by weight.

        What their mean takes away is the same for every row and ranks nothing. So does a model that gives all rows the
        same score, e.g. because they begin alike and it reads no more than the beginning: it has no part in the sum.
        """
        models, weights = self.weighted(by)
        question = Question.of([self.encode(model, queries) for model in models], weights)
        return Best.joined([self._standardised(part, models, k, collections) for part in question.batches(k)])

    def _standardised(self, question: Question, models: Sequence[str], k: int, collections: Sequence[str]) -> Best:
        with self._damage_named(models, collections):
            mean, deviation = moments(question, self.blocks(models, collections))
        weights = np.where(deviation > _FLAT, question.weights / np.maximum(deviation, _FLAT), 0.0)
        question = Question(vectors=question.vectors, weights=weights)
        best = search_all(question, lambda: self.blocks(models, collections), k)
        return Best(positions=best.positions, scores=best.scores - (mean * weights).sum(axis=1)[:, None])

    @contextlib.contextmanager
    def _damage_named(self, names: Sequence[str], collections: Sequence[str]) -> Iterator[None]:
        """Name the file of a damaged row: to leave the row out would answer as if its chunk were not there."""
        try:
            yield
        except DamagedRowError as exc:
            location = self.row_index(collections).location(exc.position)
            file = self._folder.path / self._file(names[exc.model], location.collection, location.shard)
            raise OutputError(
                f"{file} is damaged, its row {location.row} is not a vector (NaN, infinity or a norm far from 1): "
                f"soloist verify {self._folder.path} lists all that is wrong, and the command that made the run "
                "repairs it"
            ) from exc

    def weighted(self, by: By) -> tuple[list[str], list[float]]:
        """The models that have a weight in a fusion at query time, and their weights: the others need not be run."""
        used = [(model, weight) for model, weight in zip(self.models, self.weights(by), strict=True) if weight]
        return [model for model, _ in used], [weight for _, weight in used]

    def blocks(self, names: Sequence[str], collections: Sequence[str] = ()) -> Iterator[Block]:
        """The vectors by each of these names, the same rows of each at a time (see `RunVectors.blocks`)."""
        return zip(*(self.vectors(name, collections).blocks() for name in names), strict=True)

    def _chosen(self, collections: Sequence[str]) -> tuple[str, ...]:
        collections = list_of_texts("collections", collections, "names")
        for name in collections:
            if name not in self.collections:
                raise ConfigError(f"the run has no collection {name}: choose one of {', '.join(self.collections)}")
        return tuple(dict.fromkeys(collections)) or self.collections

    def chunks_at(self, positions: NDArray[np.int64], collections: Sequence[str] = ()) -> dict[int, tuple[str, Chunk]]:
        """Collection and chunk of each of these rows; every shard is read once."""
        index = self.row_index(collections)
        rows: dict[tuple[str, int], dict[int, int]] = {}
        for position in np.unique(positions).tolist():
            location = index.location(position)
            rows.setdefault((location.collection, location.shard), {})[location.row] = position
        return {
            position: (collection, chunk)
            for (collection, shard), some in rows.items()
            for position, chunk in zip(
                some.values(), self._folder.shards.read_chunks(collection, shard, list(some)), strict=True
            )
        }


def _hits(
    positions: NDArray[np.int64], scores: NDArray[np.float64], chunks: Mapping[int, tuple[str, Chunk]]
) -> list[Hit]:
    found: list[Hit] = []
    for rank, (position, score) in enumerate(zip(positions.tolist(), scores.tolist(), strict=True), start=1):
        collection, chunk = chunks[position]
        found.append(
            Hit(
                rank=rank, score=score, collection=collection, id=chunk.id, text=chunk.text,
                metadata=dict(chunk.metadata), source_file=chunk.source_file, source_index=chunk.source_index,
            )
        )  # fmt: skip
    return found
