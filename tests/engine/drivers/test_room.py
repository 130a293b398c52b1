"""A pass on devices of which another program holds a part."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from support.foreign_memory import let_go, taken

from soloist.devices import open_accelerator
from soloist.engine import run
from soloist.engine.drivers.room import Room
from soloist.errors import ModelTooLargeError
from soloist.events import BatchSplit, LeaseReleased, ListSink, Notice

TOTAL = 4_000_000


@pytest.fixture
def one_model(config):
    """The encoder on two devices of 4 MB. The weights take 0.2 MB."""
    return dataclasses.replace(config, models=("xlm-roberta",), accelerator=f"simulated:2x{TOTAL / 1e6:g}MB")


def notices(sink: ListSink) -> list[str]:
    """What the run says about the memory of the model's devices."""
    return [
        event.message
        for event in sink.events
        if isinstance(event, Notice) and event.about == "xlm-roberta" and "GB free" in event.message
    ]


def test_weights_that_do_not_fit_beside_another_program_are_an_error(one_model):
    """`CUDA out of memory` blames the model for what a forgotten notebook holds."""
    with (
        taken(one_model.lock_dir, 1, TOTAL - 100_000),
        pytest.raises(
            ModelTooLargeError,
            match=r"^xlm-roberta needs 0\.00 GB for weights, but sim:1 has 0\.00 of 0\.00 GB free, because other "
            r"programs hold the rest: end those programs \(nvidia-smi lists them\), choose another device, or a "
            r"smaller --dtype$",
        ),
    ):
        run(one_model, sink := ListSink())
    assert [event.held for event in sink.events if isinstance(event, LeaseReleased)] == [()]


def test_memory_that_comes_back_late_is_waited_for(one_model):
    """A driver frees the memory of a killed process a second after its locks: the next run would be refused."""
    with taken(one_model.lock_dir, 0, TOTAL - 100_000):
        late = threading.Timer(0.5, let_go, (one_model.lock_dir, 0))
        late.start()
        result = run(one_model)
        late.join()
    assert result.models[0].chunks == 95


def test_batches_that_do_not_fit_beside_another_program_are_told_once(one_model, long_texts, crowded):
    """A pass that splits batch after batch is slow, and does not say why."""
    run(one_model, sink := ListSink())
    assert any(isinstance(event, BatchSplit) for event in sink.events)
    (message,) = notices(sink)
    assert message.startswith(
        "sim:0 has 0.00 of 0.00 GB free, because other programs hold the rest. The model's largest batch"
    )
    assert message.endswith(
        "so batches that do not fit are split, which takes longer: end those programs (nvidia-smi lists them), or give "
        "a smaller --token-budget"
    )


def test_another_program_that_leaves_room_enough_is_not_told(one_model):
    """If every run on a machine with a screen has a notice, nobody reads the notice."""
    with taken(one_model.lock_dir, 0, 100_000):
        run(dataclasses.replace(one_model, token_budget=256), sink := ListSink())
    assert not notices(sink)


def test_a_little_that_is_missing_is_not_laid_to_other_programs(tmp_path):
    """What a context takes is an assumption: the notice would send people after programs that are not there."""
    accelerator = open_accelerator(f"simulated:1x{TOTAL / 1e6:g}MB", tmp_path)
    with taken(tmp_path, 0, 20_000):
        room = Room(accelerator, {"xlm-roberta": 200_000}, sink := ListSink())
        room.look()
        room.see("xlm-roberta", TOTAL - 10_000)
        (message,) = notices(sink)
        assert message.startswith("sim:0 has 0.00 of 0.00 GB free. The model's largest batch so far")
        assert message.endswith("which takes longer: give a smaller --token-budget")
        with pytest.raises(ModelTooLargeError, match=r"GB free: choose another device, or a smaller --dtype$"):
            Room(accelerator, {"xlm-roberta": TOTAL - 10_000}, sink).look()
