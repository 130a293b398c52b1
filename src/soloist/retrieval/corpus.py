"""What is ranked: the chunks of some collections of a finished run, row by row, with their ids, texts and vectors.

Knows the files of a run, and how a query becomes a vector. Knows nothing of how the rows are ranked.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.errors import OutputError
from soloist.fusion_methods import FUSED
from soloist.retrieval import first_look
from soloist.retrieval.exact import Block, DamagedRowError, WeightedQueries, search_all
from soloist.retrieval.first_look import FEW, CodedVectors, Room
from soloist.retrieval.member_scores import MemberScores, QuestionScores, dense_scores
from soloist.retrieval.posted_scores import SparseScores, TermScores, WordScores
from soloist.retrieval.query_vectors import QueryVectors
from soloist.retrieval.rankings import Rankings
from soloist.retrieval.row_index import RowIndex
from soloist.retrieval.run_record import RunRecord
from soloist.retrieval.run_vectors import RunVectors
from soloist.stores import RunFolder
from soloist.stores.index_files import open_index
from soloist.stores.index_reading import InvertedIndex
from soloist.stores.mapped import MappedVectors
from soloist.types import Chunk
from soloist.wording import count_text

_MOST_CORPORA = 16  # that an opened run keeps


class Corpus:
    """The chunks of some collections, in the order of collections, shards and rows; what is read is kept open.

    A ranker reads what it needs: vectors in blocks, texts, or queries as vectors. Everything that gives rows or
    vectors raises OutputError where a file is missing, damaged, or of other rows.
    """

    def __init__(
        self, folder: RunFolder, record: RunRecord, queries: QueryVectors, collections: Sequence[str], room: Room
    ) -> None:
        self.record = record
        self.queries = queries
        self.index = RowIndex(folder, collections)
        self._folder = folder
        self._room = room
        self._vectors: dict[str, RunVectors] = {}
        self._words: dict[str, WordScores] = {}
        self._sparse: dict[str, SparseScores] = {}
        self._coded: dict[str, CodedVectors] = {}

    @property
    def rows(self) -> int:
        """How many chunks there are."""
        return self.index.rows

    @functools.cached_property
    def whole(self) -> Corpus:
        """The chunks of all collections of the run, to which a fusion is fitted."""
        return Corpus(self._folder, self.record, self.queries, self.record.collections, self._room)

    def let_go(self) -> None:
        """Give the memory of codes back, for a corpus that nobody is to ask any more."""
        for coded in self._coded.values():
            coded.let_go()
        if "whole" in self.__dict__:
            self.whole.let_go()

    def ids(self) -> Iterator[tuple[str, str]]:
        """Collection and id of every row, in order; they are read once."""
        for (collection, _), ids in zip(self.index.shards, self._ids_of_shards, strict=True):
            for id_ in ids:
                yield collection, id_

    @functools.cached_property
    def _ids_of_shards(self) -> Sequence[Sequence[str]]:
        """An evaluation asks for the ids itself, and once more for each fusion whose messages name rows."""
        return [self._folder.shards.read_ids(collection, shard) for collection, shard in self.index.shards]

    def chunks(self) -> Iterator[Chunk]:
        """The chunk of every row, in order."""
        for collection, shard in self.index.shards:
            yield from self._folder.shards.read_chunks(collection, shard)

    def texts(self) -> Iterator[Sequence[str]]:
        """The texts of every shard, in order."""
        for collection, shard in self.index.shards:
            yield self._folder.shards.read_shard(collection, shard).texts

    def chunks_at(self, positions: Sequence[NDArray[np.int64]]) -> dict[int, tuple[str, Chunk]]:
        """Collection and chunk of each of these rows, by position; every shard is read once."""
        rows: dict[tuple[str, int], dict[int, int]] = {}
        for position in np.unique(np.concatenate(positions)).tolist():
            location = self.index.location(position)
            rows.setdefault((location.collection, location.shard), {})[location.row] = position
        chunks: dict[int, tuple[str, Chunk]] = {}
        for (collection, shard), wanted in rows.items():
            read = self._folder.shards.read_chunks(collection, shard, list(wanted))
            chunks.update((wanted[row], (collection, chunk)) for row, chunk in zip(wanted, read, strict=True))
        return chunks

    def vectors(self, name: str) -> RunVectors:
        """The vectors of all rows by a model, or the fused ones, whose name is `fused`."""
        if name not in self._vectors:
            files = [
                (collection, _mapped(self._folder, self._file(name, collection, shard), rows))
                for collection, shard, rows in self.index.shard_rows()
            ]
            self._vectors[name] = RunVectors(name, files, self._folder.path)
        return self._vectors[name]

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Blocks of the same rows by all of these names, one after the other (see `RunVectors.blocks`)."""
        return zip(*(self.vectors(name).blocks() for name in names), strict=True)

    def nearest(self, names: Sequence[str], queries: WeightedQueries, k: int) -> Rankings:
        """The `k` rows of the highest weighted cosines by the vectors of these names."""
        with self.damage_named(names):
            if len(queries.weights) <= FEW:
                return first_look.search([self._coded_vectors(name) for name in names], queries, k)
            return search_all(queries, lambda: self.blocks(names), k)

    def words(self, member: str) -> WordScores:
        """What scores the rows by the words of a lexical member; its indexes stay mapped."""
        if member not in self._words:
            self._words[member] = WordScores(self._indexes(member))
        return self._words[member]

    def sparse(self, member: str) -> SparseScores:
        """What scores the rows by the weights of a sparse model; its indexes stay mapped."""
        if member not in self._sparse:
            self._sparse[member] = SparseScores(self._indexes(member))
        return self._sparse[member]

    def _indexes(self, member: str) -> list[InvertedIndex]:
        counts: dict[str, int] = {}
        for collection, _, rows in self.index.shard_rows():
            counts[collection] = counts.get(collection, 0) + rows
        return [_index(self._folder, collection, member, rows) for collection, rows in counts.items()]

    def question_scores(self, names: Sequence[str], queries: Sequence[str]) -> Iterator[QuestionScores]:
        """The scores of all rows by each of these members, one question after the other.

        `fused` may be among the names. Dense vectors are read once for as many questions as memory takes.
        """
        dense = [name for name in names if self.record.is_dense(name)]
        vectors = {name: self.queries.by_name(name, queries) for name in dense}
        with self.damage_named(dense):
            found: Iterator[dict[str, MemberScores]] = (
                dense_scores(
                    vectors, self.rows, lambda: self.blocks(dense), lambda name, rows: self.vectors(name).at(rows)
                )
                if dense
                else ({} for _ in queries)
            )
            posted = [self._posted(name, queries) for name in names if name not in vectors]
            for scores, *others in zip(found, *posted, strict=True):
                by_name = iter(others)
                yield QuestionScores(
                    members={name: scores[name] if name in scores else next(by_name) for name in names}
                )

    def _posted(self, member: str, queries: Sequence[str]) -> Iterator[MemberScores]:
        """The scores of each question by a member with an index."""
        for terms in self.posted_terms(member, queries):
            yield MemberScores.of_terms(terms, self.rows)

    def posted_terms(self, member: str, queries: Sequence[str]) -> Iterator[list[TermScores]]:
        """What the terms of each question add to the rows, by a lexical or a sparse member."""
        if member in self.record.words:
            return (self.words(member).terms(self.queries.words(member, query)) for query in queries)
        return (self.sparse(member).terms(*row) for row in self.queries.sparse(member, queries))

    def posted_bytes(self, member: str) -> int:
        """What the rows and the indexes of a member that is not dense take on the disk, in these collections."""
        collections = {collection for collection, _ in self.index.shards}
        records = self._folder.manifest.read().values()
        return sum(
            record.bytes
            for record in records
            if record.kind in ("vectors", "index") and record.model == member and record.collection in collections
        )

    def _coded_vectors(self, name: str) -> CodedVectors:
        if name not in self._coded:
            self._coded[name] = CodedVectors(self.vectors(name), self._room)
        return self._coded[name]

    @contextlib.contextmanager
    def damage_named(self, names: Sequence[str]) -> Iterator[None]:
        """Name the file of a damaged row: to leave the row out would answer as if its chunk were not there."""
        try:
            yield
        except DamagedRowError as exc:
            location = self.index.location(exc.position)
            file = self._folder.path / self._file(names[exc.model], location.collection, location.shard)
            raise OutputError(
                f"{file} is damaged: its row {location.row} has NaN, infinity or a norm far from 1. Run soloist verify "
                f"{self._folder.path} to list all damage, and the command that made the run to repair it"
            ) from exc

    def _file(self, name: str, collection: str, shard: int) -> str:
        if name == FUSED:
            return self._folder.shards.fused_file(collection, shard)
        return self._folder.shards.vectors_file(collection, name, shard)


class Corpora:
    """The corpora of an opened run by their collections: the last few that were asked for. Any thread may ask.

    Clients of a server may name collections in any order: each order is a corpus, and there are more than memory takes.
    """

    def __init__(self, open_it: Callable[[Sequence[str]], Corpus]) -> None:
        self._open_it = open_it
        self._kept: dict[Sequence[str], Corpus] = {}
        self._lock = threading.Lock()

    def of(self, collections: Sequence[str]) -> Corpus:
        """The corpus of these collections.

        Raises:
            OutputError: the run cannot be read.
        """
        with self._lock:
            corpus = self._kept.pop(collections, None) or self._open_it(collections)
            self._kept[collections] = corpus
            if len(self._kept) > _MOST_CORPORA:
                self._kept.pop(next(iter(self._kept))).let_go()
            return corpus


def _index(folder: RunFolder, collection: str, member: str, rows: int) -> InvertedIndex:
    index = open_index(folder.path, collection, member)
    if index.rows != rows:
        raise OutputError(
            f"{index.path} is of {count_text(index.rows, 'row')}, and {collection} has {count_text(rows, 'chunk')}: "
            "run the command that made the run again"
        )
    return index


def _mapped(folder: RunFolder, name: str, rows: int) -> MappedVectors:
    file = MappedVectors.open(folder.path / name)
    if file.rows != rows:
        raise OutputError(
            f"{folder.path / name} has {count_text(file.rows, 'row')} for {count_text(rows, 'chunk')}: run the command "
            "that made the run again"
        )
    return file
