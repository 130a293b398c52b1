"""The memory of simulated devices between processes: who holds what, when processes die at the worst moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from soloist.devices import simulated_driver
from soloist.devices.simulated_driver import DriverMemory

TOTAL = 1000
HOLDER = textwrap.dedent("""
    import sys
    from pathlib import Path
    import support.torchless
    from soloist.devices.simulated_driver import DriverMemory
    memory = DriverMemory("device", 1000, Path(sys.argv[1]))
    assert memory.take(300)
    print("taken", flush=True)
    while True:
        memory.take(1)
        memory.give_back(1)
""")


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def started(folder: Path) -> subprocess.Popen[str]:
    """Another process that has 300 bytes."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    return process


@pytest.fixture
def memory(tmp_path):
    return DriverMemory("device", TOTAL, tmp_path)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds 300 bytes and goes on taking and giving."""
    process = started(tmp_path)
    yield process
    process.kill()
    process.communicate()


def files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "device.held").iterdir() if not path.name.startswith(".")}


def test_what_others_hold_is_not_free(memory, holder):
    assert memory.free_bytes() in (TOTAL - 300, TOTAL - 301)
    assert not memory.take(701)
    assert memory.take(600)


def test_a_reused_process_id_does_not_inherit(memory, tmp_path):
    """The kernel hands ids out again: a dead process's bytes must not be those of whoever has its id now."""
    start = simulated_driver._start(os.getppid())
    for other in (re.sub(r"\d", lambda digit: str(int(digit[0]) ^ 1), start, count=1), start[:-1]):
        (tmp_path / "device.held" / f"{os.getppid()}-{other}").write_text("400")
    assert memory.free_bytes() == TOTAL
    assert files(tmp_path) == {}


def test_a_living_process_is_known_by_its_id_and_its_start(memory, holder, tmp_path):
    """Both sides have to call it the same."""
    memory.take(10)
    assert set(files(tmp_path)) == {f"{pid}-{simulated_driver._start(pid)}" for pid in (os.getpid(), holder.pid)}
    assert simulated_driver._start(os.getpid()) != simulated_driver._start(holder.pid)


def with_mount(mount: str, code: str, *arguments: object) -> list[str]:
    """What Python prints where something is mounted for it alone."""
    script = f'{mount} || exit 77; shift; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(arguments[0]), sys.executable, "-c", textwrap.dedent(code),
         *map(str, arguments)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux moves the dates of processes with the clock")
@pytest.mark.parametrize("jump", [28, -28, 40 * 365 * 86400])
def test_a_clock_that_is_set_frees_nothing(memory, holder, tmp_path, jump):
    """Linux moves the date of its own start with the clock, and with it those of all processes."""
    memory.take(10)
    moved = re.sub(r"(?m)^btime (\d+)", lambda found: f"btime {int(found[1]) + jump}", Path("/proc/stat").read_text())
    (tmp_path / "stat").write_text(moved)
    look = """
        import sys, psutil
        from pathlib import Path
        import support.torchless
        from soloist.devices.simulated_driver import DriverMemory
        print(int(psutil.boot_time()), DriverMemory("device", 1000, Path(sys.argv[1])).free_bytes())
    """
    date, free = map(int, with_mount('mount --bind "$1/stat" /proc/stat', look, tmp_path))
    assert date == int(psutil.boot_time()) + jump
    assert free in (TOTAL - 310, TOTAL - 311)
    assert len(files(tmp_path)) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="mounts /proc as Linux has it")
@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_a_process_of_another_user_is_alive_though_it_is_hidden(holder, hidden):
    """Machines that many share show nobody the processes of others: their bytes would be free."""
    look = """
        import os, sys
        import support.torchless
        from soloist.devices.simulated_driver import _is_alive, _start
        pid = int(sys.argv[1])
        start = _start(pid)
        os.setuid(65534)
        print(_is_alive(pid, start), _is_alive(os.getpid(), _start(os.getpid())), _is_alive(999_999_999, start))
    """
    mount = f"mount -t proc -o hidepid={hidden} proc /proc"
    assert with_mount(mount, look, holder.pid) == ["True", "True", "False"]


def test_a_killed_writer_leaves_nothing_torn(memory, tmp_path):
    """A kill in the midst of a write must cost neither its own row nor another's."""
    memory.take(10)
    for _ in range(2):
        process = started(tmp_path)
        process.kill()  # it is not waited for yet: a zombie holds nothing either
        process.stdout.close()
        psutil.wait_procs([psutil.Process(process.pid)], timeout=0.1)
        for path in files(tmp_path).values():
            assert int(path.read_text()) in (10, 300, 301)
        process.wait()
        assert memory.free_bytes() == TOTAL - 10


def test_a_write_that_is_cut_short_leaves_the_row_as_it_was(memory, tmp_path, monkeypatch):
    """Truncating the file in its place loses the bytes of a process that lives on."""
    memory.take(10)
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        memory.take(20)
    assert [path.read_text() for path in files(tmp_path).values()] == ["10"]


def test_foreign_files_are_passed_over(memory, tmp_path):
    """Everybody may write to the folder."""
    (tmp_path / "device.held" / "readme").write_text("hello")
    (tmp_path / "device.held" / simulated_driver._file_name(os.getppid())).write_text("not a number")
    assert memory.free_bytes() == TOTAL
    assert (tmp_path / "device.held" / "readme").is_file()
