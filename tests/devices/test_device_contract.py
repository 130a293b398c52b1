"""What soloist relies on, of a real device and of a simulated one alike: the same tests, unchanged, on both.

Where there is no CUDA device its half is skipped, and what it would show stays unproven.
"""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch
from support.collections import write_collection

from soloist.config import RunConfig
from soloist.devices import DeviceLease, open_accelerator
from soloist.engine import run
from soloist.events import LeaseReleased, ListSink, PeakCompared

T4, A100 = "simulated:2xT4", "simulated:2xA100-80GB"
NEEDS_CUDA = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
# What a run does: its mode, its isolation, and the models of each pass.
ALONE = ("exclusive", "allocator", [("qwen2",), ("bert",)])
IN_PROCESSES = ("exclusive", "process", [("qwen2",), ("bert",)])
TOGETHER = ("standard", "allocator", [("qwen2", "bert")])


@pytest.fixture(params=[T4, A100, pytest.param("cuda", marks=NEEDS_CUDA)])
def description(request) -> str:
    """Simulated cards of two capabilities, and the real ones."""
    return str(request.param)


@pytest.fixture
def accelerator(description, tmp_path):
    """The devices, with a machine of their own where they are simulated."""
    return open_accelerator(description, tmp_path / "machine")


def test_a_lease_returns_the_memory_and_the_workspaces(accelerator, tmp_path):
    """A matrix product leaves the library's workspace in the allocator: it has to be cleared, not forgiven."""
    sink = ListSink()
    with DeviceLease(accelerator, ["test"], sink, lock_dir=tmp_path):
        assert not torch.backends.cuda.cudnn_sdp_enabled()  # plans count on torch's own kernels
        for device in accelerator.devices:
            torch.ones(1024, 1024, device=device) @ torch.ones(1024, 1024, device=device)
            assert accelerator.memory(device).allocated_bytes >= accelerator.card.workspace_bytes
    for stats in sink.events[-1].memory.values():
        assert stats.allocated_bytes == 0
        assert stats.peak_bytes >= 3 * 4 * 1024**2 + accelerator.card.workspace_bytes
        assert stats.reserved_bytes == 0


def test_the_allocator_caches_and_gives_back(accelerator):
    """`reserved` stays when a tensor dies, and goes to the driver only when the cache is emptied."""
    device = accelerator.devices[0]
    accelerator.memory(device)
    free = accelerator.driver_free_bytes(device)
    tensor = torch.zeros(3 * 2**20, dtype=torch.uint8, device=device)
    assert accelerator.memory(device).reserved_bytes == 20 * 2**20
    del tensor
    gc.collect()
    stats = accelerator.memory(device)
    assert (stats.allocated_bytes, stats.reserved_bytes) == (0, 20 * 2**20)
    accelerator.empty_caches()
    assert accelerator.memory(device).reserved_bytes == 0
    assert free is None or abs(accelerator.driver_free_bytes(device) - free) <= 2 * 2**20


def test_too_much_is_an_out_of_memory_error_that_keeps_nothing(accelerator):
    """What the encoder's halving rests on."""
    device = accelerator.devices[0]
    held = []
    with pytest.raises(torch.OutOfMemoryError):
        while True:  # never touched, so that a simulated device costs the host addresses and no memory
            held.append(torch.empty(2 * 2**30, dtype=torch.uint8, device=device))
    assert abs(len(held) - accelerator.card.usable_bytes // (2 * 2**30)) <= 1
    held.clear()
    gc.collect()
    accelerator.empty_caches()
    assert accelerator.memory(device).allocated_bytes == 0


# A worker process does what this process does, and its start takes seconds: one simulated card is enough for it.
@pytest.mark.parametrize(
    ("description", "mode", "isolation", "passes"),
    [
        *((T4, *kind) for kind in (ALONE, IN_PROCESSES, TOGETHER)),
        *((A100, *kind) for kind in (ALONE, TOGETHER)),
        *(pytest.param("cuda", *kind, marks=NEEDS_CUDA) for kind in (ALONE, IN_PROCESSES, TOGETHER)),
    ],
)
def test_a_run_has_the_peak_that_was_predicted_and_leaves_nothing(
    description, mode, isolation, passes, tmp_path, tiny_models
):
    """The planner and the release of a lease rely on this. In standard mode a thread for each model
    would keep a second workspace of the matrix library, which nothing predicts.
    """
    write_collection(tmp_path / "chunks", "alpha", 60, seed=1)
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text("".join(f'[models."{name}"]\nsource = "{path}"\n' for name, path in tiny_models.items()))
    config = RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=("qwen2", "bert"), accelerator=description,
        catalogue=catalogue, lock_dir=tmp_path / "machine", isolation=isolation, dtype="float32", mode=mode,
    )  # fmt: skip
    sink = ListSink()
    result = run(dataclasses.replace(config), sink)
    compared = [event for event in sink.events if isinstance(event, PeakCompared)]
    assert [event.models for event in compared] == passes
    for event in compared:
        assert not event.missed
        assert event.measured_bytes == pytest.approx(event.predicted_bytes, rel=0.02)
    for event in sink.events:
        if isinstance(event, LeaseReleased):
            assert event.held == ()
            assert all(stats.allocated_bytes == 0 for stats in (event.worker_memory or event.memory).values())
    assert all(model.batch_sizes.splits == 0 for model in result.models)
