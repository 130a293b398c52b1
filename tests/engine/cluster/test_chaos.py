"""A run on three nodes whose workers, nodes and drivers are killed at random, and that is gone on with each time.

SOLOIST_CHAOS_KILLS is how many are killed, and SOLOIST_CHAOS_SEED draws which and when. Where the first is given, each
process is started with all its imports; else it is a fork.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.collections import write_collection
from support.forks import STARTED, Forked
from support.node_processes import none_left, workers_of
from support.same_files import require_same_files

from soloist.config import RunConfig
from soloist.engine import run
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

KILLS = int(os.environ.get("SOLOIST_CHAOS_KILLS", "3"))
IS_STARTED = "SOLOIST_CHAOS_KILLS" in os.environ
KINDS = ("worker", "node", "driver")
SEED = int(os.environ.get("SOLOIST_CHAOS_SEED", "0")) or random.randrange(1, 1_000_000)
NODES = ("node-1", "node-2", "node-3")
SHARDS = max(40, 5 * KILLS)  # of each model
MOST_BETWEEN = max(1, min(6, 60 // KILLS))  # shards between two kills, so that there is time for all of them
DEADLINE_SECONDS = 120 + 60 * KILLS


class Killed:
    """A run that is killed and started again. Knows what was computed from the workers' own log."""

    def __init__(self, config: RunConfig, nodes) -> None:
        self.config = config
        self.nodes = nodes
        self.kills: Counter[str] = Counter()
        self._dice = random.Random(SEED)
        self._kinds = [kind for _ in range(KILLS) for kind in self._dice.sample(KINDS, len(KINDS))][:KILLS]
        self._away = ""
        self._starter = ThreadPoolExecutor(1)
        self._starting: Future[None] = self._starter.submit(lambda: None)
        self._log = config.out.with_suffix(".computed")

    def computed(self) -> list[str]:
        """A line for each shard that a worker has computed: its model, collection and number."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def to_its_end(self) -> None:
        """Start the command until it ends by itself."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            assert time.monotonic() < deadline, f"seed {SEED}: {self.kills}, {len(self.computed())} computed"
            with self._started() as driver:
                try:
                    self._kill_some(driver, deadline)
                    code = driver.wait(max(1, deadline - time.monotonic()))
                finally:
                    driver.kill()
                errors = driver.stderr.read().decode()
            assert code in (0, 3, -signal.SIGKILL), f"seed {SEED}: {errors}"
            if code == 0:
                self._starting.result()
                assert self.kills == Counter(self._kinds), f"seed {SEED}: the run ended before all were killed"
                return

    def _started(self) -> subprocess.Popen | Forked:
        config = self.config
        command = [
            sys.executable, "-m", "support.cluster_driver", "embed", config.chunks_root, "--out", config.out,
            "--models", ",".join(config.models), "--catalogue", config.catalogue, "--accelerator", "cpu", "--dtype",
            "float32", "--matmul", "torch", "--shard-chunks", config.shard_chunks, "--cluster", self.nodes.address,
            "--lock-dir", config.lock_dir, "--cache-dir", config.cache_dir,
        ]  # fmt: skip
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        begin = subprocess.Popen if IS_STARTED else Forked
        return begin(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **({STARTED: "1"} if IS_STARTED else {})},
        )  # fmt: skip

    def _kill_some(self, driver: subprocess.Popen | Forked, deadline: float) -> None:
        """Kill something after each few shards, until the driver is killed or enough was killed."""
        while driver.poll() is None and self.kills.total() < KILLS and time.monotonic() < deadline:
            enough = len(self.computed()) + self._dice.randrange(1, 2 + MOST_BETWEEN)
            while driver.poll() is None and len(self.computed()) < enough and time.monotonic() < deadline:
                time.sleep(0.02)
            if driver.poll() is not None:
                return
            what = self._kinds[self.kills.total()]
            if what == "driver":
                driver.kill()
            elif what == "node":
                self._starting.result()  # at most one node is away
                self._away = self._dice.choice(NODES)
                self.nodes.kill(self._away)
                self._starting = self._starter.submit(self.nodes.start, self._away)
            else:
                there = [name for name in NODES if self._starting.done() or name != self._away]
                workers = workers_of(self.nodes, self._dice.choice(there))
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                if not workers:
                    continue
            self.kills[what] += 1


@pytest.fixture
def killed(nodes, root, tmp_path, tiny_models) -> Killed:
    write_collection(tmp_path / "chunks", "gamma", SHARDS * 4, longest=30, seed=5)
    return Killed(
        RunConfig(
            chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=(str(tiny_models["bert"]), str(root / "m3")),
            catalogue=root / "catalogue.toml", accelerator="cpu", dtype="float32", matmul="torch", shard_chunks=4,
            lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        ),
        nodes,
    )  # fmt: skip


def test_kills_at_random(killed, nodes, tmp_path):
    """Catches a shard that is lost, doubled or mixed up by a kill, and a process that lives on."""
    killed.to_its_end()
    here = dataclasses.replace(killed.config, out=tmp_path / "local")
    run(here)
    require_same_files(killed.config.out, here.out)
    assert verify_run(RunFolder(killed.config.out)).problems == ()
    computed = Counter(killed.computed())
    assert len(computed) == 2 * SHARDS
    assert max(computed.values()) <= 1 + killed.kills.total(), f"seed {SEED}"
    extra = computed.total() - 2 * SHARDS
    assert extra <= 2 * (killed.kills["worker"] + killed.kills["node"] + 3 * killed.kills["driver"]), f"seed {SEED}"
    assert not (killed.config.out / ".attempts").exists()
    assert none_left(nodes, NODES)
