"""Input that another process reads: the same shards, events and errors, and no process is left behind."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.collections import write_catalogue
from support.editing import assert_same_files
from support.tiny_models import make_static
from support.waiting import until

from soloist.config import RunConfig, SourceConfig
from soloist.engine import run
from soloist.errors import (
    BadChunkFileError,
    DuplicateIdError,
    InputError,
    NothingToEmbedError,
    OutputError,
    RunStoppedError,
    SoloistError,
)
from soloist.events import InputSkipped, ListSink
from soloist.ingestion import apart
from soloist.ingestion.apart import ingest_apart, is_read_apart
from soloist.ingestion.ingest import ShardRef, ingest
from soloist.sources import discover, given_input
from soloist.stopping import Stop
from soloist.stores import RunFolder

_SKIPPING = SourceConfig(on_bad_input="skip", file_patterns=("*",))


def nothing() -> None:
    """A check that lets the reading go on."""


def readers(of: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that read for a process."""
    found = []
    for child in (of or psutil.Process()).children():
        try:
            if "soloist.ingestion.apart" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
    return found


@pytest.fixture
def chunks(tmp_path) -> Path:
    """Two collections: files of several formats, one with a name that is not UTF-8, and faults of several kinds."""
    root = tmp_path / "chunks"
    (root / "alpha").mkdir(parents=True)
    (root / "beta" / "year=2024").mkdir(parents=True)
    lines = [json.dumps({"text": f"stone {number}", "place": {"page": number}}) for number in range(11)]
    (root / "alpha" / "a.jsonl").write_text("\n".join([*lines, '{"text": ', '{"text": " "}', '{"body": "x"}']))
    (root / "alpha" / os.fsdecode(b"b\xff.jsonl")).write_text(
        '{"id": "\\u00e9", "text": "caf\\u00e9 \\ud83d\\ude00"}\n'
    )
    with gzip.open(root / "beta" / "year=2024" / "c.jsonl.gz", "wt") as file:
        file.writelines(f'{{"text": "river {number}"}}\n' for number in range(7))
    (root / "beta" / "empty.json").write_text("[]")
    return root


Reading = Callable[..., tuple[ShardRef, ...]]


def read(how: Reading, root: Path, out: Path, source: SourceConfig = _SKIPPING, **more: Any) -> tuple[Any, ...]:
    """What a reading gives: its shards, those that it was heard of, its events, or its error and those before it."""
    collections = discover(root, source)
    folder, sink, heard = RunFolder.create(out), ListSink(), list[ShardRef]()
    given = {"required": (), "check": nothing, "on_shard": heard.append} | more
    found: Any
    try:
        found = how(collections, source, folder, 4, sink, **given)
    except SoloistError as exc:
        found = type(exc), str(exc)
    return found, heard, sink.events


def test_the_shards_and_events_are_those_of_a_reading_here(chunks, tmp_path):
    """A run would have other chunks when its input is large."""
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here
    shards, _, events = here
    assert [(shard.collection, shard.rows) for shard in shards] == [
        ("alpha", 4), ("alpha", 4), ("alpha", 4), ("beta", 4), ("beta", 3),
    ]  # fmt: skip
    assert [type(event) for event in events].count(InputSkipped) == 4
    assert_same_files(tmp_path / "apart", tmp_path / "here")
    assert readers() == []


def doubled(root: Path) -> SourceConfig:
    (root / "beta" / "d.json").write_text('[{"id": "one", "text": "a"}, {"id": "one", "text": "b"}]')
    return _SKIPPING


def strict(root: Path) -> SourceConfig:
    return dataclasses.replace(_SKIPPING, on_bad_input="error")


def blank(root: Path) -> SourceConfig:
    shutil.rmtree(root)
    (root / "alpha").mkdir(parents=True)
    (root / "alpha" / "a.jsonl").write_text('{"text": " "}\n')
    return _SKIPPING


@pytest.mark.parametrize(
    ("fault", "kind"), [(doubled, DuplicateIdError), (strict, BadChunkFileError), (blank, NothingToEmbedError)]
)
def test_a_fault_of_the_input_is_told_as_here(chunks, tmp_path, fault, kind):
    """It would be another error, with another exit code, or the events before it would be lost."""
    source = fault(chunks)
    other = read(ingest_apart, chunks, tmp_path / "apart", source)
    assert other == read(ingest, chunks, tmp_path / "here", source)
    assert other[0][0] is kind
    assert readers() == []


def test_a_required_collection_without_chunks_is_told(chunks, tmp_path):
    """The run would go on without a collection that was asked for by name."""
    (chunks / "beta" / "year=2024" / "c.jsonl.gz").unlink()
    (message, *_) = read(ingest_apart, chunks, tmp_path / "apart", required=("beta",))
    assert message[0] is InputError
    assert "beta has no chunks" in message[1]


def many(root: Path, chunks: int) -> Path:
    file = root / "many" / "all.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f'{{"text": "moss and fern {number}"}}\n' for number in range(chunks)))
    return root


def test_a_reader_that_is_killed_is_an_error_that_says_so(tmp_path):
    """A run would wait for ever, or take what was read until then for the whole input."""
    root = many(tmp_path / "chunks", 200_000)

    def kill(shard: ShardRef) -> None:
        for process in readers():
            process.kill()

    found, *_ = read(ingest_apart, root, tmp_path / "apart", on_shard=kill)
    assert found[0] is InputError
    assert "the process that reads the chunks was killed by signal 9 before it had read all of them" in found[1]


def heard_of(shard: ShardRef) -> None:
    """Take a shard."""


def test_a_stop_ends_the_reader(tmp_path):
    """It would write on into a folder that another run may hold by then."""
    root, stop, seen = many(tmp_path / "chunks", 400_000), Stop(), list[psutil.Process]()

    def on_shard(shard: ShardRef) -> None:
        seen.extend(readers())
        stop.request("a caller")

    found, *_ = read(ingest_apart, root, tmp_path / "apart", check=stop.check, on_shard=on_shard)
    assert found == (RunStoppedError, "stopped by a caller")
    assert seen
    assert not any(process.is_running() for process in seen)


def test_an_error_of_the_sink_ends_the_reader(chunks, tmp_path):
    """A full disk under events.jsonl would be seen by a thread, and the run would go on without its events."""

    class Full:
        def emit(self, event: object) -> None:
            raise OutputError("no space left")

    found = discover(chunks, _SKIPPING)
    with pytest.raises(OutputError, match="no space left"):
        ingest_apart(found, _SKIPPING, RunFolder.create(tmp_path / "apart"), 4, Full(), (), nothing, heard_of)
    assert readers() == []


_EMBED = textwrap.dedent("""
    import json, sys
    from soloist.config import RunConfig
    from soloist.engine import run
    from soloist.ingestion import apart
    apart._LARGE_BYTES = 0
    run(RunConfig.from_dict(json.loads(sys.argv[1])))
""")


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """A table over more chunks than are read at once."""
    table = make_static(tmp_path / "table", 16, rows=700)
    return RunConfig(
        chunks_root=many(tmp_path / "chunks", 40_000), out=tmp_path / "run", models=("table",), accelerator="cpu",
        catalogue=write_catalogue(tmp_path / "catalogue.toml", {"table": table}), lock_dir=tmp_path / "locks",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_ends_early_leaves_no_reader_and_goes_on(config, tmp_path, number):
    """A reader without a run would write on for minutes, beside the run that goes on."""
    given = json.dumps(config.to_dict())
    command = subprocess.Popen([sys.executable, "-c", _EMBED, given], stderr=subprocess.PIPE)
    of_it = psutil.Process(command.pid)
    until(lambda: readers(of_it), "the run has a reader")
    (reader,) = readers(of_it)
    until(lambda: list(config.out.glob(".incoming/many/chunks/*.parquet")), "a shard is written")
    command.send_signal(number)
    command.communicate()
    assert command.returncode != 0
    until(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE, "the reader has ended")
    run(config)
    run(dataclasses.replace(config, out=tmp_path / "fresh"))
    assert_same_files(config.out, tmp_path / "fresh")


def test_a_run_is_the_same_whoever_reads(config, tmp_path, monkeypatch):
    """Vectors, fused or not, would depend on the size of the input."""
    run(config)
    monkeypatch.setattr(apart, "_LARGE_BYTES", 0)
    asked, other = list[Any](), dataclasses.replace(config, out=tmp_path / "apart")

    def counted(*given: Any) -> tuple[ShardRef, ...]:
        asked.append(given)
        return ingest_apart(*given)

    monkeypatch.setattr(sys.modules[run.__module__], "ingest_apart", counted)
    assert run(other).models[0].embedded == 40_000
    assert len(asked) == 1
    assert_same_files(config.out, other.out)


def test_who_reads(chunks, monkeypatch, tmp_path):
    """A small input is read before a process has started, and what Python gave is in this process only."""
    files = discover(chunks, _SKIPPING)
    assert not is_read_apart(files)
    monkeypatch.setattr(apart, "_LARGE_BYTES", 300)
    assert is_read_apart(files)
    assert not is_read_apart(given_input(["a text"] * 300, _SKIPPING).collections)
    monkeypatch.setattr(sys, "frozen", True, raising=False)  # an application, which is not given code
    assert not is_read_apart(files)
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setattr(sys, "executable", "")
    assert not is_read_apart(files)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here


def test_a_file_in_the_current_folder_is_not_taken_for_a_module(chunks, tmp_path, monkeypatch):
    """Beside chunks of code there may be a file of any name. The command itself does not look there."""
    (tmp_path / "queue.py").write_text("raise SystemExit('this is a chunk, and no module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here


def test_the_reader_imports_no_torch():
    """It would take a second to start, and 300 MB."""
    code = "import sys, soloist.ingestion.apart; print(*{'torch', 'transformers', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
