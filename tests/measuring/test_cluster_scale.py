"""The benchmark of a cluster's coordinator: it drives the real one, over workers that compute nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.machine import ROOT


@pytest.mark.process
def test_a_quick_run_drives_the_coordinator_through_all_shards() -> None:
    """A benchmark that does not run is found out months later, when somebody wants its figures."""
    command = [sys.executable, "-m", "benchmarks.cluster_scale", "--quick", "--nodes", ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    last = report["memory"]["marks"][-1]
    assert (last["shards"], report["memory"]["workers"], report["efficiency"]) == (200, 64, [])
    assert last["seconds"] >= last["ms_a_shard"] / 1e3 > 0
