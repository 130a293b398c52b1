"""Each fault that the checklist is there for, planted in soloist itself: the right point must fail, and only for it.

A checklist that passes whatever happens proves nothing. Planting is the one use of monkeypatch here: what is
replaced is a piece of soloist by a faulty piece, never by a stand-in that makes a check pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys

import numpy as np
import pytest
from support.collections import write_collection

from soloist import staging
from soloist.config import RunConfig
from soloist.devices.lease import DeviceLease
from soloist.encoding.replicas import Replicas
from soloist.engine.drivers import passes, running
from soloist.engine.drivers.local import run_pass
from soloist.engine.resume import checks
from soloist.events import ListSink
from soloist.validation import judge, rehearse

KEPT: list[object] = []
ENGINE = sys.modules["soloist.engine.run"]  # the package has a function of that name


@pytest.fixture
def config(tmp_path, tiny_models) -> RunConfig:
    """A decoder and an encoder on two simulated T4, with batches small enough for both devices."""
    write_collection(tmp_path / "chunks", "alpha", 36, longest=60, seed=1)
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text("".join(f'[models."{name}"]\nsource = "{path}"\n' for name, path in tiny_models.items()))
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "unused", models=("qwen2", "xlm-roberta"),
        accelerator="simulated:2xT4", catalogue=catalogue, lock_dir=tmp_path / "locks", dtype="float32",
        token_budget=512, lease_timeout_seconds=1,
    )  # fmt: skip


@pytest.fixture
def failures(config, tmp_path):
    """The points that fail in a quick rehearsal, with their evidence."""

    def rehearsed() -> dict[str, str]:
        evidence = rehearse(config, tmp_path / "rehearsal", ListSink(), quick=True)
        return {result.name: result.evidence for result in judge(evidence) if result.verdict == "fail"}

    yield rehearsed
    for each in KEPT:
        if isinstance(each, contextlib.ExitStack):
            each.close()
    KEPT.clear()


def test_without_a_fault_nothing_fails(failures):
    """A point that fails on sound code would hide the one that fails on a fault."""
    assert failures() == {}


def test_a_release_that_is_measured_too_early(failures, monkeypatch):
    """The lease ends while the replicas are still there, and believes what it measures then."""

    def early(context, lease, sink):
        replicas = running._on_devices(context, sink)

        class Swapped(contextlib.AbstractContextManager):
            """Enters the lease first, and leaves it before the replicas are gone."""

            def __enter__(self):
                lease.__enter__()

            def __exit__(self, *error):
                return None

        @contextlib.contextmanager
        def leaves_first(*_):
            with replicas as inside:
                yield inside
                lease.__exit__(None, None, None)

        with monkeypatch.context() as patched:
            patched.setattr(running, "_on_devices", leaves_first)
            run_pass(context, Swapped(), sink)

    monkeypatch.setattr(DeviceLease, "_reclaim", lambda self, error: ())
    monkeypatch.setattr(passes, "run_pass", early)
    found = failures()
    assert "the lease reports" in found["release"]


def test_the_last_model_is_left_on_the_device(failures, monkeypatch):
    """Every pass but the last gives its memory back."""
    leave = Replicas.__exit__

    def last_stays(self, *error):
        if self._staged.spec.name == "xlm-roberta":
            KEPT.append(dict(self._modules))
        leave(self, *error)

    monkeypatch.setattr(Replicas, "__exit__", last_stays)
    monkeypatch.setattr(DeviceLease, "_reclaim", lambda self, error: ())
    monkeypatch.setattr(DeviceLease, "_require_empty", lambda self: None)
    assert {"release"} <= set(failures())


def test_the_second_device_is_idle(failures, monkeypatch):
    """One device does all the work, as in the session that the plan came from."""
    encode = Replicas._run

    def first_device_only(self, job, first):
        for batch in first[1:]:
            job.batches.put(batch)
        encode(self, job, first[:1])

    monkeypatch.setattr(Replicas, "_run", first_device_only)
    found = failures()
    assert set(found) == {"devices-compute"}
    assert "sim:1 computed nothing of qwen2" in found["devices-compute"]


def test_replicas_are_kept_between_passes(failures, monkeypatch):
    """A cache of replicas makes the second pass begin beside the first one's weights."""
    make = Replicas._replica

    def cached(self, device):
        replica = make(self, device)
        KEPT.append(replica)
        return replica

    monkeypatch.setattr(Replicas, "_replica", cached)
    monkeypatch.setattr(DeviceLease, "_reclaim", lambda self, error: ())
    monkeypatch.setattr(DeviceLease, "_require_empty", lambda self: None)
    found = failures()
    assert "began on devices that held" in found["replicas"]


@pytest.mark.parametrize(("mode", "point"), [("exclusive", "batch-sizes"), ("standard", "batch-plan")])
def test_batches_that_depend_on_the_mode(mode, point, failures, monkeypatch):
    """A budget for each mode makes other batches, and on a GPU other vectors."""
    import soloist.sizing.batch_limits as memory

    plan = memory.plan_run

    def halved(model):
        return dataclasses.replace(model, budget=dataclasses.replace(model.budget, tokens=model.budget.tokens // 2))

    def by_mode(models, asked, card):
        return plan([halved(model) for model in models] if asked == mode else models, asked, card)

    monkeypatch.setattr(memory, "plan_run", by_mode)
    found = failures()
    assert point in found
    assert "release" not in found  # the runs themselves end well


def test_a_lease_that_is_not_released_on_an_error(failures, monkeypatch):
    """The release is in the happy path alone."""
    leave = DeviceLease.__exit__

    def only_when_well(self, kind, error, trace):
        if error is not None:
            KEPT.append(self._held.pop_all())
        return leave(self, kind, error, trace)

    monkeypatch.setattr(DeviceLease, "__exit__", only_when_well)
    found = failures()
    assert "the lease was not given back" in found["errors"]


def test_weights_that_are_loaded_through_the_device(failures, monkeypatch):
    """A loader that puts the model on the device and takes it back looks the same afterwards."""
    stage = staging.stage

    def through_the_device(*asked):
        model = stage(*asked)
        next(model.module.parameters()).detach().to("sim:0").cpu()
        return model

    monkeypatch.setattr(staging, "stage", through_the_device)
    found = failures()
    assert set(found) == {"staging"}
    assert "bytes on sim:0" in found["staging"]


def test_wrong_aggregation_weights_in_one_mode(failures, monkeypatch):
    """Each model's vectors are right, and what is made of them is not."""
    plan, run = ENGINE.plan_fusion, ENGINE.run
    asked = []

    def remembering(config, *sinks, **options):
        asked.append(config.mode)
        return run(config, *sinks, **options)

    def by_mode(config, members):
        wrong = {"qwen2": 0.9, "xlm-roberta": 0.1} if asked[-1] == "standard" else {}
        return plan(dataclasses.replace(config, weights=wrong), members)

    monkeypatch.setattr("soloist.validation.rehearsal.run", remembering)
    monkeypatch.setattr(ENGINE, "plan_fusion", by_mode)
    found = failures()
    assert set(found) == {"aggregation", "parity"}


def test_a_resumed_run_that_keeps_nothing(failures, monkeypatch):
    """All is computed again, the vectors are right, and only the count of the kept shards tells."""
    real = checks.reconcile_incoming
    monkeypatch.setattr(checks, "reconcile_incoming", lambda folder, is_current: real(folder, lambda record: False))
    assert failures() == {"resume": "2 shards were done, and 0 were kept"}


def test_memory_that_each_run_keeps(failures, monkeypatch):
    """A list that outlives its run, as a cache of vectors would: 80 MB more after each."""
    run = ENGINE.run

    def keeping(config, *sinks, **options):
        KEPT.append(np.ones(10_000_000))
        return run(config, *sinks, **options)

    monkeypatch.setattr("soloist.validation.rehearsal.run", keeping)
    found = failures()
    assert set(found) == {"host-memory"}
    assert "MB; 67.1 MB are allowed, which is one heap" in found["host-memory"]
