"""A run that is stopped: by a time, SIGTERM, Ctrl-C once and twice, with and without a process for each pass."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import ClassVar

import pytest
from filelock import FileLock
from support.collections import write_catalogue
from support.ctrl_c import PATIENCE_SECONDS, press_twice
from support.fault_runs import COMMAND, On, command_environment, command_of, files_of, run_out_of_time
from support.forks import STARTED, Forked, run_forked
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import SourceConfig
from soloist.devices import open_accelerator
from soloist.engine import run
from soloist.errors import EncodingError, OutputError, RunInterruptedError, RunStoppedError
from soloist.events import (
    InputScanned,
    ListSink,
    ModelStaged,
    PassFinished,
    RunFinished,
    RunStarted,
    TeeSink,
    event_to_dict,
)
from soloist.ingestion.ingest import ingest
from soloist.sources import discover
from soloist.staging import select_models, stage_all
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.status import run_status
from soloist.stores.verification import verify_run
from soloist.worker_processes import WorkerProcess

SHARDS = 20
ROWS = 4 * SHARDS
ATTEMPTS = 5
ON_WITH = "; what is done is kept, and this command continues the run:"
NOTHING_YET = "; nothing is kept yet, and this command starts the run:"
_TOO_LITTLE = (
    ", before anything new was finished: give --stop-after enough time to read the chunks, load the models and "
    "embed one shard; "
)
# By whether the folder has anything that is finished.
TOO_LITTLE = {
    True: f"{_TOO_LITTLE}what was done before is kept, and without --stop-after this command continues the run:",
    False: f"{_TOO_LITTLE}without --stop-after this command does the whole run:",
}


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A model that needs long enough for a shard that a signal meets it at work."""
    from support.tiny_models import make_bert

    return make_bert(
        tmp_path_factory.mktemp("slow") / "slow", hidden_size=192, intermediate_size=768, num_hidden_layers=5
    )


@pytest.fixture
def slow(config, slow_model, tmp_path):
    """A run of one model over many shards of one collection."""
    items = [{"id": str(number), "text": f"{number} " + "lease shard vector " * 25} for number in range(ROWS)]
    for name in ("alpha", "beta"):
        (config.chunks_root / name / "doc_chunks.json").unlink()
    (config.chunks_root / "alpha" / "doc_chunks.json").write_text(json.dumps(items))
    catalogue = write_catalogue(tmp_path / "slow.toml", {"slow": slow_model})
    return dataclasses.replace(config, models=("slow",), catalogue=catalogue, shard_chunks=4)


def rows_of(folder):
    """The rows with a vector, in the order of their shards."""
    records = RunFolder(folder).manifest.read().values()
    return sum(record.rows for record in records if record.kind == "vectors")


def await_rows(folder, rows):
    """Wait until some shards are finished."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while rows_of(folder) < rows:
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.01)


def seconds_of(folder):
    """How long each shard took, by the events."""
    file = folder / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event["seconds"] for event in events if event["event"] == "ShardEncoded"]


def await_shards(folder, shards):
    """Wait until some shards are finished and the next is in work; the rows of those finished.

    A quarter of the time of the last one: the first shard of a process may take twice that of the second.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(seconds := seconds_of(folder)) < shards:
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.01)
    time.sleep(seconds[-1] / 4)
    return 4 * len(seconds)


def require_let_go(config):
    """The lease and the folder are free, and no record of a holder is left."""
    assert not list(config.lock_dir.glob("*.holder"))
    for file in (*config.lock_dir.glob("*.lock"), config.out / ".lock"):
        FileLock(file).acquire(timeout=0).lock.release()


def require_stopped(config):
    """Whole shards are kept, and the run says that it is neither finished nor at work; the rows that are kept."""
    kept = rows_of(config.out)
    assert kept < ROWS and kept % 4 == 0
    require_let_go(config)
    status = run_status(config.out)
    assert (status.finished, status.at_work) == (False, False)
    assert status.models[0].chunks_done == kept
    return kept


def require_goes_on(config, kept):
    """The same config again embeds the others, and verify finds nothing."""
    result = run(dataclasses.replace(config, isolation="allocator", stop_after=None))
    assert (result.models[0].embedded, result.models[0].kept) == (ROWS - kept, kept)
    assert verify_run(RunFolder.open(config.out)).problems == ()


@pytest.mark.parametrize("isolation", ["allocator", "process"])
@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C twice"])
def test_a_signal_ends_a_command_with_its_code_and_keeps_what_is_finished(slow, tmp_path, how, isolation):
    """A job that is told to end loses hours, holds the devices, or seems to have succeeded."""
    # The second Ctrl-C would come too late after the end of a short shard.
    config = dataclasses.replace(slow, isolation=isolation, shard_chunks=4 if how == "SIGTERM" else ROWS // 2)
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        process = Forked(
            [*COMMAND, *command_of(config)], stdout=subprocess.PIPE, stderr=stderr, text=True, env=command_environment()
        )
    try:
        await_rows(config.out, 8) if how == "SIGTERM" else await_shards(config.out, 1)
        before = rows_of(config.out)
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            press_twice(process, said)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    err = said.read_text()
    assert (process.returncode, out) == (3 if how == "SIGTERM" else 130, ""), err
    assert "Traceback" not in err
    kept = require_stopped(config)
    assert kept >= before
    why = {"SIGTERM": "stopped by SIGTERM", "Ctrl-C twice": "stopped by a second Ctrl-C"}[how]
    sentence, line = err.splitlines()[-2:]
    assert sentence == f"soloist: {why}{ON_WITH}"
    assert shlex.split(line) == [sys.executable, "-m", "soloist", *command_of(config)]
    assert run_status(config.out).error == why
    if (how, isolation) == ("SIGTERM", "allocator"):  # the line itself once, which is a start of the command more
        done = run_forked(
            shlex.split(line), capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=command_environment()
        )
        assert done.returncode == 0, done.stderr
        [model] = json.loads((config.out / "run.json").read_text())["models"]
        assert (model["embedded"], model["kept"]) == (ROWS - kept, kept)
        # Which library multiplies is measured, and in a noisy moment the other one is faster.
        whole = dataclasses.replace(slow, out=slow.out.with_name("whole"), matmul=model["matmul"])
        run(whole)
        assert files_of(config.out) == files_of(whole.out)
    else:
        require_goes_on(config, kept)


@pytest.mark.parametrize("isolation", ["allocator", "process"])
def test_one_ctrl_c_lets_the_shard_in_work_end(slow, isolation):
    """A shard of an hour would be thrown away by the first key."""
    # A signal may come between two shards by chance: then nothing is seen, and it is sent again.
    for attempt in range(ATTEMPTS):
        config = dataclasses.replace(slow, isolation=isolation, out=slow.out.with_name(f"run-{attempt}"))
        encoded_before = []

        def interrupt(config=config, encoded_before=encoded_before) -> None:
            encoded_before.append(await_shards(config.out, 2))
            os.kill(os.getpid(), signal.SIGINT)

        watcher = threading.Thread(target=interrupt)
        watcher.start()
        stopped = CliRunner().invoke(app, command_of(config))
        watcher.join()
        assert stopped.exit_code == 3, stopped.stderr
        assert stopped.stderr.splitlines()[-2] == f"soloist: stopped by Ctrl-C{ON_WITH}"
        assert "the run ends after the present shard; a second Ctrl-C ends the run at once" in stopped.stderr
        kept = require_stopped(config)
        require_goes_on(config, kept)
        if kept > encoded_before[0]:
            return
    pytest.fail(f"no shard in work was kept in {ATTEMPTS} attempts")


def test_a_run_ends_when_its_time_is_over_with_the_shard_in_work(slow):
    """A session of nine hours is ended by its host in the midst of a shard, without a word and with the lease."""
    run_out_of_time(slow)
    kept = require_stopped(slow)
    assert kept >= 4
    require_goes_on(slow, kept)


def test_the_time_of_a_run_is_that_of_its_workers_too(slow, monkeypatch):
    """A worker that counted from its own start would end hours after the session."""
    config = dataclasses.replace(slow, isolation="process")
    monkeypatch.setenv(STARTED, "1")  # a fork embeds at once
    # The least time that the run itself gets over: a worker that counts on from there has not even begun to load.
    for tenths in range(5, 200, 2):
        command = command_of(config, "--stop-after", f"{tenths / 10}s")
        monkeypatch.setattr(sys, "argv", ["soloist", *command])
        stopped = CliRunner().invoke(app, command)
        assert stopped.exit_code == 3, stopped.stderr
        way_on = TOO_LITTLE[(config.out / "manifest.jsonl").exists()]
        assert stopped.stderr.splitlines()[-2] == f"soloist: stopped because its time is over{way_on}"
        assert stopped.stderr.splitlines()[-1] == f"  {shlex.join(['soloist', *command_of(config)])}"
        if (config.out / "state.json").exists():
            break
    assert require_stopped(config) == 0


def test_a_stop_before_anything_is_finished_leaves_a_folder_that_can_be_used(config):
    """A signal while models are staged would leave what the next run refuses."""
    with pytest.raises(RunStoppedError, match="stopped by SIGTERM"):
        run(config, Signals())
    assert not config.out.exists()
    assert run(config).models[0].embedded == 27


SWALLOWING = """
import time
from pathlib import Path

from sentence_transformers.sentence_transformer.modules import StaticEmbedding


class Own(StaticEmbedding):
    @classmethod
    def load(cls, *args, **kwargs):
        Path({at_work!r}).touch()
        try:
            time.sleep(60)
        except Exception as exc:
            raise OSError("a file is missing") from exc
        return super().load(*args, **kwargs)
"""


def begun(start, config, **environment):
    """The command at work in a process of its own."""
    return start(
        [*COMMAND, *command_of(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**command_environment(), **environment},
    )  # fmt: skip


def require_ended_by(process, number, why):
    """A signal ends the command soon, with its code and its sentence."""
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 3, said
    assert said.splitlines()[-2] == f"soloist: stopped by {why}{NOTHING_YET}"


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_while_a_model_is_loaded_is_no_fault_of_the_model(config, own_models, tmp_path, number, why):
    """Code that loads models takes any exception for a missing file: the run failed, and looked broken for good."""
    at_work, folder = tmp_path / "at-work", own_models["one"]
    (folder / "own_code.py").write_text(SWALLOWING.format(at_work=str(at_work)))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own_code.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
    catalogue = write_catalogue(tmp_path / "own.toml", {"one": folder})
    catalogue.write_text(catalogue.read_text() + "trust_remote_code = true\n")
    process = begun(Forked, dataclasses.replace(config, models=("one",), catalogue=catalogue))
    await_true(at_work.exists, process)
    require_ended_by(process, number, why)
    assert not config.out.exists()


def await_true(is_true, process):
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)


class SlowHub(http.server.BaseHTTPRequestHandler):
    """A model hub with one model, whose weights never come to their end."""

    files: ClassVar = ["config.json", "model.safetensors", "modules.json"]
    at_work: ClassVar = threading.Event()

    def do_HEAD(self):
        self._answer(b"", 1 << 30)

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": "org/slow", "sha": "a" * 40, "siblings": siblings}).encode())
            return
        self._answer(b"", 1 << 30)
        SlowHub.at_work.set()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 1000)
                time.sleep(0.2)

    def _answer(self, body, size=None):
        self.send_response(200)
        for name, value in {
            "Content-Length": size or len(body), "ETag": f'"{"b" * 40}"', "X-Repo-Commit": "a" * 40,
            "Content-Type": "application/json",
        }.items():  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class LockThatIsGivenBackSlowly:
    """A lock during whose release a signal comes, as one may during any wait of a `threading.Condition`."""

    def __init__(self, number):
        self._lock, self._number = threading.Lock(), number

    def __enter__(self):
        return self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()

    acquire = property(lambda self: self._lock.acquire)

    def release(self):
        self._lock.release()
        signal.raise_signal(self._number)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_that_a_wait_makes_another_error_of_is_still_a_stop(number, why):
    """The command ended with "unexpected RuntimeError: release unlocked lock", and as if it had failed."""
    condition = threading.Condition(LockThatIsGivenBackSlowly(number))
    with pytest.raises(RunStoppedError, match=f"^stopped by {why}$") as caught, Stop().on_signals(), condition:
        condition.wait(PATIENCE_SECONDS)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_after_a_stop_that_was_dealt_with_is_told_as_it_is():
    """A fault of ours would hide behind a signal that came long before it."""
    stop = Stop()
    with pytest.raises(RuntimeError, match=r"^a fault$"), stop.on_signals():
        with contextlib.suppress(RunStoppedError):
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("a fault")
    for full in (OutputError("the disk is full"), OSError("the disk is full")):
        with pytest.raises(type(full), match="the disk is full"), Stop().on_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                raise full


def test_a_signal_while_a_model_is_downloaded_is_heard(config, tmp_path):
    """Ctrl-C would be heard when gigabytes have come, or never where the network hangs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowHub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    process = begun(subprocess.Popen, dataclasses.replace(config, models=("org/slow",)), **hub)
    try:
        await_true(SlowHub.at_work.is_set, process)
        require_ended_by(process, signal.SIGTERM, "SIGTERM")
    finally:
        process.kill()
        server.shutdown()
        server.server_close()


class Signals:
    """Sends this process SIGTERM when the input has been read."""

    def emit(self, event):
        if type(event).__name__ == "InputScanned":
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_run_whose_time_is_over_reads_no_further(config, finished_before):
    """A session of minutes would read for hours, and load all models, before it looked at the clock."""
    if finished_before:
        run(config)
    before = files_of(config.out) if finished_before else {}
    seen = ListSink()
    with pytest.raises(RunStoppedError, match="stopped because its time is over"):
        run(dataclasses.replace(config, stop_after=1e-9), seen)
    assert [type(event) for event in seen.events] == [RunStarted, RunFinished]
    assert (files_of(config.out) if config.out.is_dir() else {}) == before
    assert run(config).models[0].embedded == (0 if finished_before else 27)


@pytest.mark.parametrize("texts", [["text"] * 3, [""] * 3], ids=["chunks", "empty texts"])
def test_reading_ends_with_the_chunk_in_work(tmp_path, texts):
    """A stop would wait for the end of a collection; or, where all its texts are empty, for that of the next one."""
    for name, items in (("alpha", ["first"]), ("beta", texts)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chunks.json").write_text(json.dumps(items))
    stop, folder, seen = Stop(), RunFolder.create(tmp_path / "run"), ListSink()
    asked = On(lambda event: isinstance(event, InputScanned), lambda: stop.request("a caller"))
    collections = discover(tmp_path, SourceConfig(), ["alpha", "beta"])
    with pytest.raises(RunStoppedError, match="stopped by a caller"):
        ingest(collections, SourceConfig(), folder, 2, TeeSink(seen, asked), check=stop.check)
    assert [type(event) for event in seen.events] == [InputScanned]
    assert not (tmp_path / "run" / "beta").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("chunks.json", b'{"before": "' + b"x" * 3_000_000 + b'", "chunks": ["text"]}'), ("chunks.jsonl", b"\n" * 1000)],
    ids=["an object", "blank lines"],
)
def test_reading_ends_before_the_first_chunk(tmp_path, name, content):
    """Gigabytes before the first chunk would be read twice, long after the time of a session is over."""
    (tmp_path / "chunks" / "alpha").mkdir(parents=True)
    (tmp_path / "chunks" / "alpha" / name).write_bytes(content)
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 3:
            raise RunStoppedError("stopped")

    with pytest.raises(RunStoppedError):
        ingest(
            discover(tmp_path / "chunks", SourceConfig()), SourceConfig(), RunFolder.create(tmp_path / "run"), 2,
            ListSink(), check=check,
        )  # fmt: skip


def test_no_model_is_loaded_after_a_stop(config):
    """Each of twelve models takes minutes to load, and none of them is needed any more."""
    stop, seen = Stop(), ListSink()
    asked = On(lambda event: isinstance(event, ModelStaged), lambda: stop.request("a caller"))
    with pytest.raises(RunStoppedError, match="stopped by a caller"):
        stage_all(select_models(config), config, open_accelerator("cpu"), TeeSink(seen, asked), stop.check)
    assert [event.model for event in seen.events] == ["one"]


def finishes_late(line: str) -> str:
    """The code of a worker that finishes a shard when it is told to end."""
    return textwrap.dedent(f"""
        import sys
        sys.stdin.readline()
        print('{{"word": "ready"}}', flush=True)
        sys.stdin.readline()
        print({line!r}, flush=True)
    """)


def test_what_a_worker_says_after_a_signal_is_kept():
    """With --isolation process, a second Ctrl-C lost the event of a shard that was finished."""
    said, heard = PassFinished(model="slow", peak_bytes={"cpu": 1}), ListSink()
    line = json.dumps(event_to_dict(said, 0.0))
    with (
        pytest.raises(RunInterruptedError),
        WorkerProcess(finishes_late(line), {}, heard, lost=EncodingError, patience=30) as worker,
    ):
        worker.follow("ready")
        raise RunInterruptedError("stopped by a second Ctrl-C")  # as the signal's handler does in the main thread
    assert heard.events == [said]


def test_an_error_of_the_sink_reaches_the_run_and_the_worker_ends():
    """A full disk would be seen by the thread that reads, and the run would wait for ever."""

    class Full:
        def emit(self, event):
            raise OutputError("no space left")

    line = json.dumps(event_to_dict(PassFinished(model="slow", peak_bytes={}), 0.0))
    code, full = finishes_late(line), pytest.raises(OutputError, match="no space left")
    with full, WorkerProcess(code, {}, Full(), lost=EncodingError) as worker:
        worker.follow("ready")
        worker.send("go")
        worker.follow("done")
