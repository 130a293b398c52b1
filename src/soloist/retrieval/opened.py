"""A finished run, opened to be searched: the same models, prompts and fusion as made it.

run = soloist.open_run("run")
for hit in run.search("how is a device given back?", k=5):
    print(hit.score, hit.id, hit.text)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.errors import ConfigError
from soloist.fusion import Fitted
from soloist.fusion_methods import FUSED
from soloist.models.spec import ModelSpec
from soloist.models.whereabouts import catalogue_there, spec_in_run
from soloist.retrieval.corpus import Corpora, Corpus
from soloist.retrieval.first_look import Room
from soloist.retrieval.hits import Hits
from soloist.retrieval.query_checks import checked_queries, checked_query
from soloist.retrieval.questions import Questions
from soloist.retrieval.rankers.choice import By, choice_of, chosen_ranker
from soloist.retrieval.rankings import Rankings
from soloist.retrieval.reasons import reasons
from soloist.retrieval.run_record import ModelRecord, RunRecord, read_record
from soloist.retrieval.run_vectors import RunVectors
from soloist.retrieval.second_stages import SecondStages, depth_of
from soloist.stores import RunFolder, Unchanged
from soloist.stores.fit_file import read_fit
from soloist.text_lists import list_of_texts
from soloist.types import Chunk, Hit
from soloist.wording import count_text

_HITS = 10


def open_run(
    path: str | Path,
    *,
    catalogue: str | Path | None = None,
    accelerator: str = "auto",
    lock_dir: str | Path | None = None,
) -> OpenedRun:
    """Open a finished run. Give a `catalogue` file of your models if those of the run are in other places now.

    A cross-encoder that reranks computes on `accelerator`, described as for a run. On devices it has a lease, whose
    locks are in `lock_dir`. Questions are embedded on the processor.

    Raises:
        OutputError: there is no finished run, or its files cannot be read.
    """
    opened = Unchanged.of(Path(path))  # before anything is read
    folder = RunFolder.open(Path(path))
    record = read_record(folder)
    given = Path(catalogue) if catalogue is not None else None
    stages = SecondStages(
        given or catalogue_there(record.config), accelerator, Path(lock_dir) if lock_dir is not None else None
    )
    return OpenedRun(folder, record, opened, given, stages)


def questions_of(folder: RunFolder, record: RunRecord, catalogue: Path | None = None) -> Questions:
    """The query side of a finished run. `catalogue` is a file of the user's models that goes before the run's own."""
    top = record.config.sparse_top or None

    def find(model: ModelRecord) -> ModelSpec:
        return replace(spec_in_run(model.name, record.config, catalogue), sparse_top=top)

    return Questions(folder.path, record, find, lambda: Fitted(matrices=read_fit(folder.path)))


class OpenedRun:
    """A finished run, made by `open_run`. If the run changes meanwhile, every method says so: then open it again."""

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        opened: Unchanged,
        catalogue: Path | None,
        second_stages: SecondStages,
    ) -> None:
        self.second_stages = second_stages
        self._folder = folder
        self._record = record
        self._opened = opened
        self._questions = questions_of(folder, record, catalogue)
        room = Room()
        self._corpora = Corpora(lambda names: Corpus(folder, record, self._questions.vectors, names, room))

    @property
    def record(self) -> RunRecord:
        """What run.json says of the run."""
        return self._record

    @property
    def path(self) -> Path:
        """The folder of the run."""
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
        """What was noticed about queries so far, such as that a model cut one."""
        return (*self._questions.notices, *self.second_stages.notices)

    @contextlib.contextmanager
    def unchanged(self, way_on: str = "open and search it again") -> Iterator[None]:
        """Within this, what is read of the run is that of the run that was opened: no new texts beside old vectors.

        Raises:
            OutputError: the run was changed meanwhile. That explains any other error, so it is raised in its place;
                `way_on` ends the sentence.
        """
        try:
            yield
        except Exception:
            self._opened.require(way_on)
            raise
        self._opened.require(way_on)

    def search(
        self,
        query: str,
        k: int | None = None,
        *,
        by: By | str | None = None,
        collections: Sequence[str] = (),
        explain: bool = False,
        rerank: str | Path | None = None,
        rerank_depth: int | None = None,
    ) -> Hits:
        """The `k` best chunks for a query; see `search_all`."""
        return self.search_all(
            [checked_query(query)], k, by=by, collections=collections, explain=explain,
            rerank=rerank, rerank_depth=rerank_depth,
        )[0]  # fmt: skip

    def search_all(
        self,
        queries: Sequence[str],
        k: int | None = None,
        *,
        by: By | str | None = None,
        collections: Sequence[str] = (),
        explain: bool = False,
        rerank: str | Path | None = None,
        rerank_depth: int | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> list[Hits]:
        """The `k` best chunks for each query, in as few passes over the vectors as memory allows.

        Without `k` they are 10, or all chunks if there are fewer. `by` is a `By`, or the name of a model or of a ranker
        ("hybrid", "fused", "rrf", "standardised"). Without it, a run with words ranks by all its members, and
        another run by the fused vectors or those of the only model. Without collections, all are searched.
        With `explain`, each hit has the `reasons` of every member, which all score all chunks for that.

        With `rerank`, a cross-encoder scores the question with each of the first `rerank_depth` chunks, and the hits
        are the best of them by these scores. It is a folder, a name in the catalogue or a hub id. Without a depth, it
        scores 100 chunks, or `k` if that is more. `progress` is told what is being done.

        Raises:
            ConfigError: a query is empty; `k` is more than there are chunks, or more than the ranker gives; the run has
                no such model, collection or ranker; a model on this machine is not the one that made the run; or the
                depth is less than 1, or less than `k`.
            ModelLoadError: the cross-encoder cannot be loaded, or gives other than one score for a pair.
            LeaseError: the cross-encoder's devices cannot be leased, or were not given back.
            OutputError: a file is missing, has changed or is damaged.
        """
        queries = checked_queries(queries)
        with self.unchanged():
            corpus, chosen = self.corpus(collections), choice_of(by, self._record)
            stage = self.second_stages.asked(rerank, rerank_depth)
            shown = _shown(k, rerank_depth, corpus.rows)
            depth = shown if stage is None else depth_of(rerank_depth, shown, corpus.rows)
            rankings, reranked = _ranked(corpus, queries, depth, chosen), None
            if stage is not None:
                reranked = stage.rerank(queries, rankings, corpus.chunks_at, progress).best(shown)
                rankings = reranked.rankings
            chunks = corpus.chunks_at(rankings.positions)
            found = [_hits(*ranked, chunks) for ranked in zip(rankings.positions, rankings.scores, strict=True)]
            if reranked is not None:
                found = list(map(_with_first, found, reranked.first_ranks, reranked.first_scores))
            if explain:
                found = [
                    Hits(replace(hit, reasons=why) for hit, why in zip(hits, every, strict=True))
                    for hits, every in zip(found, reasons(corpus, queries, rankings.positions), strict=True)
                ]
            return found

    def rank(self, queries: Sequence[str], k: int, *, by: By, collections: Sequence[str] = ()) -> Rankings:
        """The positions and scores of the `k` best rows for each query, without their texts; see `search_all`."""
        with self.unchanged():
            corpus = self.corpus(collections)
            return _ranked(corpus, checked_queries(queries), _shown(k, None, corpus.rows), by)

    @property
    def questions(self) -> Questions:
        """The query side of the run, as `open_questions` gives it."""
        return self._questions

    def encode(self, model: str, queries: Sequence[str]) -> Vectors:
        """The queries as a model sees them, its query prompt before each; see `Questions.encode`."""
        return self._questions.encode(queries, model)

    def encode_fused(self, queries: Sequence[str]) -> Vectors:
        """The queries' fused vectors, by the run's own fusion; see `Questions.encode`."""
        return self._questions.encode(queries, FUSED)

    def encode_words(self, member: str, queries: Sequence[str]) -> list[dict[str, int]]:
        """For each query its terms as a lexical member cuts the chunks; see `Questions.encode_words`."""
        return self._questions.encode_words(queries, member)

    def encode_sparse(self, model: str, queries: Sequence[str]) -> list[dict[int, float]]:
        """For each query its dimensions by a sparse model, and their weights; see `Questions.encode_sparse`."""
        return self._questions.encode_sparse(queries, model)

    def corpus(self, collections: Sequence[str] = ()) -> Corpus:
        """The chunks of some collections, or of all, as rankers read them.

        Raises:
            ConfigError: the run has no such collection.
        """
        names = list_of_texts("collections", collections, "names")
        for name in names:
            if name not in self.collections:
                raise ConfigError(f"the run has no collection {name}: choose one of {', '.join(self.collections)}")
        return self._corpora.of(tuple(dict.fromkeys(names)) or self.collections)

    def chunks(self, collections: Sequence[str] = ()) -> Iterator[Chunk]:
        """The chunks of some collections, or of all, in the order of their rows."""
        return self.corpus(collections).chunks()

    def vectors(self, name: str, collections: Sequence[str] = ()) -> RunVectors:
        """The vectors of all rows by a model, or the fused ones, whose name is `fused`: ids and an array.

        Raises:
            ConfigError: the run has no such model or collection, or no fused vectors.
            OutputError: a file is missing or damaged.
        """
        self._record.require_vectors(name)
        return self.corpus(collections).vectors(name)


def _shown(k: object, depth: object, rows: int) -> int:
    """How many hits there are to be. Without `k` they are 10, or as many as there are chunks that can be hits.

    Raises:
        ConfigError: there are fewer chunks than `k`.
    """
    if k is None:
        most = depth if isinstance(depth, int) and depth > 0 else rows
        return min(_HITS, most, rows)
    if not isinstance(k, int) or not 1 <= k <= rows:
        possible = "of 1" if rows == 1 else f"from 1 to {rows}"
        raise ConfigError(f"k is {k!r}, but {count_text(rows, 'chunk')} can be found: give a k {possible}")
    return k


def _with_first(hits: Hits, ranks: NDArray[np.int64], scores: NDArray[np.float64]) -> Hits:
    """The hits of a second stage, each with its rank and score in the first."""
    first = zip(hits, ranks.tolist(), scores.tolist(), strict=True)
    return Hits(replace(hit, first_rank=rank, first_score=score) for hit, rank, score in first)


def _ranked(corpus: Corpus, queries: Sequence[str], k: int, by: By) -> Rankings:
    if not queries:
        raise ConfigError("there is no query: give at least one")
    return chosen_ranker(by, corpus).rank(queries, k)


def _hits(positions: NDArray[np.int64], scores: NDArray[np.float64], chunks: Mapping[int, tuple[str, Chunk]]) -> Hits:
    hits = Hits()
    for rank, (position, score) in enumerate(zip(positions.tolist(), scores.tolist(), strict=True), start=1):
        collection, chunk = chunks[position]
        hits.append(
            Hit(
                rank=rank, score=score, collection=collection, id=chunk.id, text=chunk.text,
                metadata=dict(chunk.metadata), source_file=chunk.source_file, source_index=chunk.source_index,
            )
        )  # fmt: skip
    return hits
