"""What a worker plans once more: the same as the process that drives the run, whatever its own machine has measured."""

from __future__ import annotations

import json

from soloist.config import RunConfig
from soloist.devices import open_accelerator
from soloist.engine.drivers.cluster.facts import difference, facts_of
from soloist.engine.drivers.restaging import Decided, decided_of, planned_again, staged_again
from soloist.events import ListSink
from soloist.sizing.batch_limits import plan_memory
from soloist.sizing.budgets import Budget
from soloist.sizing.measurements import Measurement, MeasurementCache, device_key
from soloist.staging import encoders_of, select_models, stage_all
from soloist.stopping import Stop


def test_a_node_plans_with_the_peaks_that_the_command_s_machine_has_measured(tmp_path, tiny_models):
    """Catches a second run on a cluster that refuses all nodes: only the command's machine keeps what was measured."""
    model = str(tiny_models["bert"])
    config = RunConfig(
        chunks_root=tmp_path, out=tmp_path / "run", models=(model,), accelerator="simulated:1xT4", dtype="float32",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    accelerator = open_accelerator(config.accelerator, tmp_path / "locks")
    staged = stage_all(select_models(config), config, accelerator, ListSink())
    encoders = encoders_of(staged, config, accelerator, ListSink())
    (name,) = encoders
    budgets, cache = (
        {name: Budget(tokens=1 << 30, source="given", device=device_key(accelerator))},
        MeasurementCache(config.cache_dir),
    )
    plain = plan_memory(config, encoders, budgets, accelerator, cache, ListSink())
    measured = Measurement(predicted_bytes=1 << 30, measured_bytes=2 << 30, resident_bytes=1 << 20)
    cache.record(staged[name].fingerprint, staged[name].dtype, device_key(accelerator), measured)
    plan = plan_memory(config, encoders, budgets, accelerator, cache, ListSink())
    own = facts_of(encoders, plan, accelerator)
    assert own.limits != facts_of(encoders, plain, accelerator).limits, "else this test shows nothing"

    there = RunConfig.from_dict({**config.to_dict(), "cache_dir": str(tmp_path / "cache of the node")})
    decided = Decided.from_dict(json.loads(json.dumps(decided_of(encoders, plan).to_dict())))
    again = planned_again(there, decided, staged_again(there, decided, accelerator, Stop()), accelerator)
    assert difference(facts_of(*again, accelerator), own) is None
