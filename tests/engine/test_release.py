"""Whatever happens inside a pass, the devices are empty after it, or what is left is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
import time

import pytest
from support.ctrl_c import PATIENCE_SECONDS, await_text, press_twice
from support.forks import Forked

from soloist.devices import open_accelerator
from soloist.engine import run
from soloist.errors import EncodingError, MemoryNotReturnedError, ModelTooLargeError, RowTooLargeError
from soloist.events import BatchSplit, LeaseAcquired, LeaseReleased, ListSink, PassStarted, PeakPredicted
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.user_catalogue import load_catalogue


@pytest.fixture
def staged(config):
    """The very module that a run will share, so that a hook on it is a hook on every replica."""
    model = stage(resolve("xlm-roberta", load_catalogue(config.catalogue)), "float32")
    yield model.module  # shared as long as the staged model is there


def releases(sink):
    """The release events of a run."""
    return [event for event in sink.events if isinstance(event, LeaseReleased)]


def assert_all_empty(sink):
    """No byte of ours on any simulated device after any lease, by the events and by the ledgers."""
    assert releases(sink)
    for event in releases(sink):
        assert event.held == ()
        assert [stats.allocated_bytes for stats in event.memory.values()] == [0, 0]
        assert [stats.reserved_bytes for stats in event.memory.values()] == [0, 0]
    accelerator = open_accelerator("simulated:2x1GB")
    assert [accelerator.memory(device).allocated_bytes for device in accelerator.devices] == [0, 0]


@pytest.mark.parametrize("mode", ["exclusive", "standard"])
def test_devices_are_empty_after_every_release(config, mode):
    """The last model left on its device is the classic of this kind of tool."""
    sink = ListSink()
    result = run(dataclasses.replace(config, mode=mode), sink)
    assert_all_empty(sink)
    assert all(peak > 100_000 for model in result.models for peak in model.peak_bytes.values())


def test_leases_come_in_pairs_and_in_order(config):
    """Two models on the devices at once would be the end of the exclusive mode."""
    sink = ListSink()
    run(config, sink)
    leases = [event for event in sink.events if isinstance(event, (LeaseAcquired, LeaseReleased))]
    assert [(type(event), event.models) for event in leases] == [
        (LeaseAcquired, ("qwen2",)), (LeaseReleased, ("qwen2",)),
        (LeaseAcquired, ("xlm-roberta",)), (LeaseReleased, ("xlm-roberta",)),
    ]  # fmt: skip


def test_standard_mode_takes_one_lease_for_all_models(config):
    """Standard mode must hold the devices as honestly, and give everything back as well."""
    sink = ListSink()
    run(dataclasses.replace(config, mode="standard"), sink)
    leases = [event for event in sink.events if isinstance(event, (LeaseAcquired, LeaseReleased))]
    assert [event.models for event in leases] == [("qwen2", "xlm-roberta")] * 2


def test_an_exception_in_a_forward_pass(config, staged):
    """The error's own frames hold the activations that have to go."""

    def fail(module, args, output):
        activation = output[0] if isinstance(output, tuple) else output
        if activation.device.type != "cpu":  # where each model is tried on two texts
            raise ValueError(f"planted, with {tuple(activation.shape)}")

    sink = ListSink()
    hook = staged.transformers_model.encoder.layer[1].register_forward_hook(fail)
    try:
        with pytest.raises(EncodingError, match=r"xlm-roberta failed on sim:[01]: ValueError: planted") as caught:
            run(config, sink)
    finally:
        hook.remove()
    assert_all_empty(sink)
    assert "modeling_xlm_roberta.py" in "".join(caught.value.__cause__.__notes__)  # for whoever has to find the fault


def test_an_out_of_memory_error_that_splits(config, long_texts, crowded):
    """A split that happens inside the `except` block would find no memory to work with."""
    sink = ListSink()
    run(dataclasses.replace(config, models=("xlm-roberta",), accelerator="simulated:2x4MB"), sink)
    assert any(isinstance(event, BatchSplit) for event in sink.events)
    (told,) = (event for event in sink.events if isinstance(event, PeakPredicted))  # it is compared with nothing
    assert told.models == ("xlm-roberta",) and told.predicted_bytes > told.resident_bytes > 0
    assert_all_empty(sink)


def test_one_row_that_does_not_fit_names_the_chunk_and_its_need(config):
    """Splitting has an end; what it ends with must be of use."""
    sink = ListSink()
    weights = stage(resolve("xlm-roberta", load_catalogue(config.catalogue)), "float32").weights_bytes
    tight = f"simulated:2x{(weights + 150_000) / 1e6:.3f}MB"
    with pytest.raises(
        RowTooLargeError, match=r"chunk 'alpha-\d{4}' alone, \d+ tokens, .* Tried to allocate \d+ bytes"
    ):
        run(dataclasses.replace(config, models=("xlm-roberta",), accelerator=tight), sink)
    assert_all_empty(sink)


def test_a_model_that_does_not_fit_says_what_it_needs(config):
    """Half a model left on a device after its error would fail everything that follows."""
    sink = ListSink()
    with pytest.raises(ModelTooLargeError, match=r"qwen2 needs 0.00 GB for its weights, which do not fit on sim:0"):
        run(dataclasses.replace(config, accelerator="simulated:2x0.1MB"), sink)
    assert_all_empty(sink)


@pytest.mark.usefixtures("all_objects_in_sight")
def test_a_forgotten_reference_is_named(config, staged):
    """The claim of a verified release stands or falls with this."""
    kept = []

    def keep(module, args, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    sink = ListSink()
    hook = staged.transformers_model.encoder.layer[0].register_forward_hook(keep)
    try:
        with pytest.raises(MemoryNotReturnedError, match=r"xlm-roberta left \d+ tensors \(sim:\d: \d+x\d+x48 float32"):
            run(config, sink)
    finally:
        hook.remove()
    first, second = releases(sink)
    assert first.held == ()
    assert {tensor.shape[-1] for tensor in second.held} == {48}
    kept.clear()


INTERRUPTED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from soloist.config import RunConfig
    from soloist.devices import open_accelerator
    from soloist.engine import run
    from soloist.errors import RunStoppedError
    root = Path(sys.argv[1])
    try:
        run(RunConfig(chunks_root=root / "chunks", out=root / "run", models=("all-MiniLM-L6-v2",),
                      accelerator="simulated:2x1GB", lock_dir=root / "locks", shard_chunks=64))
    except (KeyboardInterrupt, RunStoppedError):
        accelerator = open_accelerator("simulated:2x1GB")
        print([accelerator.memory(device).allocated_bytes for device in accelerator.devices])
""")


@pytest.mark.parametrize(("interrupts", "ended_by"), [(1, "stopped by Ctrl-C"), (4, "stopped by a second Ctrl-C")])
def test_ctrl_c_in_a_pass(config, tmp_path, interrupts, ended_by):
    """An interrupt reaches only the main thread; the workers hold the tensors. Impatient users press it again."""
    from support.collections import write_collection

    write_collection(tmp_path / "chunks", "gamma", 3000, longest=200)
    process = Forked(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    events = tmp_path / "run" / "events.jsonl"
    await_text(events, PassStarted.__name__, process)
    time.sleep(0.5)  # into the batches
    press_twice(process, events, interrupts)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out.strip()) == (0, "[0, 0]"), err
    last = [json.loads(line) for line in events.read_text().splitlines()][-2:]
    assert [event["event"] for event in last] == ["LeaseReleased", "RunFinished"]
    assert last[0]["held"] == []
    assert last[1]["error"] == ended_by
