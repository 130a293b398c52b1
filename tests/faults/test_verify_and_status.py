"""`soloist verify` finds damage in files whose checksums hold; `soloist status` of every kind of folder."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fault_runs import MODELS, N_CHUNKS, On, flip, run_out_of_time
from typer.testing import CliRunner

from soloist.cli import app
from soloist.engine import run
from soloist.events import PassStarted, ShardEncoded
from soloist.reports.status import print_status
from soloist.reports.table import open_console
from soloist.stores import RunFolder
from soloist.stores.manifest import file_sha256
from soloist.stores.status import ModelStatus, RunStatus
from soloist.stores.tables import table_vectors
from soloist.stores.verification import verify_run

VECTORS, FUSED, CHUNKS = (f"alpha/{part}/part-00001.parquet" for part in ("vectors/one", "fused", "chunks"))


def rewrite(folder, file, change):
    """Write a file anew with other rows, and have the manifest vouch for it: the checksum shall not find it."""
    path = folder / file
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    manifest = RunFolder(folder).manifest
    records = manifest.read()
    size, sha256 = path.stat().st_size, file_sha256(path)
    records[file] = dataclasses.replace(records[file], bytes=size, sha256=sha256)
    manifest.replace(records.values())


def with_vectors(table, vectors):
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return table.set_column(1, pa.field("vector", column.type), column)


def changed_row(row, factor):
    def change(table):
        vectors = table_vectors(table)[1].copy()
        vectors[row] *= factor
        return with_vectors(table, vectors)

    return change


def without_a_row(table):
    return pa.concat_tables([table.slice(0, 2), table.slice(3)])


def with_a_row_twice(table):
    return pa.concat_tables([table, table.slice(2, 1)])


def in_another_order(table):
    return table.take([1, 0, *range(2, len(table))])


def shortened(table):
    vectors = table_vectors(table)[1][:, :-1]
    return with_vectors(table, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def of_another_text(table):
    texts = table["text"].to_pylist()
    return table.set_column(1, table.schema.field("text"), pa.array(["another", *texts[1:]], pa.large_string()))


def with_an_id_twice(table):
    ids = ["0", *table["id"].to_pylist()[1:]]
    return table.set_column(0, table.schema.field("id"), pa.array(ids, pa.string()))


def without_digests(table):
    return table.drop_columns(["text_digest"])


def of_other_columns(table):
    return table.rename_columns(["a", "b", *table.schema.names[2:]])


def with_an_empty_row(table):
    vectors = [None, *table["vector"].to_pylist()[1:]]
    return table.set_column(1, table.schema.field("vector"), pa.array(vectors, table.schema.field("vector").type))


# pyarrow below 26 does not read such a file at all.
READS_EMPTY_ROWS = int(pa.__version__.partition(".")[0]) >= 26
WITHOUT_A_VECTOR = "its column vector has rows without a vector" if READS_EMPTY_ROWS else "but index 1 had size=0"
IN = "alpha, shard 1, one: "
FUSED_IN = "alpha, shard 1, fused: "
AGAIN = "run the soloist embed command of this run again"
MADE_AGAIN = f"{AGAIN}, which makes it again"
REMOVED = "remove {}, and " + AGAIN
# What a problem ends with, by what it says; what is in no row is mended by removing its file.
REMEDIES = {
    "dimensions, but run.json says": REMOVED.format("{} and run.json"),
    "is there twice": f"{AGAIN}, which reads the chunks again",
    "made from other chunks": AGAIN,
    "chunks, but run.json says": REMOVED.format("run.json"),
}


def with_remedy(expected, file):
    """The whole sentence of a problem."""
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in expected), REMOVED)
    return f"{expected}: {remedy.format(file)}"


def do_what_is_said(config):
    """Remove the files that the problems say to remove, and embed again."""
    for problem in verify_run(RunFolder.open(config.out)).problems:
        remedy = problem.rpartition(": ")[2]
        for file in re.findall(r"[^ ,]+\.(?:parquet|json)", remedy):
            (config.out / file).unlink(missing_ok=True)
    run(config)
    assert verify_run(RunFolder.open(config.out)).problems == ()


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (VECTORS, without_a_row, f"{IN}no vector for '10'"),
        (
            VECTORS,
            with_a_row_twice,
            f"{IN}its vectors are not in the order of the chunks, or there are too many of them",
        ),
        (
            VECTORS,
            in_another_order,
            f"{IN}its vectors are not in the order of the chunks, or there are too many of them",
        ),
        (VECTORS, changed_row(1, np.nan), f"{IN}NaN or infinity in the vector of '9'"),
        (VECTORS, changed_row(1, np.inf), f"{IN}NaN or infinity in the vector of '9'"),
        (VECTORS, changed_row(1, 1.001), f"{IN}a norm other than 1 in the vector of '9'"),
        (VECTORS, changed_row(1, 0.0), f"{IN}a norm other than 1 in the vector of '9'"),
        (VECTORS, shortened, f"{IN}its vectors have 15 dimensions, but run.json says 16"),
        (VECTORS, without_digests, f"{IN}the vectors of its rows were made from other texts"),
        (VECTORS, of_other_columns, "does not exist in schema'"),
        (VECTORS, with_an_empty_row, WITHOUT_A_VECTOR),
        (FUSED, without_a_row, f"{FUSED_IN}no vector for '10'"),
        (
            FUSED,
            with_a_row_twice,
            f"{FUSED_IN}its vectors are not in the order of the chunks, or there are too many of them",
        ),
        (FUSED, changed_row(2, np.nan), f"{FUSED_IN}NaN or infinity in the vector of '10'"),
        (FUSED, changed_row(2, 0.9), f"{FUSED_IN}a norm other than 1 in the vector of '10'"),
        (FUSED, shortened, f"{FUSED_IN}its vectors have 39 dimensions, but run.json says 40"),
        (CHUNKS, of_another_text, f"{IN}the vectors of '8' were made from other texts"),
        (CHUNKS, of_another_text, f"{FUSED_IN}its vectors were made from other chunks"),
        (CHUNKS, with_an_id_twice, "alpha, shard 1: the id '0' is there twice"),
        (CHUNKS, without_a_row, "alpha has 19 chunks, but run.json says 20"),
        (CHUNKS, of_other_columns, "does not exist in schema'"),
    ],
)
def test_damage_that_the_checksums_do_not_know_is_found(copied, file, change, expected, fresh):
    """Checksums prove that a file is as it was written, and not that it was right. embed keeps it as it is."""
    rewrite(copied.out, file, change)
    problems = verify_run(RunFolder.open(copied.out)).problems
    of = VECTORS if expected.startswith(IN) else file
    assert any(problem.endswith(with_remedy(expected, of)) for problem in problems), problems
    assert not any("has changed since" in problem for problem in problems)
    assert all("\n" not in problem for problem in problems)
    do_what_is_said(copied)
    assert (copied.out / file).read_bytes() == fresh[file]


def as_float16(table):
    dim = table.schema.field("vector").type.list_size
    return table.set_column(1, "vector", table["vector"].cast(pa.list_(pa.float16(), dim)))


def as_float32(table):
    vectors = table_vectors(table)[1]
    return with_vectors(table, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def then_as_float16(change):
    return lambda table: as_float16(change(table))


@pytest.fixture
def halved(copied):
    """A finished run whose vectors are stored in float16."""
    config = dataclasses.replace(copied, vector_dtype="float16")
    run(config)
    assert verify_run(RunFolder.open(config.out)).problems == ()
    return config


OF_FLOAT32 = "its vectors are stored as float32, but {} says float16"


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (VECTORS, then_as_float16(changed_row(1, 1.001)), [f"{IN}a norm other than 1 in the vector of '9'"]),
        (VECTORS, then_as_float16(changed_row(1, 0.0)), [f"{IN}a norm other than 1 in the vector of '9'"]),
        (VECTORS, then_as_float16(changed_row(1, np.nan)), [f"{IN}NaN or infinity in the vector of '9'"]),
        (FUSED, then_as_float16(changed_row(2, 1.002)), [f"{FUSED_IN}a norm other than 1 in the vector of '10'"]),
        (VECTORS, as_float32, [f"{IN}{OF_FLOAT32.format(place)}" for place in ("run.json", "the manifest")]),
        (FUSED, as_float32, [f"{FUSED_IN}{OF_FLOAT32.format(place)}" for place in ("run.json", "the manifest")]),
    ],
)
def test_damage_in_float16_is_found(halved, file, change, expected):
    """A tolerance for rounding that takes all, or a file of the other dtype that nobody asked for."""
    rewrite(halved.out, file, change)
    assert list(verify_run(RunFolder.open(halved.out)).problems) == [with_remedy(each, file) for each in expected]
    do_what_is_said(halved)


@pytest.mark.parametrize("file", [VECTORS, FUSED])
def test_a_byte_of_a_float16_file_is_missed_and_mended(halved, file):
    """A number that is slightly another one leaves the norm within what rounding may do."""
    intact = (halved.out / file).read_bytes()
    flip(halved.out / file, 150)
    problems = verify_run(RunFolder.open(halved.out)).problems
    assert f"{file} has changed since it was written: {MADE_AGAIN}" in problems
    run(halved)
    assert (halved.out / file).read_bytes() == intact
    assert verify_run(RunFolder.open(halved.out)).problems == ()


@pytest.mark.parametrize("file", [VECTORS, FUSED])
def test_a_float16_file_in_a_float32_run_is_found(copied, file):
    """Vectors that lost bits on the way, in a run that says it has all of them."""
    rewrite(copied.out, file, as_float16)
    problems = verify_run(RunFolder.open(copied.out)).problems
    assert sum("its vectors are stored as float16, but " in problem for problem in problems) == 2, problems


def test_the_command_lists_all_and_exits_with_1(copied):
    """A script must see the fault by the code, and a person by the lines."""
    rewrite(copied.out, VECTORS, changed_row(0, 2.0))
    rewrite(copied.out, FUSED, without_a_row)
    shown = CliRunner().invoke(app, ["verify", str(copied.out)])
    assert shown.exit_code == 1
    assert shown.stdout.splitlines() == [
        with_remedy(f"{IN}a norm other than 1 in the vector of '8'", VECTORS),
        with_remedy(f"{FUSED_IN}no vector for '10'", FUSED),
        "27 chunks in 2 collections, 17 files: 2 problems",
    ]
    as_json = CliRunner().invoke(app, ["verify", str(copied.out), "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["holds"] is False and len(json.loads(as_json.stdout)["problems"]) == 2


def test_rows_that_the_manifest_has_no_more_are_missed(copied):
    """A run whose manifest lost rows would be called whole: nothing is wrong with the files that it still names."""
    records = RunFolder(copied.out).manifest.read()
    gone = [name for name in records if name.startswith("beta/") or name in (VECTORS, FUSED)]
    RunFolder(copied.out).manifest.replace(record for name, record in records.items() if name not in gone)
    problems = verify_run(RunFolder.open(copied.out)).problems
    assert f"{IN}its vectors are not in the manifest: {AGAIN}" in problems
    assert f"{FUSED_IN}its vectors are not in the manifest: {AGAIN}" in problems
    assert with_remedy("beta has 0 chunks, but run.json says 7", "") in problems
    assert all(f"{name} is not in the manifest: remove it" in problems for name in gone)
    do_what_is_said(copied)


def test_a_file_that_no_run_wrote(copied):
    """embed leaves it there for good where nothing else is to be done."""
    alien = copied.out / "beta" / "fused" / "part-00007.parquet"
    alien.write_bytes((copied.out / FUSED).read_bytes())
    assert verify_run(RunFolder.open(copied.out)).problems == (
        "beta/fused/part-00007.parquet is not in the manifest: remove it",
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda it: it["collections"][0].update(chunks=21), ["alpha has 20 chunks, but run.json says 21"]),
        (lambda it: it["collections"].append({"name": "no", "chunks": 3}), ["no has 0 chunks, but run.json says 3"]),
        (lambda it: it["models"][0].update(fingerprint="0" * 16), ["made with other settings than run.json says"]),
        (lambda it: it["models"][0].update(dim=3), ["its vectors have 16 dimensions, but run.json says 3"]),
        (lambda it: it.update(vector_dtype="float16"), ["stored as float32, but run.json says float16"]),
    ],
    ids=["chunks", "collection", "settings", "dim", "dtype"],
)
def test_a_run_json_that_says_something_else(copied, change, expected):
    """embed keeps a run.json that is there, so that to embed again was no remedy."""
    summary = json.loads((copied.out / "run.json").read_text())
    change(summary)
    (copied.out / "run.json").write_text(json.dumps(summary))
    problems = verify_run(RunFolder.open(copied.out)).problems
    assert problems and all(any(words in problem for words in expected) for problem in problems)
    do_what_is_said(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"models": 3}', '{"models": [{}], "collections": []}'])
@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_run_json_that_is_none_is_a_sentence(copied, content, command):
    """A file that was cut to nothing would end both commands with a KeyError."""
    (copied.out / "run.json").write_text(content)
    shown = CliRunner().invoke(app, [command, str(copied.out)])
    assert shown.exit_code == 1 and shown.stdout == ""
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"soloist: error: {copied.out / 'run.json'} ")
    assert line.endswith("run the soloist embed command of this run again, which writes the file again")
    assert sum(model.embedded for model in run(copied).models) == 0
    assert CliRunner().invoke(app, [command, str(copied.out)]).exit_code == 0


def status_of(path):
    """What `soloist status --json` says."""
    shown = CliRunner().invoke(app, ["status", str(path), "--json"])
    assert shown.exit_code == 0, shown.stderr
    return json.loads(shown.stdout)


def test_status_follows_a_run_from_its_first_shard_to_its_end(config):
    """A wrong count of what is left is a wrong decision about the night."""
    seen = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(status_of(config.out)))
        thread.start()
        thread.join()

    later = On(lambda event: isinstance(event, PassStarted) and event.model == "two", look)
    first = On(lambda event: isinstance(event, ShardEncoded), look)
    stopped = dataclasses.replace(config, stop_after=3600.0)
    run(stopped, later, first)
    done = [[model["chunks_done"] for model in status["models"]] for status in seen]
    assert done == [[8, 0], [N_CHUNKS, 0]]
    for status in seen:
        assert (status["finished"], status["at_work"], status["error"]) == (False, True, None)
        assert status["seconds_left"] is None  # the rate of the second model is not known yet
    assert seen[0]["models"][0]["chunks_per_second"] > 0 and seen[0]["models"][0]["seconds_left"] > 0
    end = status_of(config.out)
    assert (end["finished"], end["at_work"], end["seconds_left"]) == (True, False, 0)
    assert [model["chunks_done"] for model in end["models"]] == [N_CHUNKS, N_CHUNKS]
    assert end["fused_shards_done"] == end["shards"] == 4
    assert [model["name"] for model in end["models"]] == list(MODELS)


def test_status_of_a_run_that_was_stopped_says_what_ended_it_and_how_to_go_on(config):
    """Nobody remembers in the morning whether the job was killed or had failed."""
    run_out_of_time(config)
    shown = CliRunner().invoke(app, ["status", str(config.out)])
    assert "8 of 27" in shown.stdout
    assert "not finished and not running (stopped because its time is over)" in shown.stdout
    assert "run its soloist embed command again to continue it" in shown.stdout


UNFINISHED = (
    "the run is not finished: run its soloist embed command again to continue it; soloist status {} says how far it is"
)


def test_a_run_that_is_not_finished_is_not_taken_for_a_damaged_one(copied):
    """Whoever reads a list of faults mends what is only still to be done, or misses what is broken beside it."""
    RunFolder(copied.out).reopen()
    expected = UNFINISHED.format(copied.out)
    shown = CliRunner().invoke(app, ["verify", str(copied.out)])
    assert (shown.exit_code, shown.stderr) == (1, "")
    assert shown.stdout.splitlines() == [expected, "27 chunks in 2 collections, 17 files: not finished"]
    flip(copied.out / VECTORS, 100)
    shown = CliRunner().invoke(app, ["verify", str(copied.out)])
    assert shown.exit_code == 1
    assert shown.stdout.splitlines() == [
        expected,
        f"{VECTORS} has changed since it was written: {MADE_AGAIN}",
        "27 chunks in 2 collections, 17 files: not finished, 1 problem",
    ]
    as_json = CliRunner().invoke(app, ["verify", str(copied.out), "--json"])
    found = json.loads(as_json.stdout)
    assert (as_json.exit_code, found["holds"], found["finished"]) == (1, False, False)
    assert len(found["problems"]) == 2


def test_nothing_is_held_against_a_run_at_work(copied):
    """A file that is just being replaced would be called damaged."""
    RunFolder(copied.out).reopen()
    flip(copied.out / VECTORS, 100)
    with RunFolder(copied.out).locked():
        found = verify_run(RunFolder(copied.out))
    assert [problem.partition(";")[0] for problem in found.problems] == [
        "the run is not finished: it is running, so wait until it ends"
    ]


def a_status(*, at_work: bool, chunks_per_second: float | None) -> RunStatus:
    """A run with a hundred chunks left."""
    model = ModelStatus(
        name="one", chunks_done=100, chunks=200, shards_done=1, shards=2, chunks_per_second=chunks_per_second
    )
    return RunStatus(
        folder=Path("run"), finished=False, at_work=at_work, models=(model,), fused_shards_done=0, shards=2, error=None,
        way_on="run its soloist embed command again",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("at_work", "rate", "expected"),
    [
        (True, 0.1, "run: running; 16:40 of encoding left, until about 18:16"),
        (
            False,
            0.1,
            "run: not finished and not running: run its soloist embed command again to continue it; 16:40 of encoding "
            "left, until about 18:16 if it continues now",
        ),
        (True, 0.002, "run: running; 13:53:20 of encoding left, until about 2026-01-02 07:53"),
        (True, None, "run: running"),
    ],
)
def test_status_says_at_which_hour_a_run_would_end(at_work, rate, expected, monkeypatch):
    """Nobody adds 13:53:20 to the clock on the wall without a mistake."""
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    stream = io.StringIO()
    six_in_the_evening = 1767279600.0
    try:
        print_status(a_status(at_work=at_work, chunks_per_second=rate), open_console(stream), six_in_the_evening)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert stream.getvalue().splitlines()[-1] == expected


NO_RUNS = {
    "missing": "does not exist",
    "empty": "is not a run folder, it has neither manifest.jsonl nor state.json",
    "foreign": "is not a run folder, it has neither manifest.jsonl nor state.json",
    "foreign events": "is not a run folder, it has neither manifest.jsonl nor state.json",
    "file": "is a file and not a run folder",
}


@pytest.mark.parametrize("kind", NO_RUNS)
@pytest.mark.parametrize("command", ["status", "verify", "status --json", "verify --json"])
def test_a_folder_that_is_no_run_is_a_sentence_and_is_left_alone(tmp_path, kind, command):
    """A typing error in the path would be shown as a run with nothing done, or as one that is broken."""
    path = tmp_path / "place"
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
    if kind.startswith("foreign"):
        name = "events.jsonl" if kind == "foreign events" else "notes.txt"
        (path / name).write_text('{"event": "click", "rows": []}\n[1]\nnonsense\n')
    before = sorted(tmp_path.rglob("*"))
    shown = CliRunner().invoke(app, [*command.split(), str(path)])
    assert shown.exit_code == 2 and shown.stdout == ""
    expected = f"{path} {NO_RUNS[kind]}: give the folder that soloist embed wrote, its --out"
    assert shown.stderr == f"soloist: error: {expected}\n"
    assert sorted(tmp_path.rglob("*")) == before
