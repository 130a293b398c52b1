"""The exclusive lease on every device of an accelerator.

A lease takes a lock for every device, which no other process of the machine holds then. It begins on devices without
tensors of this process, and ends when the memory is measured to be back. It knows devices and events, and nothing of
models but their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from soloist.devices.accelerator import Accelerator
from soloist.devices.locks import POLL_SECONDS, DeviceLocks
from soloist.devices.referrers import holder_of
from soloist.error_frames import error_chain, forget_frames
from soloist.errors import DeviceNotEmptyError, MemoryNotReturnedError
from soloist.events import EventSink, LeaseAcquired, LeaseReleased, Notice
from soloist.types import HeldTensor, Isolation, MemoryStats
from soloist.wording import count_text

RETURN_TIMEOUT_SECONDS = 5.0  # Ollama's measure for drivers that report late; others saw 0.5 to 1.5 s
NAMED_TENSORS = 5


class DeviceLease:
    """All devices of an accelerator, for this process alone, as a context manager.

    Entering waits for the locks (`timeout_seconds`; None is for ever), and then checks that the devices are empty.
    Leaving empties the caches, collects garbage if something is left, measures, and gives the locks back, whatever was
    raised inside. With `locked=False` another process holds the locks for this one.

    Raises:
        LeaseTimeoutError: on entering, another process kept a device for too long.
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
        self._locks = DeviceLocks(lock_dir, models, sink, timeout_seconds)
        self._locked_here = locked
        self._held = contextlib.ExitStack()
        self._acquired_at = 0.0
        self._handled_before: set[int] = set()

    def __enter__(self) -> DeviceLease:
        """Take the locks in the order of their keys, and verify that the devices are empty."""
        began = time.monotonic()
        self._handled_before = set(map(id, error_chain(sys.exc_info()[1])))
        with contextlib.ExitStack() as stack:
            for key, device in self._lock_order():
                stack.enter_context(self._locks.held(key, device, began))
            stack.enter_context(self._accelerator.computing())
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
            self._held = stack.pop_all()  # last: whatever fails before gives the locks back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Verify that the memory is back, emit the event, and give the locks back."""
        with self._held:
            try:
                held = self._reclaim(error)
                memory = self._measure()
            except Exception:
                # A broken device cannot be measured either. The error that broke it is the one to report.
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
        """Verify that the devices are empty, and begin new peaks."""
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
            f"{', '.join(self._models)} left {_tensors_text(held)}: drop whatever still refers to "
            f"{'it' if len(held) == 1 else 'them'} (a hook, a list, a notebook variable) and run again"
        )

    def _reclaim(self, error: BaseException | None) -> tuple[HeldTensor, ...]:
        """Drop everything that an error keeps alive, and wait for the memory; the tensors that are still held."""
        ours = [link for link in error_chain(error) if id(link) not in self._handled_before]
        for link in ours:
            traceback.clear_frames(link.__traceback__)
        held = self._await_return()
        if held and ours:
            forget_frames(ours)
            held = self._await_return()
        return held

    def _require_empty(self) -> None:
        held = self._await_return()
        if held:
            raise DeviceNotEmptyError(
                f"{', '.join(self._models)} cannot lease the devices, which already hold {_tensors_text(held)}: delete "
                f"{'that tensor' if len(held) == 1 else 'those tensors'} first"
            )

    def _await_return(self) -> tuple[HeldTensor, ...]:
        """Wait until the devices are empty; the tensors that are still held when the time is over."""
        deadline = time.monotonic() + RETURN_TIMEOUT_SECONDS
        while True:
            allocated = self._allocated()
            if allocated:  # perhaps by garbage; looking for that takes a third of a second
                gc.collect()
                allocated = self._allocated()
            held = _held_tensors(allocated)
            # Memory of a live Python object does not come back by waiting. A library's own workspace may stay.
            if held:
                return held
            over = {device: size for device, size in allocated.items() if size > self._accelerator.residue_bytes}
            if not over:
                return ()
            if time.monotonic() > deadline:
                return tuple(HeldTensor(device=d, shape=None, dtype="", size_bytes=size) for d, size in over.items())
            time.sleep(POLL_SECONDS)

    def _allocated(self) -> dict[str, int]:
        """The bytes that tensors still take, on the devices where some do."""
        self._accelerator.clear_workspaces()
        self._accelerator.empty_caches()
        allocated = {device: stats.allocated_bytes for device, stats in self._measure().items()}
        return {device: size for device, size in allocated.items() if size}

    def _measure(self) -> dict[str, MemoryStats]:
        return {device: self._accelerator.memory(device) for device in self._accelerator.devices}


class ProcessLease(DeviceLease):
    """The lease of a process that never touches the devices itself: a worker process does the pass.

    It begins on devices without tensors of this process. It asks the driver, for which it needs no context, and waits
    until as much memory is free as at the start. Where the driver cannot be asked, a notice says that this is not
    verified. The worker verifies its own allocator before it ends, and `worker_memory` is what the worker measured.
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

    def _reclaim(self, error: BaseException | None) -> tuple[HeldTensor, ...]:
        """Wait until the driver has the memory back; tensors of this process, or else what the driver lacks."""
        if ours := self._await_return():
            return ours
        deadline = time.monotonic() + RETURN_TIMEOUT_SECONDS
        while True:
            missing = self._missing()
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(POLL_SECONDS)

    def _await_return(self) -> tuple[HeldTensor, ...]:
        """The tensors of this process. Looking for them makes no context."""
        if not self._accelerator.copies_weights:  # on the host the staged models are among them
            return ()
        devices = dict.fromkeys(self._accelerator.devices, 0)
        if not _held_tensors(devices):
            return ()
        gc.collect()
        return _held_tensors(devices)

    def _complain(self, held: tuple[HeldTensor, ...]) -> None:
        """The worker has ended, so the memory is not the pass's: a notice is enough, and the run goes on."""
        sizes = ", ".join(f"{tensor.size_bytes:,} bytes of {tensor.device}" for tensor in held)
        if all(tensor.shape is None for tensor in held):
            self._say(f"the driver has {sizes} less free than before the pass: another process took them")
        else:
            self._say(f"during the pass this process put {_tensors_text(held)} on the devices")

    def _say(self, message: str) -> None:
        self._sink.emit(Notice(about=", ".join(self._models), message=message))

    def _missing(self) -> tuple[HeldTensor, ...]:
        if not self._accelerator.copies_weights:  # other programs use the host's memory too
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
        """The free bytes by device, None where they are unknown, which one notice of a lease says."""
        free = {device: self._accelerator.driver_free_bytes(device) for device in self._accelerator.devices}
        unknown = [device for device, size in free.items() if size is None]
        if unknown and not self._said_unknown:
            self._said_unknown = True
            self._say(
                f"nvidia-smi, the driver's own tool, cannot be run. So the free memory of {', '.join(unknown)} is "
                "unknown, and nothing verifies that all of it comes back: put nvidia-smi on the PATH"
            )
        return free


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
                # A search walks all objects of the process: only for the tensors that an error will name.
                holder=holder_of(tensor, tensors) if len(named) < NAMED_TENSORS else "",
            )
        )
    return tuple(named)


def _tensors_text(held: Sequence[HeldTensor]) -> str:
    shown = "; ".join(str(tensor) for tensor in held[:NAMED_TENSORS])
    more = f"; and {len(held) - NAMED_TENSORS} more" if len(held) > NAMED_TENSORS else ""
    return f"{count_text(len(held), 'tensor')} ({shown}{more})"
