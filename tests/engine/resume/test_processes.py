"""The command as a user starts it: killed in the midst of its work, and started twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Death
from support.ctrl_c import PATIENCE_SECONDS
from support.editing import assert_same_files, write_chunks
from support.forks import Forked


@pytest.fixture
def arguments(tmp_path: Path, catalogue: Path) -> list[str]:
    """The command without its --models and --out, for two collections in several shards."""
    files = {
        name: [(f"{name}-{n}", f"chunk {n} of {name}, lease and vector " * (n % 5 + 1)) for n in range(count)]
        for name, count in (("alpha/a", 40), ("beta/b", 25))
    }
    return [
        "embed", str(write_chunks(tmp_path / "chunks", files)), "--catalogue", str(catalogue), "--accelerator", "cpu",
        "--shard-chunks", "8", "--lock-dir", str(tmp_path / "locks"),
        "--cache-dir", str(tmp_path / "cache"),
    ]  # fmt: skip


@contextlib.contextmanager
def started(*arguments: str, start: Any = subprocess.Popen) -> Iterator[Any]:
    """`python -m soloist` in a session of its own, which is killed where the test fails."""
    process = start(
        [sys.executable, "-m", "soloist", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def await_events(out: Path, text: str, count: int = 1) -> None:
    """Wait until the log of a run has so many events with this text."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (out / "events.jsonl").exists() or (out / "events.jsonl").read_text().count(text) < count:
        assert time.monotonic() < deadline, f"no {text} in {out}"
        time.sleep(0.001)


# The command begins with this: it is killed just before it gives a file with this ending its name.
_KILLED = """
import os, signal, sys

def end(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith({ending!r}):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(end)
"""


def test_the_command_itself_goes_on_after_kills(commands, arguments, tmp_path, monkeypatch):
    """What the other tests start is a fork; this is the real one, with the imports that take most of a small run."""
    out, begun_with = tmp_path / "run", tmp_path / "killed" / "sitecustomize.py"
    arguments += ["--models", "bert,static"]
    assert commands.run(*arguments, "--out", str(tmp_path / "undisturbed")).code == 0
    begun_with.parent.mkdir()
    monkeypatch.syspath_prepend(begun_with.parent)
    for ending in ("alpha/vectors/bert/part-00003.parquet", "alpha/fused/part-00001.parquet"):
        begun_with.write_text(_KILLED.format(ending=ending))
        with started(*arguments, "--out", str(out)) as process:
            _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == -signal.SIGKILL, stderr
        assert not (out / "run.json").exists()
    begun_with.unlink()
    with started(*arguments, "--out", str(out)) as process:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert_same_files(out, tmp_path / "undisturbed")
    assert _stdout(commands, "verify", str(out)).endswith("no problems\n")


def test_a_killed_parent_leaves_no_worker_that_writes(commands, arguments, tmp_path):
    """With process isolation the worker is in a session of its own, and outlives what kills the command's group."""
    out = tmp_path / "run"
    arguments += ["--models", "bert"]
    assert commands.run(*arguments, "--out", str(tmp_path / "undisturbed")).code == 0
    arguments += ["--out", str(out), "--isolation", "process"]
    commands.start(*arguments)
    await_events(out, '"ShardEncoded"', 3)
    commands.kill()
    ended = commands.run(*arguments)
    assert ended.code == 0, ended.stderr
    assert_same_files(out, tmp_path / "undisturbed")
    assert _stdout(commands, "verify", str(out)).endswith("no problems\n")


def test_a_second_run_into_a_folder_is_refused_and_the_first_goes_on(commands, arguments, tmp_path):
    """Two writers would take each other's chunks for those of a killed run, and remove them."""
    out = tmp_path / "run"
    arguments += ["--models", "bert,static"]
    assert commands.run(*arguments, "--out", str(tmp_path / "undisturbed")).code == 0
    with started(*arguments, "--out", str(out), start=Forked) as first:
        for event in ('"InputScanned"', '"ShardEncoded"'):
            await_events(out, event)
            first.send_signal(signal.SIGSTOP)  # so that it is at work for as long as the second looks
            was = _state(out)
            second = commands.run(*arguments, "--out", str(out))
            assert second.code == 1
            assert second.stderr == (
                f"soloist: error: another run, process {first.pid}, is writing to {out}: wait until it has ended, or "
                "choose another folder\n"
            )
            assert json.loads(_stdout(commands, "status", str(out), "--json"))["at_work"]
            assert _state(out) == was
            first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=300)
        assert first.returncode == 0, stderr
    assert_same_files(out, tmp_path / "undisturbed")
    assert not json.loads(_stdout(commands, "status", str(out), "--json"))["at_work"]


def test_a_finished_run_is_not_finished_while_it_gets_another_model(commands, arguments, tmp_path):
    """run.json of the run before would say that all is there, to `status`, to `verify` and to whoever waits for it."""
    out = tmp_path / "run"
    options = [*arguments, "--out", str(out), "--fusion", "none"]
    assert commands.run(*options, "--models", "bert").code == 0
    assert commands.run(*options, "--models", "bert,static", death=_at_the_third_shard(out)).code == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert commands.run("verify", str(out)).code == 1
    assert commands.run(*options, "--models", "bert,static").code == 0
    assert commands.run("verify", str(out)).code == 0


def _at_the_third_shard(out: Path) -> Death:
    return Death(folder=out, count=3, pattern=r"^os.rename \S+ \S+/vectors/static/part-")


def _state(out: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file; of the lock its size, because filelock below 4 sets its time by looking at it."""
    files = {path: path.stat() for path in out.rglob("*") if path.is_file()}
    return {
        str(path): (status.st_size, status.st_mtime_ns if path.name != ".lock" else 0) for path, status in files.items()
    }


def _stdout(commands, *arguments: str) -> str:
    ended = commands.run(*arguments)
    assert ended.code == 0, ended.stderr
    return ended.stdout
