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
import threading
import time
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
from soloist.events import InputSkipped, ListSink, as_sink
from soloist.ingestion import apart
from soloist.ingestion.apart import ingest_apart, is_read_apart
from soloist.ingestion.ingest import ShardRef, ingest
from soloist.sources import discover, given_input
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.worker_processes import WorkerProcess

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


def test_the_shards_and_events_are_those_of_a_reading_here(chunks, tmp_path, capfd):
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
    assert capfd.readouterr().err == ""


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
    assert issubclass(found[0], InputError)
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
    assert len(list((tmp_path / "apart").rglob("part-*.parquet"))) < 50_000  # of 100,000


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
        shard_chunks=512, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        catalogue=write_catalogue(tmp_path / "catalogue.toml", {"table": table}),
    )  # fmt: skip


def test_a_run_that_ends_early_leaves_no_reader_and_goes_on(config, tmp_path):
    """A reader without a run would write on for minutes, beside the run that goes on."""
    assert config.chunks_root is not None
    many(config.chunks_root, 1_000_000)  # more than a reader can read before it is looked for
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        command = subprocess.Popen(
            [sys.executable, "-c", _EMBED, json.dumps(config.to_dict())], stderr=subprocess.DEVNULL
        )
        try:
            of_it = psutil.Process(command.pid)
            until(lambda of=of_it: readers(of), "the run has a reader")
            (reader,) = readers(of_it)
            until(lambda: list(config.out.glob(".incoming/many/chunks/*.parquet")), "a shard is written")
            command.send_signal(number)
            assert command.wait(60) != 0
            psutil.wait_procs([reader], timeout=3)
            assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE
        finally:
            command.kill()
            command.wait()
    many(config.chunks_root, 5_000)
    run(config)
    run(dataclasses.replace(config, out=tmp_path / "fresh"))
    assert_same_files(config.out, tmp_path / "fresh")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with the one before it")
def test_a_reader_ends_with_the_thread_that_started_it():
    """A killed run would leave a reader for as long as some other process holds the pipe between the two."""
    readers: list[subprocess.Popen[str]] = []

    def start() -> None:
        command = [sys.executable, "-c", apart._CODE]
        readers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert readers[0].stdout is not None
        assert readers[0].stdout.readline() == "\n"  # it listens

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with readers[0] as reader:
        assert reader.wait(60) == -signal.SIGKILL


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


_READ = textwrap.dedent("""
    import sys
    from pathlib import Path
    from soloist.config import SourceConfig
    from soloist.ingestion.apart import ingest
    from soloist.events import ListSink
    from soloist.sources import discover
    from soloist.stores import RunFolder
    root, out = map(Path, sys.argv[1:])
    ingest(discover(root, SourceConfig()), SourceConfig(), RunFolder.create(out), 4, ListSink())
    print(*{"torch", "transformers", "soloist.engine", "soloist.models"} & {*sys.modules})
""")


def test_the_reader_imports_no_torch(tmp_path):
    """It would take a second to start, and 300 MB."""
    command = [sys.executable, "-c", _READ, str(many(tmp_path / "chunks", 9)), str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


def test_a_reader_ends_when_its_parent_ends_in_the_middle_of_a_line():
    """It would wait for ever for the rest of a long list of files."""
    command = [sys.executable, "-c", apart._CODE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        reader.stdin.write('{"collections": [')
        reader.stdin.close()
        assert reader.wait(60) == 70  # as after the end of its input


def test_a_signal_while_a_reader_starts_ends_it(chunks, tmp_path, monkeypatch):
    """There is no exit from what was not entered, and a notebook keeps the error with all that belongs to it."""

    def interrupted(process: WorkerProcess, message: object) -> None:
        seen.extend(readers())
        raise RunStoppedError("stopped by Ctrl-C")  # as the signal's handler does

    seen = list[psutil.Process]()
    monkeypatch.setattr(WorkerProcess, "send", interrupted)
    found, *_ = read(ingest_apart, chunks, tmp_path / "apart")
    assert found == (RunStoppedError, "stopped by Ctrl-C")
    until(lambda: "soloist-lines" not in {thread.name for thread in threading.enumerate()}, "its thread has ended")
    assert seen and not any(process.is_running() for process in seen)


def test_without_room_for_a_thread_this_process_reads(chunks, tmp_path, monkeypatch):
    """A system that starts no thread and a system that starts no process are short of the same numbers."""
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "soloist-lines":
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here
    assert readers() == []
    monkeypatch.undo()
    assert "soloist-lines" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_names_are_the_same_in_every_encoding_of_the_streams(chunks, tmp_path, monkeypatch, encoding):
    """A file would not be found, or be skipped, and the shards would be written into another folder."""
    (chunks / "alpha" / "caf\u00e9.jsonl").write_text('{"text": "moss"}\n')
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    out = tmp_path / "l\u00e4ufe"
    other, here = read(ingest_apart, chunks, out / "apart"), read(ingest, chunks, out / "here")
    assert other == here
    assert_same_files(out / "apart", out / "here")


@pytest.mark.parametrize(
    "noise", ["print('hello')", "print('5')", "print('no end of line', end='')", """print('{"event": "loaded"}')"""]
)
def test_what_a_library_prints_does_not_end_the_reading(chunks, tmp_path, monkeypatch, capfd, noise):
    """Some installations print as soon as Python starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(noise)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), Path(tmp_path), *sys.path])  # not only of texts
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here
    assert noise.split("'")[1] in capfd.readouterr().err


@pytest.mark.parametrize("program", ["true", "sleep 300"])
def test_another_program_than_this_python_is_not_waited_for(chunks, tmp_path, monkeypatch, program):
    """In a server's own process, `sys.executable` may be the server."""
    file = tmp_path / "server"
    file.write_text(f"#!/bin/sh\nexec {program}\n")
    file.chmod(0o755)
    monkeypatch.setattr(apart, "_START_SECONDS", 1)
    monkeypatch.setattr(sys, "executable", str(file))
    other, here = read(ingest_apart, chunks, tmp_path / "apart"), read(ingest, chunks, tmp_path / "here")
    assert other == here


def test_an_error_that_nobody_meant_says_where_it_happened(chunks, tmp_path, monkeypatch):
    """It would be told as one of the embedding, without a way to find it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import soloist.sources.json_files as files\ndel files.read_lines\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    with pytest.raises(InputError, match="the process that reads the chunks failed: unexpected NameError") as caught:
        ingest_apart(
            discover(chunks, _SKIPPING), _SKIPPING, RunFolder.create(tmp_path / "apart"), 4, ListSink(), (), nothing,
            heard_of,
        )  # fmt: skip
    assert "in read_json_lines" in "".join(caught.value.__notes__)


def test_a_sink_that_is_slow_holds_the_reader_back(tmp_path):
    """Events of millions of skipped chunks would wait in memory."""
    root, alive = tmp_path / "chunks", list[int]()
    (root / "alpha").mkdir(parents=True)
    (root / "alpha" / "a.jsonl").write_text('{"text": " "}\n' * 20_000 + '{"text": "fern"}\n')

    def slow(event: object) -> None:
        if not alive:
            time.sleep(2)  # it would have read all
            alive.append(len(readers()))

    files, folder = discover(root, _SKIPPING), RunFolder.create(tmp_path / "apart")
    ingest_apart(files, _SKIPPING, folder, 4, as_sink(slow), (), nothing, heard_of)
    assert alive == [1]
