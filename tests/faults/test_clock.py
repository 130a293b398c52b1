"""A clock that jumps: dates in the record may be wrong, nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from support.fault_runs import On, files_of, finish

from soloist.engine import run
from soloist.errors import RunStoppedError
from soloist.events import PassStarted
from soloist.stores.status import run_status

YEAR = 365 * 86400.0
JUMPS = (1.7e9, 1.7e9 + 40 * YEAR, 0.0, 1.7e9 - 20 * YEAR, 3.2e9, 1.7e9)


def jumping():
    """Seconds since 1970 that go forth and back by decades with every look."""
    times = itertools.cycle(JUMPS)
    return lambda: next(times)


def test_a_clock_that_jumps_changes_no_file_and_no_duration(config, fresh):
    """A duration as a difference of dates would be negative, and a rate nonsense."""
    result = run(config, clock=jumping())
    assert files_of(config.out) == fresh
    assert 0 < result.seconds < 600
    assert all(0 < model.seconds < 600 for model in result.models)
    summary = json.loads((config.out / "run.json").read_text())
    assert summary["started"].startswith("2023-")
    times = [json.loads(line)["time"] for line in (config.out / "events.jsonl").read_text().splitlines()]
    assert set(times) == set(JUMPS)
    for model in run_status(config.out).models:
        assert model.chunks_per_second is not None and model.chunks_per_second > 0
        assert model.seconds_left == 0


def test_a_clock_that_jumps_neither_brings_the_end_nor_keeps_it_off(config, fresh):
    """A run with --stop-after 9h would end at once when the date is set, or never."""
    long = dataclasses.replace(config, stop_after=3600.0)
    run(long, clock=jumping())
    assert files_of(config.out) == fresh
    short = dataclasses.replace(config, out=config.out.with_name("short"), stop_after=0.5)
    import time

    with pytest.raises(RunStoppedError, match="its time is over"):
        run(short, On(lambda event: isinstance(event, PassStarted), lambda: time.sleep(0.6)), clock=lambda: 0.0)
    finish(dataclasses.replace(short, stop_after=None), fresh)
