"""A lease is exclusive between processes, and honest about what it gives back."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from support.forks import Forked

from soloist.devices import DeviceLease, open_accelerator
from soloist.devices.accelerator import SimulatedAccelerator
from soloist.devices.lease import ProcessLease
from soloist.devices.locks import LOCK_DIR
from soloist.errors import DeviceNotEmptyError, LeaseTimeoutError, MemoryNotReturnedError
from soloist.events import LeaseAcquired, LeaseReleased, LeaseWaiting, ListSink, Notice
from soloist.memory.cards import bare_card

LEFT_BEHIND = (
    r"bge-m3 left 1 tensor \(sim:0: 10x20 float32, 800 bytes, held by a list of 1 item, the local variable "
    r"forgotten of test_what_is_forgotten_is_named\)"
)


@pytest.fixture
def accelerator():
    """Two simulated devices of 1 MB."""
    return open_accelerator("simulated:2x1MB")


def lease(accelerator, tmp_path, sink=None, **options):
    """A lease for one model in a lock folder of its own."""
    return DeviceLease(accelerator, ["bge-m3"], sink or ListSink(), lock_dir=tmp_path / "locks", **options)


def test_memory_is_measured_at_both_ends_on_every_device(accelerator, tmp_path):
    """Statistics taken before the model has left would show a release that did not happen."""
    sink = ListSink()
    with lease(accelerator, tmp_path, sink):
        on_device = torch.zeros(1000, device="sim:1")
        assert accelerator.memory("sim:1").allocated_bytes == 4096
        del on_device
    acquired, released = sink.events
    assert isinstance(acquired, LeaseAcquired) and isinstance(released, LeaseReleased)
    assert acquired.devices == released.devices == ("sim:0", "sim:1")
    for event in (acquired, released):
        assert [stats.allocated_bytes for stats in event.memory.values()] == [0, 0]
        assert [stats.total_bytes for stats in event.memory.values()] == [10**6, 10**6]
    assert released.memory["sim:1"].peak_bytes == 4096
    assert released.held == ()


def test_what_is_forgotten_is_named(accelerator, tmp_path):
    """A leak that only shows as a number leaves its finder with nothing to look for."""
    sink = ListSink()
    forgotten = []
    with pytest.raises(MemoryNotReturnedError, match=LEFT_BEHIND):  # noqa: SIM117
        with lease(accelerator, tmp_path, sink):
            forgotten.append(torch.zeros(10, 20, device="sim:0"))
    held = sink.events[-1].held
    assert [(tensor.device, tensor.shape, tensor.size_bytes) for tensor in held] == [("sim:0", (10, 20), 800)]
    forgotten.clear()


def test_an_error_inside_gives_the_memory_back_and_is_raised(accelerator, tmp_path):
    """The frames of an error in flight hold the very tensors that must be gone."""
    sink = ListSink()

    def fail() -> None:
        activation = torch.zeros(100, device="sim:0")
        raise ValueError(f"after {activation.shape}")

    with pytest.raises(ValueError, match="after"), lease(accelerator, tmp_path, sink):
        fail()
    assert sink.events[-1].held == ()
    assert sink.events[-1].memory["sim:0"].allocated_bytes == 0
    with lease(accelerator, tmp_path):
        pass


def test_a_closure_in_a_traceback_gives_its_tensors_back(accelerator, tmp_path):
    """A cleared frame still refers to its function, and that to the cells of its closure."""
    sink = ListSink()

    def outer() -> None:
        captured = torch.zeros(100, device="sim:0")

        def inner() -> None:
            raise ValueError(f"planted beside {captured.shape}")

        inner()

    with pytest.raises(ValueError, match="planted") as caught, lease(accelerator, tmp_path, sink):
        outer()
    assert sink.events[-1].held == ()
    assert "in inner" in caught.value.__notes__[0]


def test_an_out_of_memory_error_inside_gives_the_memory_back(accelerator, tmp_path):
    """An OOM keeps every tensor of its frames alive for as long as it is on its way."""
    sink = ListSink()

    def fill() -> list[torch.Tensor]:
        return [torch.zeros(50_000, device="sim:0") for _ in range(10)]

    with pytest.raises(torch.OutOfMemoryError), lease(accelerator, tmp_path, sink):
        fill()
    assert sink.events[-1].memory["sim:0"].allocated_bytes == 0


def test_devices_that_are_not_empty_are_refused(accelerator, tmp_path):
    """A lease over somebody's tensors is not exclusive, and its plan does not hold."""
    mine = torch.zeros(3, device="sim:1")
    with pytest.raises(
        DeviceNotEmptyError,
        match=r"hold 1 tensor \(sim:1: 3 float32, 12 bytes, held by the local variable mine",
    ):
        lease(accelerator, tmp_path).__enter__()
    del mine
    gc.collect()
    with lease(accelerator, tmp_path):  # and the locks of the failed attempt are free
        pass


def test_a_second_lease_in_the_process_times_out_and_names_the_holder(accelerator, tmp_path):
    """Two runs in one notebook must not share the devices either."""
    sink = ListSink()
    with lease(accelerator, tmp_path), pytest.raises(LeaseTimeoutError) as caught:
        lease(accelerator, tmp_path, sink, timeout_seconds=0.2).__enter__()
    assert f"sim:0 is held by process {os.getpid()} (bge-m3) since" in str(caught.value)
    assert [type(event) for event in sink.events] == [LeaseWaiting]


def test_a_lease_that_cannot_be_announced_gives_its_locks_back(accelerator, tmp_path):
    """A full disk under events.jsonl would block every other process for as long as this one lives."""

    class Full:
        def emit(self, event):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        lease(accelerator, tmp_path, Full()).__enter__()
    with lease(accelerator, tmp_path, timeout_seconds=0):
        pass


class BreaksInside(SimulatedAccelerator):
    """A device that answers nothing any more once `broken` is set, as CUDA after an illegal access."""

    broken = False

    def empty_caches(self):
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super().empty_caches()


def test_a_broken_device_does_not_hide_the_error_that_broke_it(tmp_path):
    """The cause would be lost, the locks kept, and the release missing from the record."""
    accelerator, sink = BreaksInside([bare_card(10**6)]), ListSink()
    with pytest.raises(ValueError, match="the real failure"), lease(accelerator, tmp_path, sink):
        accelerator.broken = True
        raise ValueError("the real failure")
    assert isinstance(sink.events[-1], LeaseReleased) and sink.events[-1].memory == {}
    with lease(open_accelerator("simulated:1x1MB"), tmp_path, timeout_seconds=0):
        pass


def test_the_callers_own_error_is_left_alone(accelerator, tmp_path):
    """A lease in an `except` block must not empty the frames of the error that is handled there."""

    def fail() -> None:
        evidence = [1, 2, 3]
        raise KeyError(len(evidence))

    try:
        fail()
    except KeyError as handled:
        with pytest.raises(ValueError, match="inner"), lease(accelerator, tmp_path):
            raise ValueError("inner") from None
        assert handled.__traceback__.tb_next.tb_frame.f_locals == {"evidence": [1, 2, 3]}


def test_a_record_of_a_dead_holder_names_nobody(accelerator, tmp_path):
    """The id of a process that is gone sends its reader after a stranger."""
    with lease(accelerator, tmp_path):
        record = tmp_path / "locks" / "simulated-0.holder"
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        record.write_text(json.dumps({"pid": dead.pid, "models": ["m"], "since": "2020"}))
        with pytest.raises(LeaseTimeoutError, match="sim:0 is held by another process"):
            lease(accelerator, tmp_path, timeout_seconds=0).__enter__()


def test_the_lock_folder_is_the_same_for_every_job(tmp_path):
    """Slurm and others give each job a TMPDIR of its own; two jobs would hold one GPU."""
    code = "from soloist.devices.locks import LOCK_DIR; print(LOCK_DIR)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    theirs = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert theirs == f"{LOCK_DIR}\n"


def cudnn_may_attend() -> bool:
    """Whether torch may choose cuDNN's attention, as a thread of a worker sees it."""
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    thread.start()
    thread.join()
    return seen[0]


def test_cudnn_does_not_attend_within_a_lease(accelerator, tmp_path):
    """cuDNN's attention makes a plan for every new shape of a batch. After the lease the process is as before."""
    assert cudnn_may_attend()
    with pytest.raises(ValueError, match="inside"), lease(accelerator, tmp_path):
        assert not cudnn_may_attend()
        raise ValueError("inside")
    assert cudnn_may_attend()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with lease(accelerator, tmp_path):
            pass
        assert not cudnn_may_attend()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def test_the_first_lease_to_end_does_not_give_cudnn_back_to_the_other(accelerator, tmp_path):
    """If two runs of one notebook have a device each, the end of one run would change the kernels of the other."""
    first, second = (DeviceLease(accelerator, ["m"], ListSink(), lock_dir=tmp_path / name) for name in "ab")
    with second:
        with first:
            pass
        assert not cudnn_may_attend()
    assert cudnn_may_attend()


def test_on_the_cpu_nothing_is_switched_off(tmp_path):
    """The host has its own attention, so a lease of the host must not change the setting."""
    with lease(open_accelerator("cpu"), tmp_path):
        assert cudnn_may_attend()


HOLD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from soloist.devices import DeviceLease, open_accelerator
    from soloist.events import ListSink
    accelerator = open_accelerator("simulated:2x1MB")
    (Path(sys.argv[1]) / f"ready-{sys.argv[2]}").touch()
    while not (Path(sys.argv[1]) / "start").exists():
        time.sleep(0.005)
    waits = ListSink()
    for turn in range(int(sys.argv[3])):
        with DeviceLease(accelerator, [sys.argv[2]], waits, lock_dir=Path(sys.argv[1]) / "locks"):
            log = Path(sys.argv[1]) / "log"
            with log.open("a") as file:
                file.write(f"+{sys.argv[2]}\\n")
            time.sleep(float(sys.argv[4]))
            with log.open("a") as file:
                file.write(f"-{sys.argv[2]}\\n")
    print(sum(type(event).__name__ == "LeaseWaiting" for event in waits.events))
""")


def start(tmp_path, name: str, turns: int, seconds: float) -> Forked:
    """A process that leases the devices some times."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path), name, str(turns), str(seconds)]
    return Forked(arguments, stdout=subprocess.PIPE, text=True)


def let_go(tmp_path, *names: str) -> None:
    """Start the processes together, once all of them are ready."""
    deadline = time.monotonic() + 300
    while not all((tmp_path / f"ready-{name}").exists() for name in names) and time.monotonic() < deadline:
        time.sleep(0.02)
    (tmp_path / "start").touch()


def test_two_processes_never_hold_the_lease_at_once(tmp_path):
    """A lock that is only in the process would let two runs fill one GPU."""
    processes = [start(tmp_path, name, 10, 0.02) for name in ("a", "b")]
    let_go(tmp_path, "a", "b")
    waits = [int(process.communicate(timeout=300)[0]) for process in processes]
    assert sum(waits) > 0  # they did meet
    lines = (tmp_path / "log").read_text().split()
    assert len(lines) == 40
    for taken, given in zip(lines[::2], lines[1::2], strict=True):
        assert (taken[0], given[0]) == ("+", "-") and taken[1:] == given[1:]


def test_a_holder_that_is_killed_does_not_block_the_next(accelerator, tmp_path):
    """A lock file that outlives its process would need a person to remove it."""
    holder = start(tmp_path, "killed", 1, 600)
    let_go(tmp_path, "killed")
    deadline = time.monotonic() + 300
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(LeaseTimeoutError, match=rf"process {holder.pid} \(killed\)"):
        lease(accelerator, tmp_path, timeout_seconds=0).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=10)
    with lease(accelerator, tmp_path, timeout_seconds=5):
        pass


class MuteAccelerator(SimulatedAccelerator):
    """Devices whose driver cannot be asked, as where there is no nvidia-smi."""

    def driver_free_bytes(self, device: str) -> int | None:
        return None


def process_lease(accelerator, tmp_path, sink):
    return ProcessLease(accelerator, ["bge-m3"], sink, lock_dir=tmp_path / "locks")


def test_a_driver_that_cannot_be_asked_is_told(tmp_path):
    """Catches a release that nobody verified, and `0 bytes free` for what nobody knows."""
    sink = ListSink()
    with process_lease(MuteAccelerator([bare_card(10**6)] * 2), tmp_path, sink):
        pass
    notices = [event for event in sink.events if isinstance(event, Notice)]
    assert [notice.about for notice in notices] == ["bge-m3"]
    assert (
        "the free memory of sim:0, sim:1 is unknown, and nothing verifies that all of it comes back"
        in notices[0].message
    )
    for event in sink.events:
        if isinstance(event, LeaseAcquired | LeaseReleased):
            assert [stats.free_bytes for stats in event.memory.values()] == [None, None]


def test_a_driver_that_answers_costs_no_notice(accelerator, tmp_path):
    """A notice in every run is read in none."""
    sink = ListSink()
    with process_lease(accelerator, tmp_path, sink):
        pass
    assert [type(event) for event in sink.events] == [LeaseAcquired, LeaseReleased]


def test_a_process_lease_is_refused_on_this_processes_tensors(accelerator, tmp_path):
    """The worker would find less room than was planned for, and its parent would be to blame."""
    mine = torch.zeros(3, device="sim:1")
    with (
        pytest.raises(DeviceNotEmptyError, match=r"hold 1 tensor \(sim:1: 3 float32"),
        process_lease(accelerator, tmp_path, ListSink()),
    ):
        pass
    del mine
    with process_lease(accelerator, tmp_path, ListSink()):
        pass


def test_what_this_process_puts_there_meanwhile_is_not_called_another_ones(accelerator, tmp_path):
    """`another process has taken them` sends a person to look for a process that is not there."""
    sink, kept = ListSink(), []
    with process_lease(accelerator, tmp_path, sink):
        kept.append(torch.zeros(10, 20, device="sim:0"))
    message = next(event.message for event in sink.events if isinstance(event, Notice))
    assert "this process put 1 tensor (sim:0: 10x20 float32, 800 bytes" in message
    kept.clear()


def test_each_device_has_its_own_total(tmp_path):
    """The smallest card is what is planned for, and not what every device has."""
    sink = ListSink()
    with process_lease(SimulatedAccelerator([bare_card(10**6), bare_card(2 * 10**6)]), tmp_path, sink):
        pass
    for event in sink.events:
        assert {device: stats.total_bytes for device, stats in event.memory.items()} == {
            "sim:0": 10**6, "sim:1": 2 * 10**6
        }  # fmt: skip
