"""The exclusive lease on every device of an accelerator.

A lease takes one machine-wide lock per device, begins on devices that hold nothing of ours, and ends when
the memory is measured to be back. It knows devices and events, and nothing of models but their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from soloist.devices.accelerator import Accelerator
from soloist.devices.referrers import holder_of
from soloist.errors import DeviceNotEmptyError, LeaseError, LeaseTimeoutError, MemoryNotReturnedError
from soloist.events import EventSink, LeaseAcquired, LeaseReleased, LeaseWaiting, Notice
from soloist.types import HeldTensor, Isolation, MemoryStats

POLL_SECONDS = 0.05
# The same for every process: the folder that TMPDIR names differs from job to job.
LOCK_DIR = (Path("/tmp") if os.name == "posix" else Path(tempfile.gettempdir())) / "soloist-leases"
RETURN_TIMEOUT_SECONDS = 5.0  # Ollama's measure for drivers that report late; others saw 0.5 to 1.5 s
NAMED_TENSORS = 5


class DeviceLease:
    """All devices of an accelerator, for us alone, as a context manager.

    Entering waits for the locks (`timeout_seconds`; None: for ever), then checks that the devices
    are empty. Leaving collects garbage, empties the caches, measures, and gives the locks back, whatever was
    raised inside. With `locked=False` another process holds the locks for this one.

    Raises:
        LeaseTimeoutError: on entering, somebody else kept a device for too long.
        DeviceNotEmptyError: on entering, a device holds tensors of this process.
        MemoryNotReturnedError: on leaving without another error, tensors are still on a device.
    """

    isolation: Isolation = "allocator"

    def __init__(
        self,
        accelerator: Accelerator,
        models: Sequence[str],
        sink: EventSink,
        *,
        lock_dir: Path | None = None,
        timeout_seconds: float | None = None,
        locked: bool = True,
    ) -> None:
        self._accelerator = accelerator
        self._models = tuple(models)
        self._sink = sink
        self._lock_dir = lock_dir or LOCK_DIR
        self._timeout_seconds = timeout_seconds
        self._locked_here = locked
        self._locks = contextlib.ExitStack()
        self._acquired_at = 0.0
        self._handled_before: set[int] = set()

    def __enter__(self) -> DeviceLease:
        """Take the locks, in the order of their keys, and verify that the devices are empty."""
        began = time.monotonic()
        self._handled_before = set(map(id, error_chain(sys.exc_info()[1])))
        with contextlib.ExitStack() as stack:
            for key, device in self._lock_order():
                stack.enter_context(self._locked(key, device, began))
            self._begin()
            self._acquired_at = time.monotonic()
            self._sink.emit(
                LeaseAcquired(
                    models=self._models,
                    devices=self._accelerator.devices,
                    memory=self._measure(),
                    waited_seconds=self._acquired_at - began,
                    isolation=self.isolation,
                )
            )
            self._locks = stack.pop_all()  # last: whatever fails before gives the locks back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Verify that the memory is back, say so, and give the locks back."""
        with self._locks:
            try:
                held = self._settle(error)
                memory = self._measure()
            except Exception:
                # A device that is broken cannot be measured either; what broke it is the error to report.
                if error is None:
                    raise
                held, memory = (), {}
            self._sink.emit(self._released(memory, held))
        if held and error is None:
            self._complain(held)

    def _lock_order(self) -> list[tuple[str, str]]:
        pairs = zip(self._accelerator.lock_keys, self._accelerator.devices, strict=True)
        return sorted(pairs) if self._locked_here else []

    def _begin(self) -> None:
        """Verify that the devices are empty, and let their peaks begin."""
        self._require_empty()
        for device in self._accelerator.devices:
            self._accelerator.reset_peak(device)

    def _released(self, memory: dict[str, MemoryStats], held: tuple[HeldTensor, ...]) -> LeaseReleased:
        return LeaseReleased(
            models=self._models,
            devices=self._accelerator.devices,
            memory=memory,
            held=held,
            held_seconds=time.monotonic() - self._acquired_at,
            isolation=self.isolation,
        )

    def _complain(self, held: tuple[HeldTensor, ...]) -> None:
        raise MemoryNotReturnedError(
            f"{', '.join(self._models)} left {_name(held)}: drop whatever still refers to them (a hook, a list, a "
            "notebook variable) and run again"
        )

    def _settle(self, error: BaseException | None) -> tuple[HeldTensor, ...]:
        """Let go of what an error keeps alive, and wait for the memory; what is still held."""
        ours = [each for each in error_chain(error) if id(each) not in self._handled_before]
        for each in ours:
            traceback.clear_frames(each.__traceback__)
        held = self._await_return()
        if held and ours:
            forget_frames(ours)
            held = self._await_return()
        return held

    def _require_empty(self) -> None:
        held = self._await_return()
        if held:
            raise DeviceNotEmptyError(
                f"{', '.join(self._models)} cannot have the devices alone, they already hold {_name(held)}: delete "
                "these tensors first"
            )

    def _await_return(self) -> tuple[HeldTensor, ...]:
        """Wait until the devices are empty; what is still held when the patience ends."""
        deadline = time.monotonic() + RETURN_TIMEOUT_SECONDS
        while True:
            gc.collect()
            self._accelerator.clear_workspaces()
            for device in self._accelerator.devices:
                self._accelerator.empty_cache(device)
            allocated = {device: stats.allocated_bytes for device, stats in self._measure().items()}
            held = _held_tensors({device: size for device, size in allocated.items() if size})
            # What a live Python object holds does not come back by waiting; a library's own workspace may stay.
            if held:
                return held
            over = {device: size for device, size in allocated.items() if size > self._accelerator.residue_bytes}
            if not over:
                return ()
            if time.monotonic() > deadline:
                return tuple(HeldTensor(device=d, shape=None, dtype="", size_bytes=size) for d, size in over.items())
            time.sleep(POLL_SECONDS)

    def _measure(self) -> dict[str, MemoryStats]:
        return {device: self._accelerator.memory(device) for device in self._accelerator.devices}

    @contextlib.contextmanager
    def _locked(self, key: str, device: str, began: float) -> Iterator[None]:
        lock = self._lock(key)
        holder_path = self._lock_dir / f"{key}.holder"
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
            self._lock_dir.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # another user made it, and made it open
                self._lock_dir.chmod(0o1777)
        except OSError as exc:
            raise LeaseError(f"the lock folder {self._lock_dir} cannot be made: {exc.strerror}; name another") from exc
        return FileLock(self._lock_dir / f"{key}.lock", mode=0o666, thread_local=False)

    def _wait(self, lock: FileLock, holder_path: Path, device: str, began: float) -> None:
        announced = False
        while True:
            try:
                lock.acquire(timeout=0)
                return
            except Timeout:
                pass
            except OSError as exc:
                raise LeaseError(f"the lock of {device} cannot be taken in {self._lock_dir}: {exc.strerror}") from exc
            holder = _read_holder(holder_path)
            if self._timeout_seconds is not None and time.monotonic() - began >= self._timeout_seconds:
                raise LeaseTimeoutError(
                    f"{device} is held by {holder} and was not free after {self._timeout_seconds:g} s: wait for it to "
                    "end, or allow more time"
                )
            if not announced:
                self._sink.emit(LeaseWaiting(device=device, holder=holder))
                announced = True
            time.sleep(POLL_SECONDS)


class ProcessLease(DeviceLease):
    """The lease of a process that lets a worker do the pass, and never touches the devices itself.

    It begins on devices that hold no tensor of this process. It measures by the driver, which needs no context, and
    waits until the driver has back what it had at the start; where the driver cannot be asked, a notice says that this
    is not verified. The worker verifies its own allocator before it ends; what it measured is `worker_memory`.
    """

    isolation: Isolation = "process"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker_memory: Mapping[str, MemoryStats] = {}
        self._free_before: dict[str, int | None] = {}
        self._said_unknown = False

    def _begin(self) -> None:
        self._require_empty()
        self._free_before = self._driver_free()

    def _settle(self, error: BaseException | None) -> tuple[HeldTensor, ...]:
        """Wait until the driver has the memory back; what this process holds, or else what is still missing."""
        if ours := self._await_return():
            return ours
        deadline = time.monotonic() + RETURN_TIMEOUT_SECONDS
        while True:
            missing = self._missing()
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(POLL_SECONDS)

    def _await_return(self) -> tuple[HeldTensor, ...]:
        """The tensors of this process; to find them makes no context."""
        if not self._accelerator.copies_weights:  # on the host, those of the staged models among them
            return ()
        gc.collect()
        return _held_tensors(dict.fromkeys(self._accelerator.devices, 0))

    def _complain(self, held: tuple[HeldTensor, ...]) -> None:
        """The worker has ended, so what is held is not the pass's: worth a notice, and no reason to lose a run."""
        sizes = ", ".join(f"{tensor.size_bytes:,} bytes of {tensor.device}" for tensor in held)
        if all(tensor.shape is None for tensor in held):
            self._say(f"the driver has {sizes} less free than before the pass: another process has taken them")
        else:
            self._say(f"in the midst of the pass this process has put {_name(held)} on the devices")

    def _say(self, message: str) -> None:
        self._sink.emit(Notice(about=", ".join(self._models), message=message))

    def _missing(self) -> tuple[HeldTensor, ...]:
        if not self._accelerator.copies_weights:  # the host's memory is not ours alone to judge
            return ()
        now = self._driver_free()
        short = {
            device: before - free
            for device, before in self._free_before.items()
            if before is not None and (free := now[device]) is not None
        }
        return tuple(
            HeldTensor(device=device, shape=None, dtype="", size_bytes=size, holder="a process on the device")
            for device, size in short.items()
            if size > self._accelerator.residue_bytes
        )

    def _measure(self) -> dict[str, MemoryStats]:
        return {
            device: MemoryStats(
                allocated_bytes=0,
                reserved_bytes=0,
                free_bytes=free,
                total_bytes=self._accelerator.total_bytes(device),
                peak_bytes=0,
            )
            for device, free in self._driver_free().items()
        }

    def _released(self, memory: dict[str, MemoryStats], held: tuple[HeldTensor, ...]) -> LeaseReleased:
        return dataclasses.replace(super()._released(memory, held), worker_memory=self.worker_memory)

    def _driver_free(self) -> dict[str, int | None]:
        """By device; that some cannot be told is said once in a lease."""
        free = {device: self._accelerator.driver_free_bytes(device) for device in self._accelerator.devices}
        unknown = [device for device, size in free.items() if size is None]
        if unknown and not self._said_unknown:
            self._said_unknown = True
            self._say(
                f"nvidia-smi, the driver's own tool, cannot be run, so that what is free of {', '.join(unknown)} is "
                "unknown, and that all memory comes back is not verified: put nvidia-smi on the PATH"
            )
        return free


def forget_frames(errors: Sequence[BaseException]) -> None:
    """Let go of all that the tracebacks of errors keep alive; the text of the first stays, as a note.

    An error keeps every tensor of the frames it passed through
    (https://github.com/pytorch/pytorch/issues/18853). Clearing the frames is not enough: a frame also keeps
    its function, and that its closure, where torch's module calls put their inputs. So the traceback is cut after
    its first entry. Frames that still run are left alone.
    """
    text = "".join(traceback.format_exception(type(errors[0]), errors[0], errors[0].__traceback__))
    for each in errors:
        traceback.clear_frames(each.__traceback__)
        if each.__traceback__ is not None:
            each.__traceback__.tb_next = None
    # What `add_note` of Python 3.11 does.
    errors[0].__dict__.setdefault("__notes__", []).append(text.rstrip())


def error_chain(error: BaseException | None) -> list[BaseException]:
    """The error, its causes and its contexts; nothing for None."""
    found: dict[int, BaseException] = {}
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in found:
            found[id(current)] = current
            pending += [current.__cause__, current.__context__]
    return list(found.values())


def _held_tensors(allocated: dict[str, int]) -> tuple[HeldTensor, ...]:
    """The live Python tensors on these devices, largest first."""
    if not allocated:
        return ()
    tensors = [
        item for item in gc.get_objects() if issubclass(type(item), torch.Tensor) and str(item.device) in allocated
    ]
    tensors.sort(key=lambda tensor: -tensor.nelement() * tensor.element_size())
    named: list[HeldTensor] = []
    for tensor in tensors:
        named.append(
            HeldTensor(
                device=str(tensor.device),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                size_bytes=tensor.nelement() * tensor.element_size(),
                # Each search walks all objects of the process: for those that an error will name, and no more.
                holder=holder_of(tensor, tensors) if len(named) < NAMED_TENSORS else "",
            )
        )
    return tuple(named)


def _name(held: Sequence[HeldTensor]) -> str:
    shown = "; ".join(str(tensor) for tensor in held[:NAMED_TENSORS])
    more = f"; and {len(held) - NAMED_TENSORS} more" if len(held) > NAMED_TENSORS else ""
    return f"{len(held)} tensors ({shown}{more})"


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
        with contextlib.suppress(PermissionError):  # alive, and somebody else's
            os.kill(record["pid"], 0)  # a record that a killed process left names nobody
        return f"process {record['pid']} ({', '.join(record['models'])}) since {record['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
