"""A soft lease of a run folder, for shared folders on which the lock of a file may hold one machine only.

The lease is a small file with its holder's name. The holder touches it again and again. A lease that nobody has touched
for a minute is stale, and so is one whose process on this machine is gone. The minute is told by the clock of the file
system: two of its own times are compared, so machines whose clocks differ do no harm.

Knows files and processes. Knows nothing of what is in the folder.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors, sync_folder

LEASE = ".lease"
_BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 15.0  # more than a beat
_TAKEN_OVER = f"{LEASE}.00000000.tmp"  # a temporary file, see soloist.stores.atomic
_SOMEBODY = "another soloist"
_RETRY_SECONDS = 0.05
_START_TOLERANCE_SECONDS = 2.0  # the start of one process, asked for twice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Who holds a folder. `place` is the same for processes that see each other's ids."""

    id: str
    host: str
    place: str
    pid: int
    started: float
    since: str

    def __str__(self) -> str:
        return f"soloist on {self.host}, process {self.pid}, since {self.since}"

    def is_gone(self) -> bool:
        """Whether it is a process of this machine that has ended. Of other machines nothing is known."""
        if self.place != _place():
            return False
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False
        return abs(started - self.started) > _START_TOLERANCE_SECONDS  # another process has its number


class RunLease:
    """A lease that is held. Made by `leased`."""

    def __init__(self, folder: Path, holder: _Holder, on_lost: Callable[[str], object], beat_seconds: float) -> None:
        self._folder = folder
        self._on_lost = on_lost
        self._holder = holder
        self._beat_seconds = beat_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="soloist-lease", daemon=True)

    def require_held(self) -> None:
        """Refuse to go on where another holder has taken the folder over.

        That can be after this process stood still for a minute, or could not reach the folder. Where the file cannot be
        read now, nothing is known, and this returns.

        Raises:
            OutputError: the lease is another's, or is gone.
        """
        try:
            found = _parsed((self._folder / LEASE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = None
        except OSError:  # a network file system that does not answer is not a lost lease
            return
        if found is None or found.id != self._holder.id:
            name = f" ({found})" if found else ""
            raise OutputError(
                f"another soloist has taken over {self._folder}{name}, because this process did not touch "
                f"{self._folder / LEASE} for {STALE_SECONDS:g} s: wait until that run ends, then run again"
            )

    def start(self) -> None:
        """Begin to give signs of life."""
        self._thread.start()

    def end(self) -> None:
        """Give the folder back."""
        self._ended.set()
        self._thread.join()
        with suppress(OutputError, OSError):  # another's, or the folder is out of reach: then it becomes stale
            self.require_held()
            (self._folder / LEASE).unlink()

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            try:
                self.require_held()
                os.utime(self._folder / LEASE)  # now, by the clock of the file system
            except OutputError as exc:
                self._on_lost(str(exc))
                return
            except OSError:  # the folder is out of reach for now
                continue


@contextmanager
def leased(
    folder: Path, on_lost: Callable[[str], object] = lambda why: None, *, beat_seconds: float = _BEAT_SECONDS
) -> Iterator[RunLease]:
    """Hold the lease of a folder. A stale one is taken over.

    If another process takes this one over, `on_lost` is called in a thread, with the sentence that says so.

    Raises:
        OutputError: another process holds it, or the file cannot be written.
    """
    lease = RunLease(folder, _take(folder), on_lost, beat_seconds)
    lease.start()
    try:
        yield lease
    finally:
        lease.end()


def holder(folder: Path) -> str | None:
    """Who holds the lease of a folder now, as words; None where nobody does, or where the lease is stale."""
    if not (folder / LEASE).exists():
        return None
    found = _read(folder)
    if (found is not None and found.is_gone()) or _is_stale(folder / LEASE):
        return None
    return str(found or _SOMEBODY)  # a file that is just being written has no name yet


def lease_id(folder: Path) -> str | None:
    """What tells the present lease of a folder from every other; None where there is none that can be read."""
    found = _read(folder)
    return found.id if found else None


def clear_stale(folder: Path) -> None:
    """Remove a lease whose holder is gone.

    Raises:
        OutputError: the lease is held, or it cannot be removed.
    """
    if not (folder / LEASE).exists():
        return
    _refuse_if_held(folder)
    with disk_errors(folder / LEASE), _taking_over(folder) as is_ours:
        if is_ours:
            (folder / LEASE).unlink(missing_ok=True)


def _take(folder: Path) -> _Holder:
    ours = _ourselves()
    with disk_errors(folder / LEASE):
        while not _created(folder / LEASE, ours):
            _refuse_if_held(folder)
            with _taking_over(folder) as is_ours:
                if is_ours and _replaced(folder, ours):
                    break
            time.sleep(_RETRY_SECONDS)  # another one takes it over now
        sync_folder(folder)
    return ours


@contextmanager
def _taking_over(folder: Path) -> Iterator[bool]:
    """Within this, no other process takes the stale lease of a folder over; False where one does so just now.

    The stale lease stays in its place until its successor has it, so that nobody finds the folder without one.
    """
    marker = folder / _TAKEN_OVER
    is_ours = _created(marker, None)
    try:
        yield is_ours and holder(folder) is None
    finally:
        if is_ours or _is_stale(marker):  # left by a process that was killed in this moment
            marker.unlink(missing_ok=True)


def _replaced(folder: Path, ours: _Holder) -> bool:
    temp = folder / f"{LEASE}.{secrets.token_hex(4)}.tmp"
    try:
        _created(temp, ours)
        temp.replace(folder / LEASE)
    finally:
        temp.unlink(missing_ok=True)
    return True


def _created(path: Path, ours: _Holder | None) -> bool:
    """Write a file where there is none; False where there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(ours and asdict(ours), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def _refuse_if_held(folder: Path) -> None:
    if words := holder(folder) or _holder_seen_again(folder):
        raise OutputError(
            f"{folder} is held by {words}: wait until that run has ended, or choose another folder (if nobody has "
            f"touched {folder / LEASE} for {STALE_SECONDS:g} s, the next command takes the folder over)"
        )


def _holder_seen_again(folder: Path) -> str | None:
    """Who gives a sign of life after all; None where nobody does within more than a beat.

    All leases look old where a file server was away for a minute, or a clock was set. They always do where the file
    system has no clock of its own, and those of two machines differ.
    """
    found, before = _read(folder), _touched(folder)
    if before is None or (found is not None and found.is_gone()):
        return None
    time.sleep(LOOK_AGAIN_SECONDS)
    return str(_read(folder) or _SOMEBODY) if _touched(folder) not in (None, before) else None


def _touched(folder: Path) -> int | None:
    try:
        return (folder / LEASE).stat().st_mtime_ns
    except OSError:
        return None


def _is_stale(path: Path) -> bool:
    """Whether nobody has touched a file for a minute, by the clock of its file system, or it is missing.

    So it is where the clock was set back: a lost machine would else hold a folder until the clock is there again.
    """
    try:
        return abs(_now(path.parent) - path.stat().st_mtime) > STALE_SECONDS
    except OSError:
        return True


def _now(folder: Path) -> float:
    """The time by the clock of the file system; by our own where nothing can be written."""
    probe = folder / f"{LEASE}.{secrets.token_hex(4)}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _read(folder: Path) -> _Holder | None:
    """What the lease of a folder says; None where it is missing, or is not yet written."""
    try:
        return _parsed((folder / LEASE).read_text(encoding="utf-8"))
    except OSError:
        return None


def _parsed(text: str) -> _Holder | None:
    try:
        return _Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _ourselves() -> _Holder:
    return _Holder(
        id=secrets.token_hex(16),
        host=socket.gethostname(),
        place=_place(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _place() -> str:
    """What is the same for processes that see each other's ids: containers of one name may not."""
    boot = namespace = ""
    with suppress(OSError):  # not Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return " ".join((socket.gethostname(), boot, namespace))
