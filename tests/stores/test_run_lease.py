"""The soft lease of a run folder: one holder at a time, by name; nobody waits for a holder that is gone."""

from __future__ import annotations

import errno
import functools
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.forks import Forked, run_forked
from support.mounts import Disk

from soloist.errors import OutputError
from soloist.stores import RunFolder, run_lease
from soloist.stores.leftovers import ahead_removed, undone_on_error
from soloist.stores.run_lease import LEASE, STALE_SECONDS, RunLease, holder, leased

HOLDING = """
import sys, time
from pathlib import Path
from soloist.stores.run_lease import leased
with leased(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look at an old lease comes after a moment, and not after more than a beat."""
    monkeypatch.setattr(run_lease, "LOOK_AGAIN_SECONDS", 0.1)


def lease_elsewhere(folder: Path, age_seconds: float = 0) -> None:
    """The lease of a soloist on another machine, which touched it last so long ago."""
    holder = {
        "id": "f" * 32, "host": "node-7", "place": "another machine", "pid": os.getpid(), "started": 1.0,
        "since": "2026-01-02 03:04:05",
    }  # fmt: skip
    (folder / LEASE).write_text(json.dumps(holder))
    touched = time.time() - age_seconds
    os.utime(folder / LEASE, (touched, touched))


def test_a_second_holder_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    """Two coordinators would enter shards into one manifest, or the user would look for the other in vain."""
    with leased(tmp_path):
        with pytest.raises(OutputError) as refused, leased(tmp_path):
            pass
        name = f"soloist on {socket.gethostname()}, process {os.getpid()}, since "
        assert name in str(refused.value)
        assert holder(tmp_path).startswith(name)  # type: ignore[union-attr]
        with pytest.raises(OutputError, match="wait until that run has ended, or choose another folder"):
            leased(tmp_path).__enter__()


def test_a_lease_that_ends_leaves_nothing(tmp_path: Path) -> None:
    """A later command would be refused for a minute, and the folder would differ from one of a single machine."""
    with leased(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LEASE]
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_the_lease_of_a_killed_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    """After a crash the same command would be refused for a minute."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"process {process.pid}, "), leased(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with leased(tmp_path):
        assert f"process {os.getpid()}," in (holder(tmp_path) or "")


def test_a_fresh_lease_of_another_machine_is_believed(tmp_path: Path) -> None:
    """A process number of another machine would be looked for on this one, and the lease taken from a live run."""
    lease_elsewhere(tmp_path, age_seconds=STALE_SECONDS / 2)
    with pytest.raises(OutputError, match=r"held by soloist on node-7, process \d+, since 2026-01-02 03:04:05: wait"):
        leased(tmp_path).__enter__()


def test_a_lease_without_a_sign_of_life_is_taken_over(tmp_path: Path) -> None:
    """A machine that was lost would hold the folder for ever."""
    lease_elsewhere(tmp_path, age_seconds=STALE_SECONDS + 5)
    assert holder(tmp_path) is None
    with leased(tmp_path):
        assert f"process {os.getpid()}," in (holder(tmp_path) or "")


def test_a_live_lease_that_looks_old_is_seen_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file server was away for a minute, the next command would take a living run over."""
    monkeypatch.setattr(run_lease, "LOOK_AGAIN_SECONDS", 1.0)
    lease_elsewhere(tmp_path, age_seconds=STALE_SECONDS + 5)
    beat = threading.Timer(0.03, os.utime, [tmp_path / LEASE])
    beat.start()
    with pytest.raises(OutputError, match="held by soloist on node-7"):
        leased(tmp_path).__enter__()
    beat.join()


@pytest.mark.parametrize("age_seconds", [STALE_SECONDS + 5, -3600], ids=["behind", "ahead"])
def test_a_live_lease_of_a_machine_with_another_clock_is_believed(age_seconds, tmp_path, monkeypatch) -> None:
    """Where machines set the times of files themselves, as with Lustre, a command would take a living run over."""
    monkeypatch.setattr(run_lease, "LOOK_AGAIN_SECONDS", 1.0)
    lease_elsewhere(tmp_path, age_seconds)
    touched = (tmp_path / LEASE).stat().st_mtime + 1
    beat = threading.Timer(0.03, os.utime, [tmp_path / LEASE, (touched, touched)])
    beat.start()
    with pytest.raises(OutputError, match="held by soloist on node-7"):
        leased(tmp_path).__enter__()
    beat.join()


def test_a_lease_from_before_the_clock_was_set_back_is_taken_over(tmp_path: Path) -> None:
    """A machine that was lost would hold the folder until the clock shows again what it showed then."""
    lease_elsewhere(tmp_path, age_seconds=-3600)
    with leased(tmp_path):
        assert f"process {os.getpid()}," in (holder(tmp_path) or "")


def test_an_empty_lease_is_another_s_until_it_is_old(tmp_path: Path) -> None:
    """A lease that is just being written would be taken, or one of a full disk would hold the folder for ever."""
    (tmp_path / LEASE).touch()
    assert holder(tmp_path) == "another soloist"
    old = time.time() - STALE_SECONDS - 5
    os.utime(tmp_path / LEASE, (old, old))
    with leased(tmp_path):
        pass


def test_the_holder_gives_signs_of_life(tmp_path: Path) -> None:
    """A run of more than a minute would lose its folder to the next command."""
    with leased(tmp_path, beat_seconds=0.02):
        old = time.time() - STALE_SECONDS - 5
        os.utime(tmp_path / LEASE, (old, old))
        while holder(tmp_path) is None:
            time.sleep(0.01)


def test_who_was_taken_over_is_told_and_does_no_harm(tmp_path: Path) -> None:
    """A coordinator that stood still would go on beside the new one, and take the new one's lease away at its end."""
    with leased(tmp_path) as lease:
        assert isinstance(lease, RunLease)
        lease.require_held()
        lease_elsewhere(tmp_path)
        with pytest.raises(
            OutputError, match=r"another soloist has taken over .*node-7.* did not touch .*\.lease for 60 s"
        ):
            lease.require_held()
    assert "node-7" in (holder(tmp_path) or "")


def test_a_lease_that_cannot_be_read_now_is_not_lost(tmp_path: Path) -> None:
    """A run would end, and name another one, because this process had too many open files for a moment."""
    told: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with leased(tmp_path, told.append, beat_seconds=0.01) as lease:
        free = os.open(tmp_path, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                (tmp_path / LEASE).read_text()
            lease.require_held()
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        lease.require_held()
    assert told == []


def test_the_run_hears_that_its_folder_was_taken_over(tmp_path: Path) -> None:
    """A coordinator that stood still would fuse and finish a run that another one is at."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    with leased(tmp_path, told.put, beat_seconds=0.02):
        lease_elsewhere(tmp_path)
        assert "(soloist on node-7" in told.get(timeout=60)
    run = RunFolder.create(tmp_path / "run")
    with run.locked(shared=True) as require_held:
        require_held()
        lease_elsewhere(run.path)
        with pytest.raises(OutputError, match=r"has taken over .*node-7"):
            require_held()


def test_who_was_taken_over_undoes_nothing_of_its_successor(tmp_path: Path) -> None:
    """A coordinator that wakes while it reads chunks would remove those that its successor reads, and its lock."""
    run = RunFolder.create(tmp_path / "run")
    with run.locked(shared=True) as require_held:
        for name in (".incoming", ".ahead"):
            (run.path / name).mkdir()
        (run.path / "events.jsonl").touch()
        before = sorted(path.name for path in run.path.iterdir())
        lease_elsewhere(run.path)
        with pytest.raises(KeyError), undone_on_error(run.path, require_held), ahead_removed(run.path, require_held):
            raise KeyError
        assert sorted(path.name for path in run.path.iterdir()) == before
        (run.path / LEASE).unlink()
    with run.locked(shared=True) as require_held:
        with pytest.raises(KeyError), undone_on_error(run.path, require_held), ahead_removed(run.path, require_held):
            raise KeyError
        assert [path.name for path in run.path.iterdir()] == [LEASE]


def test_of_many_that_take_over_one_holds(tmp_path: Path) -> None:
    """Two would hold one folder where the machine that had it was lost."""
    for round_ in range(20):
        folder = tmp_path / str(round_)
        folder.mkdir()
        lease_elsewhere(folder, age_seconds=STALE_SECONDS + 5)
        held: list[int] = []
        start, all_tried = threading.Barrier(4), threading.Barrier(4)

        def try_it(number: int, folder: Path = folder, held: list[int] = held, start: threading.Barrier = start,
                   all_tried: threading.Barrier = all_tried) -> None:  # fmt: skip
            start.wait()
            try:
                with leased(folder):
                    held.append(number)
                    all_tried.wait()
            except OutputError:
                all_tried.wait()

        threads = [threading.Thread(target=try_it, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1


def test_a_full_disk_leaves_no_lease(disk: Disk) -> None:
    """The folder would be held by nobody for a minute."""
    disk.mount("size=64k")
    disk.fill()
    with pytest.raises(OutputError, match="No space left on device: free some space"):
        leased(disk.path).__enter__()
    assert not (disk.path / LEASE).exists()


def test_a_local_command_is_refused_by_the_name_of_a_run_on_many_machines(tmp_path: Path) -> None:
    """The lock of a file may hold one machine only: a local command would write beside a cluster on another."""
    run = RunFolder.create(tmp_path / "run")
    lease_elsewhere(run.path)
    assert run.is_locked()
    with pytest.raises(OutputError, match="is held by soloist on node-7, process"), run.locked():
        pass
    with pytest.raises(OutputError, match="is held by soloist on node-7, process"), run.locked(shared=True):
        pass


def test_a_local_command_clears_the_lease_of_a_run_that_is_gone(tmp_path: Path) -> None:
    """A folder that one machine finished would differ from others by this file."""
    run = RunFolder.create(tmp_path / "run")
    lease_elsewhere(run.path, age_seconds=STALE_SECONDS + 5)
    with run.locked():
        assert not (run.path / LEASE).exists()


def test_a_run_on_many_machines_holds_the_lock_and_the_lease(tmp_path: Path) -> None:
    """An older soloist on this machine, which looks at the lock only, would write beside it."""
    run = RunFolder.create(tmp_path / "run")
    with run.locked(shared=True):
        assert holder(run.path)
        assert run.is_locked()
        with pytest.raises(OutputError, match=rf"soloist on .*, process {os.getpid()}, .* is writing to"), run.locked():
            pass
    assert not run.is_locked()
    assert RunFolder.create(run.path).path == run.path  # what is left is a run folder


_WITHOUT_LOCKS = """
import sys, time
from pathlib import Path
from support.no_locks import forbid_locks
from soloist.errors import OutputError
from soloist.stores import RunFolder

forbid_locks(int(sys.argv[2]))
run = RunFolder.create(Path(sys.argv[1]))
try:
    with run.locked(shared=sys.argv[3] == "shared"):
        print("held", run.is_locked(), flush=True)
        sys.stdin.read()
except OutputError as exc:
    print(exc)
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_no_file_can_be_locked_the_lease_alone_holds(number: int, tmp_path: Path) -> None:
    """On Lustre without locks a run would fail, be refused for ever by a lock that a lost machine left, or be alone."""
    begin = functools.partial(
        Forked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def command(how: str) -> list[str]:
        return [sys.executable, "-c", _WITHOUT_LOCKS, str(tmp_path / "run"), str(number), how]

    for how in ("shared", "alone"):
        with begin(command(how)) as first:
            try:
                assert first.stdout.readline() == "held True\n", first.stderr.read()
                for second in ("shared", "alone"):
                    done = run_forked(command(second), capture_output=True, text=True, input="")
                    assert f"is held by soloist on {socket.gethostname()}, process {first.pid}, " in done.stdout
            finally:
                first.kill()
    done = run_forked(command("shared"), capture_output=True, text=True, input="")
    assert done.stdout == "held True\n", done.stderr
