"""What goes on beside the devices' work: batches in flight, packed rows on devices, weights that are prefetched."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soloist.devices.accelerator import SimulatedAccelerator
from soloist.encoding import packed_attention, packing
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import begin
from soloist.encoding.prefetch import prefetched_weights, read_pages
from soloist.engine.drivers.context import pass_contexts
from soloist.events import BatchEncoded, BatchSplit, ListSink, Notice, PeakCompared
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.sizing.run_plan import Pass, RunPlan
from soloist.types import Batch

MODELS = ("qwen2", "xlm-roberta")


def vectors_of(folder, all_vectors):
    return [all_vectors(folder, collection, model)[1] for collection in ("alpha", "beta") for model in MODELS]


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert np.array_equal(one, other)


def test_two_batches_in_flight_are_the_same_batches(embed, all_vectors, monkeypatch):
    """A batch that is begun before the last one is collected would take its rows, or never be collected."""
    sinks = ListSink(), ListSink()
    _, alone = embed(sinks[0], token_budget=256)
    monkeypatch.setattr(SimulatedAccelerator, "batches_in_flight", 2)
    _, ahead = embed(sinks[1], token_budget=256)
    assert_equal(vectors_of(alone, all_vectors), vectors_of(ahead, all_vectors))
    rows = [sum(event.rows for event in sink.events if isinstance(event, BatchEncoded)) for sink in sinks]
    assert rows == [2 * 95, 2 * 95]


def test_a_batch_that_does_not_fit_is_split_while_another_is_in_flight(embed, all_vectors, long_texts, monkeypatch):
    """The vectors of the batch before would be lost, or the halves come twice."""
    small = {"accelerator": "simulated:1x2MB", "models": ("xlm-roberta",), "dtype": "float32"}
    monkeypatch.setattr("soloist.memory.planner.RESERVE_SHARE", -4.0)  # as where a prediction is far too low
    monkeypatch.setattr(SimulatedAccelerator, "batches_in_flight", 2)
    sink = ListSink()
    _, split = embed(sink, **small)
    assert any(isinstance(event, BatchSplit) for event in sink.events)
    _, whole = embed(accelerator="simulated:1x1GB", models=("xlm-roberta",), dtype="float32")
    for collection in ("alpha", "beta"):
        one, other = (all_vectors(folder, collection, "xlm-roberta")[1] for folder in (split, whole))
        assert np.array_equal(one, other)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # only the CPU's kernel has them
def test_all_rows_at_once_are_each_length_for_itself():
    """The attention of CUDA: rows would see each other, or the order of heads and tokens be another."""
    features = packing.flat_features([np.zeros(length, np.int32) for length in (9, 4, 4, 17)])
    groups = packing.cut([9, 4, 4, 17])
    with torch.inference_mode(), packing.apart(features):  # as in a forward pass
        heads = [torch.randn(1, 34, 3, 8).transpose(1, 2) for _ in range(3)]
        # Not causal: torch's kernel for the CPU has no causal jagged rows, those of CUDA have.
        expected = packed_attention._length_by_length(groups, *heads, 0.3, False)
        found = packed_attention._all_rows_at_once(groups, *heads, 0.3, False)
    torch.testing.assert_close(found, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_packed_rows_on_cuda_have_the_vectors_of_padded_ones(embed, all_vectors, dtype):
    """The kernel of the device is another than the one that packing was tried with."""
    _, padded = embed(accelerator="cuda", dtype=dtype, packing="off")
    _, packed = embed(accelerator="cuda", dtype=dtype, packing="on")
    for one, other in zip(vectors_of(padded, all_vectors), vectors_of(packed, all_vectors), strict=True):
        assert np.einsum("ij,ij->i", one, other).min() > (0.99999 if dtype == "float32" else 0.999)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # torch calls it a prototype
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "qwen2"])
def test_no_operator_waits_for_cuda(tiny_models, name, packs):
    """Simulated devices count the waits that soloist knows of. torch knows the waits of a real device."""
    staged = stage(resolve(str(tiny_models[name])), "float16")
    encoder, replica = Encoder(staged, packs=packs), replicate(staged.module, "cuda:0")
    tokenized = encoder.tokenize(["a row", "another row, and a longer one"])
    features = encoder.collate(tokenized, Batch(rows=(0, 1), padded_length=max(tokenized.lengths)))
    begin(replica, features, "cuda:0").rows()  # kernels are loaded now
    try:
        torch.cuda.set_sync_debug_mode("error")
        computed = begin(replica, features, "cuda:0")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(computed.rows()).all()


def test_simulated_devices_pack_where_they_are_told_to(embed, all_vectors):
    """Packed rows on a device would not be rehearsed, or be more than was predicted of them."""
    sink = ListSink()
    result, packed = embed(sink, packing="on", accelerator="simulated:2xT4", dtype="float32")
    _, padded = embed(accelerator="simulated:2xT4", dtype="float32")
    for one, other in zip(vectors_of(packed, all_vectors), vectors_of(padded, all_vectors), strict=True):
        assert not np.array_equal(one, other), "nothing was packed"
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert all(model.padding_share == 0 for model in result.models)
    compared = [event for event in sink.events if isinstance(event, PeakCompared)]
    assert compared and all(event.measured_bytes <= event.predicted_bytes * 1.1 for event in compared)


def test_the_cpu_pads_where_it_is_told_to(embed):
    """The setting would change nothing there."""
    result, _ = embed(packing="off", accelerator="cpu")
    assert all(model.padding_share > 0 for model in result.models)


def test_a_model_that_cannot_be_packed_says_so(embed, tmp_path):
    """Who asked for packed rows would take padded ones for them."""
    from support.tiny_models import make_mpnet

    sink = ListSink()
    embed(sink, packing="on", models=(str(make_mpnet(tmp_path / "mpnet")),), catalogue=None)
    assert [e.message for e in sink.events if isinstance(e, Notice)] == [
        "its network cannot take packed rows, so its rows are padded"
    ]


def mapped_bytes(file: Path) -> int:
    """What this process has in memory of a file that it maps."""
    parts = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text())
    return sum(map(int, parts)) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's account of a process's memory")
def test_mapped_weights_come_into_memory(tmp_path):
    """The devices would wait for the disk at the hand-over."""
    size = 64 << 20
    save_file({"weight": torch.zeros(size // 4)}, tmp_path / "weights.safetensors")
    weight = load_file(tmp_path / "weights.safetensors")["weight"]
    before = mapped_bytes(tmp_path / "weights.safetensors")
    read_pages([weight], threading.Event())
    assert mapped_bytes(tmp_path / "weights.safetensors") - before > 0.9 * size


def test_reading_ahead_ends_with_the_pass():
    """A thread that goes on would hold weights that nobody wants any more, and keep the process from ending."""

    def readers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "soloist-weights"}

    others, stopped = readers(), threading.Event()
    stopped.set()
    read_pages([torch.zeros(4)], stopped)
    with prefetched_weights([torch.nn.Linear(1 << 10, 1 << 10)]):
        pass
    assert readers() <= others


def test_the_models_to_bring_are_those_of_the_next_pass():
    """Weights of a model that works already would be read, or of one that comes later than the next."""

    def ahead(present, *passes):
        return RunPlan(passes=passes, limits={}, predictors={}, budgets={}).following(present)

    a, b, c = (Pass(models=(name,)) for name in "abc")
    assert ahead(a, a, b, c) == ("b",)
    assert ahead(c, a, b, c) == ()
    assert ahead(a, a, Pass(models=("a", "d"))) == ("d",)


def test_each_pass_is_given_the_encoders_that_the_next_one_adds():
    """The names would be right, and no weights be read ahead."""
    plan = RunPlan(passes=tuple(Pass(models=(name,)) for name in "abc"), limits={}, predictors={}, budgets={})
    encoders = {name: object() for name in "abc"}
    contexts = pass_contexts(plan, encoders, accelerator=None, run_shards=None, stop=None)
    assert [context.models for context in contexts] == [("a",), ("b",), ("c",)]
    assert [context.next_encoders for context in contexts] == [[encoders["b"]], [encoders["c"]], []]
