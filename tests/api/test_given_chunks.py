"""Chunks as Python has them: every form gives the same run, ids hold, and resume computes what is new."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import os
import signal
import types
import uuid
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from support.invoking import invoke

import soloist
from soloist.config import SourceConfig
from soloist.errors import BadChunkError, ConfigError, DuplicateIdError, OutputError
from soloist.events import PassStarted
from soloist.sources import given_input, read_chunks
from soloist.sources.given_items import given_items

TEXTS = ["a lease of a device", "the norm of a vector", "memory that is given back", "a fusion of models"]
IDS = ["a", "b", "c", "d"]
TOPICS = ["lease", "norm", "memory", None]
ROWS = [{"id": id_, "text": text, "topic": topic} for id_, text, topic in zip(IDS, TEXTS, TOPICS, strict=True)]


class Document:
    """What LangChain's documents have in public."""

    def __init__(self, page_content: str, metadata: dict, id: str | None = None) -> None:
        self.page_content, self.metadata, self.id = page_content, metadata, id


class Node:
    """What the nodes and documents of LlamaIndex have in public."""

    def __init__(self, text: str, metadata: dict, node_id: str) -> None:
        self._text, self.metadata, self.node_id = text, metadata, node_id

    def get_content(self) -> str:
        return self._text


def columns() -> dict[str, list]:
    return {name: [row[name] for row in ROWS] for name in ("id", "text", "topic")}


FORMS = {
    "Chunk": lambda: [soloist.Chunk(id=r["id"], text=r["text"], metadata={"topic": r["topic"]}) for r in ROWS],
    "dicts": lambda: ROWS,
    "a generator": lambda: iter(ROWS),
    "pandas": lambda: pandas.DataFrame(ROWS),
    "pandas with an index": lambda: pandas.DataFrame(ROWS).set_index("id"),
    "polars": lambda: polars.DataFrame(ROWS),
    "an Arrow table": lambda: pa.table(columns()),
    "Arrow batches": lambda: pa.table(columns()).to_reader(max_chunksize=2),
    "an Arrow batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "DuckDB": lambda: duckdb.from_arrow(pa.table(columns())),
    "datasets": lambda: datasets.Dataset.from_dict(columns()),
    "LangChain": lambda: [Document(r["text"], {"topic": r["topic"]}, r["id"]) for r in ROWS],
    "LlamaIndex": lambda: [Node(r["text"], {"topic": r["topic"]}, r["id"]) for r in ROWS],
}


@pytest.fixture
def embed(settings):
    """`embed(chunks, **more)`: a run, continued by each further call; how many chunks of it were computed."""

    def run(chunks, **more) -> int:
        model = soloist.embed(chunks, **{**settings, **more}).models[0]
        return model.embedded

    return run


def stored(out: Path) -> dict[str, list[soloist.Chunk]]:
    """The chunks of a run by collection, in order."""
    run = soloist.open_run(out)
    return {name: [*run.chunks([name])] for name in run.collections}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_chunks(form, embed, settings):
    """A notebook had to write JSON Lines to a folder first, whatever it had its texts in."""
    assert embed(FORMS[form]()) == 4
    (chunks,) = stored(settings["out"]).values()
    assert [(chunk.id, chunk.text, chunk.metadata) for chunk in chunks] == [
        (row["id"], row["text"], {"topic": row["topic"]}) for row in ROWS
    ]
    assert [(chunk.source_file, chunk.source_index) for chunk in chunks] == [(None, index) for index in range(4)]
    assert embed(FORMS[form]()) == 0, "the same chunks again compute nothing"


def test_a_hit_tells_its_row_and_nothing_else_is_left(embed, settings):
    """Whoever has a table of 100,000 rows wants the row of a hit."""
    embed(pandas.DataFrame(ROWS), models=["wordllama"])
    (hit,) = soloist.open_run(settings["out"]).search("the norm of vectors", k=1)
    assert (hit.collection, hit.id, hit.source_index) == ("chunks", "b", 1)
    assert {path.name for path in settings["out"].rglob("*.jsonl")} == {
        "manifest.jsonl",
        "events.jsonl",
        "skipped.jsonl",
    }
    verified = invoke("verify", settings["out"])
    assert verified.exit_code == 0 and "no problems" in verified.stdout


def test_texts_without_ids_keep_theirs_when_others_come_and_go(embed, settings):
    """An id that is made of the position changes for all texts behind a new one, and exports write every row again."""
    embed([*TEXTS, TEXTS[0]])
    before = [chunk.id for chunk in stored(settings["out"])["chunks"]]
    assert len(set(before)) == 5, "two equal texts have two ids"
    assert embed(["a new text", *TEXTS, TEXTS[0]]) == 1
    assert [chunk.id for chunk in stored(settings["out"])["chunks"]][1:] == before
    assert embed([TEXTS[0], "another text", *TEXTS[2:]]) == 1, "one text changed"
    after = [chunk.id for chunk in stored(settings["out"])["chunks"]]
    assert [after[0], *after[2:]] == [before[0], *before[2:4]]


def test_a_mapping_has_collections(embed, settings):
    """All texts in one collection cannot be searched apart."""
    assert embed({"docs": TEXTS[:2], "code": (text for text in TEXTS[2:])}) == 4
    found = stored(settings["out"])
    assert {name: [chunk.text for chunk in chunks] for name, chunks in found.items()} == {
        "code": TEXTS[2:], "docs": TEXTS[:2],
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"has the collection code, which is not given now: give its chunks too, or "):
        embed({"docs": TEXTS[:2]})
    with pytest.raises(ConfigError, match=r"has vectors of the collection code, which this command leaves out: name "):
        embed({"docs": TEXTS[:2], "code": TEXTS[2:]}, collections=["docs"])
    assert embed({"docs": TEXTS[:2], "code": pandas.DataFrame({"text": []})}) == 0
    assert [*stored(settings["out"])] == ["docs"]


COLUMNS = {
    "pandas": lambda: pandas.DataFrame(ROWS)["text"],
    "polars": lambda: polars.DataFrame(ROWS)["text"],
    "Arrow": lambda: pa.table(columns())["text"],
    "numpy": lambda: np.array(TEXTS),
    "datasets": lambda: datasets.Dataset.from_dict(columns())["text"],
}


def read(given, **source) -> list[soloist.Chunk]:
    config = SourceConfig(**source)
    (collection,) = given_input(given, config).collections
    return [chunk for chunk, _ in read_chunks(collection, config, pytest.fail)]


FRAME = pandas.DataFrame(ROWS)
INDEXES = {
    "that stays a column": lambda: FRAME.set_index("id", drop=False),
    "of missing values too": lambda: FRAME.set_index("topic", drop=False),
    "of two levels": lambda: FRAME.set_index(["id", "topic"]),
    "of two levels that stay columns": lambda: FRAME.set_index(["id", "topic"], drop=False),
    "of two levels of which one stays": lambda: FRAME.set_index("id", drop=False).set_index("topic", append=True),
}


@pytest.mark.parametrize("form", INDEXES)
def test_an_index_of_pandas_is_a_column_once(form):
    """`set_index("id", drop=False)` ended in a traceback of pandas."""
    assert [(chunk.id, chunk.text, chunk.metadata) for chunk in read(INDEXES[form]())] == [
        (row["id"], row["text"], {"topic": row["topic"]}) for row in ROWS
    ]


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (pandas.DataFrame([["a", 1, 2]], columns=["text", "n", "n"]), "'n'"),
        (pandas.DataFrame([["a", "b"]], columns=["text", "text"]), "'text'"),
        (pandas.DataFrame([["a", 1, 2]], columns=["text", 1, "1"]), "'1'"),
        (FRAME.set_index(pandas.Index(range(4), name="id")), "'id'"),
        (pa.table([["a"], [1], [2]], names=["text", "n", "n"]), "'n'"),
    ],
)
def test_columns_of_one_name_are_refused(frame, name):
    """All but one of them were lost without a word."""
    with pytest.raises(ConfigError) as caught:
        read(frame)
    assert str(caught.value) == (
        f'what was given as "chunks" has several columns with the same name ({name}), and only one of them could be '
        "kept: rename the others (a named index of pandas is a column too)"
    )


def test_messages_name_settings_and_not_options():
    """A notebook has no `--text-field`."""
    for given, source, said in (
        ([{"body": "a"}], {}, "; give text_field= to name another field"),
        ([{"text": "a"}], {"id_field": "key"}, r" \(give id_field= to name another field\)"),
        ([{"text": "a", "id": 1.5}], {}, r" \(give id_field= to name another field\)"),
        (pa.table({"text": [1]}), {}, r" \(give text_field= to name another column\)"),
    ):
        with pytest.raises(soloist.SoloistError, match=said):
            read(given, **source)


@pytest.mark.parametrize("form", COLUMNS)
def test_a_column_is_a_list_of_texts(form):
    """A column of a table has some of the attributes of a table."""
    assert [chunk.text for chunk in read(COLUMNS[form]())] == TEXTS


def test_a_dataset_dict_has_its_splits_as_collections(embed, settings):
    """`load_dataset` gives one, and its names were taken for texts."""
    embed(datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns())}))
    assert [chunk.id for chunk in stored(settings["out"])["train"]] == IDS


def test_a_stopped_run_goes_on(settings):
    """If the caller makes the generator again, only the chunks that are left are embedded."""
    chunks = [f"text {number} of a lease" for number in range(95)]

    def press(event):
        if isinstance(event, PassStarted):
            os.kill(os.getpid(), signal.SIGINT)  # to the process, as a terminal does: this is not the main thread

    way_on = r"soloist\.embed with the same settings and with the chunks from their start \(a new generator\) continues"
    with pytest.raises(soloist.RunStoppedError, match=way_on):
        soloist.embed((text for text in chunks), press, **settings, isolation="process")
    call = "call soloist.embed again with its chunks and settings, because they came from Python"
    for command, line in (
        ("status", f"(stopped by Ctrl-C): {call} to continue it"),
        ("verify", f"{call} to continue it;"),
    ):
        assert line in invoke(command, settings["out"]).stdout, "no command can give the chunks"
    with pytest.raises(OutputError, match=call):
        soloist.open_run(settings["out"])
    result = soloist.embed((text for text in chunks), **settings, isolation="process")
    assert result.models[0].chunks == 95


def test_values_that_json_lacks_become_text_and_missing_ones_null(embed, settings):
    """A timestamp or a missing number of a table ended the run, or came back as another value."""
    frame = pandas.DataFrame(
        {
            "text": TEXTS[:2],
            "when": [pandas.Timestamp("2026-01-02T03:04:05"), pandas.NaT],
            "size": [1.5, float("nan")],
            "count": pandas.array([3, None], dtype="Int64"),
            "metadata": ['{"title": "one"}', None],
            "tags": [["x"], {"y": [1]}],
        }
    )
    values = {
        "path": Path("a/b"), "price": decimal.Decimal("1.10"), "day": datetime.date(2026, 1, 2), "one": np.float32(0.5),
        "key": uuid.UUID(int=1), "row": np.arange(2),
    }  # fmt: skip
    embed({"table": frame, "dicts": [{"text": TEXTS[2], **values}]})
    found = stored(settings["out"])
    assert [chunk.metadata for chunk in found["table"]] == [
        {"title": "one", "when": "2026-01-02T03:04:05", "size": 1.5, "count": 3, "tags": ["x"]},
        {"when": None, "size": None, "count": None, "tags": {"y": [1]}},
    ]
    assert found["dicts"][0].metadata == {
        "path": "a/b", "price": "1.10", "day": "2026-01-02", "one": 0.5, "key": str(uuid.UUID(int=1)), "row": [0, 1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        (["a", None, "b"], 'chunk 1 of "docs" is not a chunk: it is of the type NoneType, and soloist takes '),
        ([{"text": None}], "chunk 0 of \"docs\" is not a chunk: its 'text' is null, not a string: repair it, "),
        ([{"body": "a"}], "chunk 0 of \"docs\" is not a chunk: it has no 'text' (its fields are 'body'"),
        (pandas.DataFrame({"text": ["a", None]}), 'chunk 1 of "docs" is not a chunk: its \'text\' is null'),
        ([{"text": "a", "tags": {1, 2}}], 'chunk 0 of "docs" cannot be stored: it has a value of the type set, and '),
        ([{"text": "a", "n": float("nan")}], 'chunk 0 of "docs" cannot be stored: its metadata has NaN or infi'),
        (["a", {"text": "b", "id": "1"}], 'chunk 0 of "docs" has no id, but chunk 1 has one: give every chunk an id'),
        ([{"text": "a", "id": "1"}, "b"], 'chunk 1 of "docs" has no id, but chunk 0 has one: give every chunk an id'),
    ],
)  # fmt: skip
def test_what_is_not_a_chunk_is_named_by_its_index(chunks, said, embed, settings):
    """The traceback of a library names everything but the row."""
    with pytest.raises(BadChunkError) as caught:
        embed({"docs": chunks})
    assert str(caught.value).startswith(said)
    assert not settings["out"].exists()


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ({"docs": "a text"}, 'what was given as "docs" is one str: give a list of chunks'),
        ({"docs": {"a", "b"}}, 'what was given as "docs" is a set, which has no order: give a list of chunks'),
        ({"docs": 3}, 'what was given as "docs" is of the type int: give a list of chunks, or a table'),
        (Document("a", {}), 'what was given as "chunks" is one Document: give a list of chunks'),
        (polars.LazyFrame({"text": ["a"]}), 'what was given as "chunks" is a table of the type LazyFrame, which '),
        (pandas.DataFrame({"body": ["a"]}), "what was given as \"chunks\" has no column 'text', and its "),
        (pa.table({"text": [1]}), "what was given as \"chunks\" has int64 instead of text in its column 'text'"),
        ({"text": ["a"], "id": ["1"]}, "a mapping has collections by name, but one name is 'text', "),
        ({3: ["a"]}, "a collection has the name 3: give a text that is not empty"),
        ({}, "there are no collections in the mapping of chunks: give chunks under a name"),
        (None, "soloist.embed has None as its chunks: give a folder of chunks, or chunks"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::polars.exceptions.PerformanceWarning")
def test_what_has_no_chunks_is_one_sentence(chunks, said, embed, settings):
    """The letters of a text, or the names of columns, would be embedded as chunks."""
    with pytest.raises(ConfigError) as caught:
        embed(chunks)
    assert str(caught.value).startswith(said)
    assert not settings["out"].exists()


def test_bad_chunks_are_left_out_where_that_is_asked_for(embed, settings):
    """One row of a million is faulty."""
    chunks = [{"text": "a lease", "id": 1}, None, "", {"text": "of a device"}, {"text": "  ", "id": 2}]
    assert embed({"docs": chunks}, on_bad_input="skip") == 1
    assert [chunk.id for chunk in stored(settings["out"])["docs"]] == ["1"]
    lines = (settings["out"] / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == 4 and '"file": "docs", "index": 1, "reason": "not a chunk"' in lines[0]


def test_an_id_twice_names_both_chunks(embed):
    """An error about two equal ids must name both rows: a table may have 100,000 of them."""
    with pytest.raises(DuplicateIdError, match=r"the same id 'a', docs \(chunk 0\) and docs \(chunk 4\): "):
        embed({"docs": [*ROWS, ROWS[0]]})


def test_an_error_of_a_generator_is_the_callers(embed, settings):
    """The error of the caller's generator was wrapped in a sentence of ours, which hid its cause."""

    def broken():
        yield "a"
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        embed(broken())
    assert not settings["out"].exists()


def test_a_generator_that_was_read_keeps_the_run(embed, settings):
    """A cell that is run twice gives an empty generator, and took its collection out of the run."""
    generator = (text for text in TEXTS)
    embed({"docs": TEXTS[:1], "code": generator})
    said = '^what was given as "code" is of the type generator, and has no items or none that are left: give a new one'
    with pytest.raises(ConfigError, match=said):
        embed({"docs": TEXTS[:1], "code": generator})
    assert [len(chunks) for chunks in stored(settings["out"]).values()] == [4, 1]


@pytest.mark.parametrize("form", ["generator", "map"])
def test_the_rest_of_an_iterator_is_not_the_run(form, embed, settings):
    """What Ctrl-C left in a generator became the whole run, and the earlier chunks left it."""

    def interrupting(text):
        signal.raise_signal(signal.SIGINT)
        return text

    embed(TEXTS)
    chunks = map(interrupting, TEXTS) if form == "map" else (interrupting(text) for text in TEXTS)
    way_on = r"embed with the same settings and with the chunks from their start \(a new generator\) continues the run$"
    with pytest.raises(soloist.RunStoppedError, match=way_on):
        embed(chunks)
    for again in (chunks, {"chunks": chunks}):
        with pytest.raises(ConfigError, match=f"^the chunks of 'chunks' are a {form} that soloist began to read "):
            embed(again)
    assert len(stored(settings["out"])["chunks"]) == 4
    assert embed(map(str, TEXTS)) == 0, "a new iterator is taken"


def test_a_repaired_setting_wants_a_new_iterator(embed, settings):
    """`on_bad_input="skip"`, which the error recommends, embedded only what came behind the bad chunk."""
    chunks = iter([{"text": "a"}, {"text": None}, {"text": "b"}])
    with pytest.raises(BadChunkError, match="leave it out with on_bad_input="):
        embed(chunks)
    with pytest.raises(ConfigError, match="are a list_iterator that soloist began to read before"):
        embed(chunks, on_bad_input="skip")
    table = pa.table({"body": TEXTS}).to_reader()
    with pytest.raises(ConfigError, match="has no column 'text'"):
        embed(table)
    assert embed(table, text_field="body") == 4, "of this one no row was read"


def test_plan_and_validate_take_them_too_and_use_up_nothing(tmp_path, settings):
    """A plan that reads a generator leaves nothing to embed."""
    plan = soloist.plan(pandas.DataFrame(ROWS), models=["wordllama"], accelerator="cpu")
    assert (plan.chunks, plan.models[0].rows) == (4, 4)
    for function, more in ((soloist.plan, {}), (soloist.validate, {"out": tmp_path / "report"})):
        with pytest.raises(ConfigError, match="would use up the chunks of 'chunks', because a generator can be read "):
            function((text for text in TEXTS), models=["wordllama"], accelerator="cpu", **more)


def test_the_command_line_does_not_replace_them(embed, config, settings, tmp_path):
    """`soloist embed CHUNKS --out RUN` took all chunks of the run away, and put those of the folder in their place."""
    embed(TEXTS)
    result = invoke("embed", config.chunks_root, "--out", settings["out"], "--accelerator", "cpu")
    assert result.exit_code == 2
    assert (
        f"{settings['out']} has chunks that were given to soloist.embed in Python, and {config.chunks_root} would "
        "replace them: continue the run in Python, or choose another --out with --reuse"
    ) in result.stderr
    assert embed(TEXTS) == 0
    other = dataclasses.replace(config, out=tmp_path / "other")
    soloist.embed(other)
    with pytest.raises(ConfigError, match=r"has the chunks of the folder .*, and chunks that are given in Python"):
        embed(TEXTS, out=other.out)


def test_rows_are_taken_as_they_are_asked_for():
    """All rows of a table would become Python objects before the first row is embedded."""
    taken = []

    def numbers():
        for number in range(10):
            taken.append(number)
            yield str(number)

    items = given_items(numbers(), "text")
    assert isinstance(items, types.GeneratorType) and not taken
    assert next(items) == {"text": "0"} and taken == [0]
    table = pandas.DataFrame({"text": map(str, range(5_000))})
    assert next(given_items(table, "text")) == {"text": "0"}
