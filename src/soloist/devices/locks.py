"""One lock for every device, which all processes of the machine share. Knows files, and nothing of devices but keys.

Beside a lock lies a file with its holder, so that whoever waits can say for whom.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from soloist.errors import LeaseError, LeaseTimeoutError
from soloist.events import EventSink, LeaseWaiting

POLL_SECONDS = 0.05
# The same for every process: the folder that TMPDIR names differs from job to job.
LOCK_DIR = (Path("/tmp") if os.name == "posix" else Path(tempfile.gettempdir())) / "soloist-leases"


class DeviceLocks:
    """The locks in a folder, as one process takes them for its models.

    `timeout_seconds` is how long to wait for all of them; None is for ever.
    """

    def __init__(
        self, folder: Path | None, models: Sequence[str], sink: EventSink, timeout_seconds: float | None
    ) -> None:
        self._folder = folder or LOCK_DIR
        self._models = tuple(models)
        self._sink = sink
        self._timeout_seconds = timeout_seconds

    @contextlib.contextmanager
    def held(self, key: str, device: str, began: float) -> Iterator[None]:
        """Within this, the lock of a device is ours. The waiting began at `began`, by the monotonic clock.

        Raises:
            LeaseTimeoutError: another process kept the device for too long.
            LeaseError: the folder cannot be used.
        """
        lock = self._lock(key)
        holder_path = self._folder / f"{key}.holder"
        self._wait(lock, holder_path, device, began)
        try:
            _write_holder(holder_path, self._models)
            yield
        finally:
            with contextlib.suppress(OSError):
                holder_path.unlink(missing_ok=True)
            lock.release()

    def _lock(self, key: str) -> FileLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # another user made it, and made it open
                self._folder.chmod(0o1777)
        except OSError as exc:
            raise LeaseError(
                f"the lock folder {self._folder} cannot be made ({exc.strerror}): name another lock_dir"
            ) from exc
        return FileLock(self._folder / f"{key}.lock", mode=0o666, thread_local=False)

    def _wait(self, lock: FileLock, holder_path: Path, device: str, began: float) -> None:
        is_announced = False
        while True:
            try:
                lock.acquire(timeout=0)
                return
            except Timeout:
                pass
            except OSError as exc:
                raise LeaseError(
                    f"the lock of {device} cannot be taken in {self._folder} ({exc.strerror}): name another lock_dir"
                ) from exc
            holder = _read_holder(holder_path)
            if self._timeout_seconds is not None and time.monotonic() - began >= self._timeout_seconds:
                raise LeaseTimeoutError(
                    f"{device} is held by {holder} and was not free after {self._timeout_seconds:g} s: wait until it "
                    "ends, or allow more time"
                )
            if not is_announced:
                self._sink.emit(LeaseWaiting(device=device, holder=holder))
                is_announced = True
            time.sleep(POLL_SECONDS)


def _write_holder(path: Path, models: Sequence[str]) -> None:
    record = {"pid": os.getpid(), "models": list(models), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    # All users share the folder: never follow a link that somebody put there. A file that a killed process of
    # another user left cannot be replaced; the lock holds all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(record, file)


def _read_holder(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        with contextlib.suppress(PermissionError):  # alive, and another user's
            os.kill(record["pid"], 0)  # raises where a killed process left the record
        return f"process {record['pid']} ({', '.join(record['models'])}) since {record['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
