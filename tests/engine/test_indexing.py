"""The indexes of a run are derived from its rows: made once, made again where a collection changed, and never half."""

from __future__ import annotations

from collections import Counter

import pytest
from support.term_rows import term_rows

from soloist.engine.indexing import index_all, index_fingerprint, indexing, is_indexed
from soloist.errors import OutputError, RunStoppedError
from soloist.events import CollectionIndexed, ListSink
from soloist.ingestion.ingest import ShardRef
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.index_files import open_index
from soloist.stores.reconcile import reconcile_incoming
from soloist.types import Chunk

COLLECTIONS = {"notes": [["red house", "blue house"], ["red car"]], "other": [["blue sky"]]}


class Made:
    """A folder with these collections, whose words are the texts' own."""

    def __init__(self, path, collections):
        self.folder = RunFolder.create(path)
        self.sink = ListSink()
        self.shards = []
        for name, shards in collections.items():
            for index, texts in enumerate(shards):
                chunks = [Chunk(id=f"{name}-{index}-{row}", text=text) for row, text in enumerate(texts)]
                record = self.folder.shards.write_chunks(name, index, chunks)
                self.folder.manifest.append(record)
                self.shards.append(ShardRef(collection=name, index=index, rows=len(chunks), content=record.content))

    def rows(self, collection, member, index):
        """The words of a shard."""
        texts = self.folder.shards.read_shard(collection, index).texts
        return term_rows([Counter(text.split()) for text in texts])

    def what(self, fingerprint="0" * 16):
        """What is to be indexed."""
        return indexing({"bm25": fingerprint}, self.shards)

    def index(self, stop=None, **of):
        """Index it, and say which collections were."""
        before = len(self.sink.events)
        index_all(self.what(**of), self.folder, self.rows, self.sink, stop or Stop(None))
        assert is_indexed(self.what(**of), self.folder)
        return [event.collection for event in self.sink.events[before:] if isinstance(event, CollectionIndexed)]


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path / "run", COLLECTIONS)


def test_every_collection_has_an_index_of_all_its_shards(made):
    """A search would miss the words of the last shard, or count those of another collection."""
    assert not is_indexed(made.what(), made.folder)
    assert made.index() == ["notes", "other"]
    index = open_index(made.folder.path, "notes", "bm25")
    assert (index.rows, index.words) == (3, 6)
    assert index.postings(index.find("red")).rows.tolist() == [0, 2]
    assert open_index(made.folder.path, "other", "bm25").find("red") is None


def test_what_is_there_is_not_made_again(made):
    """Every repeated run would read all words once more."""
    made.index()
    assert made.index() == []
    assert made.index(fingerprint="1" * 16) == ["notes", "other"]


def test_only_a_changed_collection_is_indexed_again(made, tmp_path):
    """An index of other texts would stay, or all be made again for one chunk."""
    made.index()
    changed = {**COLLECTIONS, "other": [["green sky"]]}
    new = Made(tmp_path / "new", changed)
    (new.folder.path).rename(made.folder.incoming.path)
    reconcile_incoming(made.folder, lambda record: record.fingerprint == index_fingerprint("0" * 16))
    assert (made.folder.path / "notes/index/bm25/index.safetensors").is_file()
    assert not (made.folder.path / "other/index").exists()
    made.shards = new.shards
    assert made.index() == ["other"]
    assert open_index(made.folder.path, "other", "bm25").find("green") is not None


def test_a_collection_that_is_gone_takes_its_index_along(made, tmp_path):
    """A folder would be left that no run knows."""
    made.index()
    new = Made(tmp_path / "new", {"notes": COLLECTIONS["notes"]})
    new.folder.path.rename(made.folder.incoming.path)
    reconcile_incoming(made.folder, lambda record: True)
    assert not (made.folder.path / "other").exists()
    assert [record.collection for record in made.folder.manifest.read().values() if record.kind == "index"] == ["notes"]


def test_a_run_that_is_stopped_goes_on(made):
    """A part of an index would count as the whole, or a file be left that nobody removes."""
    stop = Stop(None)
    read = made.rows

    def rows(collection, member, index):
        if (collection, index) == ("notes", 1):
            stop.request("enough")
        return read(collection, member, index)

    made.rows = rows
    with pytest.raises(RunStoppedError):
        made.index(stop)
    assert not [record for record in made.folder.manifest.read().values() if record.kind == "index"]
    assert not list(made.folder.path.rglob("*.tmp"))
    made.rows = read
    assert made.index() == ["notes", "other"]


def test_rows_that_change_are_a_sentence(made):
    """A traceback would end the run."""
    texts = iter(["one", "two", "three", "four"])
    made.rows = lambda *_: term_rows([{next(texts): 1}])
    with pytest.raises(
        OutputError,
        match=r"index\.safetensors cannot be made: the rows of a member changed",
    ):
        made.index()
