"""How far the coordinator of a cluster goes, and what is lost between more and more nodes.

The coordinator is the real one: it reads texts, looks for repeats, hands out shards, takes their records in and appends
to the manifest. The workers are simulated: they compute and write nothing. Two measurements:

- `memory`: up to 25,000 shards of 4,096 chunks (100,000,000 chunks) at 64 workers that answer at once. All texts
  differ, which takes the most memory. Each shard is one real file of chunks with other texts. Shows the coordinator's
  seconds a shard, and its memory, as shards go by.
- `efficiency`: 2, 4 and 8 node processes on this machine, where a shard is a sleep of known length. Efficiency is the
  sleep of all shards, divided by the nodes and by the time of the pass.

Prints tables, and as its last line one JSON object.

    python -m benchmarks.cluster_scale [--quick] [--shards 25000] [--nodes 2,4,8] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from benchmarks.machine import ROOT, commit, cores, hardware, versions
from benchmarks.options import filled
from benchmarks.simulated_worker import FINGERPRINT, MODEL, WORK, answers
from soloist.cluster.address import ClusterAddress
from soloist.cluster.nodes import Node
from soloist.cluster.session import ClusterSession, NodeWorker
from soloist.engine.drivers.cluster.links import Heard, Link
from soloist.engine.drivers.cluster.pass_events import PassEvents
from soloist.engine.drivers.cluster.pass_over_nodes import PassOverNodes
from soloist.engine.drivers.cluster.patience import Patience
from soloist.engine.drivers.cluster.shard_queue import ShardQueue
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.preparing import Work
from soloist.engine.drivers.row_stores import DenseStore
from soloist.engine.resume.known_texts import Placement
from soloist.engine.resume.pending import RunShards
from soloist.engine.resume.vector_reuse import known_vectors
from soloist.events import Event, ShardEncoded
from soloist.ingestion.ingest import ShardRef
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.attempts import attempts_of_a_session
from soloist.stores.manifest import FileRecord
from soloist.stores.shard_files import ShardFiles
from soloist.types import Chunk, Shard

COLLECTION = "texts"
CHARACTERS = 1000  # in a text
PATIENCE = Patience(least_seconds=600.0)
MARKS = 25  # rows of the table of memory


class OneFileShards(ShardFiles):
    """Every shard is the same file, with the shard's number before each text."""

    def read_shard(self, collection: str, index: int) -> Shard:
        """Read the file, as for any shard."""
        shard = super().read_shard(collection, 0)
        return dataclasses.replace(shard, texts=tuple(f"{index} {text}" for text in shard.texts))


class OneFileFolder(RunFolder):
    """A run folder with as many shards as one wants."""

    @property
    def shards(self) -> ShardFiles:
        """See `OneFileShards`."""
        return OneFileShards(self.path)


class StoreWithoutFiles(DenseStore):
    """The rows of a model that nobody writes. What is known of each text, and the manifest, are as in any run."""

    def __init__(self, run_shards: RunShards) -> None:
        self._run_shards = run_shards
        self._known = known_vectors(run_shards.folder, (), MODEL, FINGERPRINT, "float32", lambda: None)

    def take_in(self, source: RunFolder, placement: Placement, record: FileRecord, digests: Sequence[bytes]) -> None:
        """Record a file that there is not."""
        self.moved(placement, record, np.zeros(record.rows, dtype=np.uint32))


class InProcessWorker:
    """A worker that answers at once, in the place of one on a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._nudged = threading.Event()

    def exchange(self, messages: Sequence[Mapping[str, Any]], wait_seconds: float) -> list[dict[str, Any]]:
        """See `NodeWorker`."""
        if not messages:
            self._nudged.wait(wait_seconds)
        self._nudged.clear()
        return [said for message in messages for said in answers(message, 0.0)]

    def nudge(self) -> None:
        """See `NodeWorker`."""
        self._nudged.set()

    def kill(self) -> None:
        """Nothing is there."""


class Workers:
    """The workers of the pass, as `PassOverNodes` wants them. All of them can begin at once."""

    def __init__(self, workers: Sequence[NodeWorker | InProcessWorker]) -> None:
        self._inbox: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.links = [Link(cast(NodeWorker, worker), self._inbox) for worker in workers]
        for link in self.links:
            link.facts = cast(Any, argparse.Namespace(devices=("cpu",)))

    def look_for_nodes(self) -> None:
        """There are no others."""

    def hear(self, seconds: float) -> list[tuple[Link, Mapping[str, Any]]]:
        """What they have said."""
        try:
            heard = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return []
        if heard.gone:
            raise SystemExit(f"a worker has ended: {heard.gone}")
        said: list[tuple[Link, Mapping[str, Any]]] = [(heard.link, message) for message in heard.messages]
        return [*said, (heard.link, {"word": "heard", "taken": heard.taken})]

    def forget(self, link: Link, why: str = "", *, end: str | None = None) -> None:
        """No worker ends before the pass does."""
        raise SystemExit(f"the worker on {link.node.name} has ended: {end or why}")

    def lease_timeout_seconds(self) -> float | None:
        """There is nothing to wait for."""
        return None

    def close(self) -> None:
        """End the workers."""
        for link in self.links:
            link.close()
            link.worker.kill()


class Marks:
    """A sink that looks at the time and the memory of this process as shards go by."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._process = psutil.Process()
        self.shards = 0
        self.began = time.perf_counter()
        self.processor = time.process_time()
        self.rows: list[dict[str, float]] = []

    def emit(self, event: Event) -> None:
        """Count a shard."""
        if not isinstance(event, ShardEncoded):
            return
        self.shards += 1
        if self.shards % self._every == 0:
            self.rows.append({
                "shards": self.shards, "seconds": time.perf_counter() - self.began,
                "processor_seconds": time.process_time() - self.processor,
                "rss_bytes": self._process.memory_info().rss,
            })  # fmt: skip


def run_pass(workers: Workers, folder: Path, shards: int, rows: int, sink: Marks) -> float:
    """One pass over so many shards; its seconds."""
    run = OneFileFolder(folder / "run")
    drawn = random.Random(0)
    texts = ["".join(drawn.choices("abcdefghij klmnopqrst ", k=CHARACTERS)) for _ in range(rows)]
    RunFolder.create(run.path).shards.write_chunks(
        COLLECTION, 0, [Chunk(id=str(number), text=text) for number, text in enumerate(texts)]
    )
    refs = [ShardRef(collection=COLLECTION, index=index, rows=rows, content="0" * 32) for index in range(shards)]
    run_shards = RunShards(folder=run, refs=refs, vector_dtype="float32")
    context = PassContext(
        encoders={MODEL: cast(Any, None)}, plan=cast(Any, None), accelerator=cast(Any, None), run_shards=run_shards,
        stop=Stop(),
    )  # fmt: skip
    work_left = (Work(models=(MODEL,), shard=ref) for ref in refs)
    waiting = ShardQueue(work_left, run, {MODEL: StoreWithoutFiles(run_shards)})
    told = PassEvents((MODEL,), {MODEL: shards * rows}, sink)
    began = time.perf_counter()
    with attempts_of_a_session(run.path) as session:
        PassOverNodes("pass-1", workers, context, waiting, session, told, sink, PATIENCE).through()
    assert sink.shards == shards, f"{sink.shards} shards were told of, not {shards}"
    return time.perf_counter() - began


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """The coordinator's time a shard and its memory, as shards go by."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    nodes = [Node(id=str(number), name=f"node-{number}", host="", cpus=1, gpus=0) for number in range(options.workers)]
    workers = Workers([InProcessWorker(node) for node in nodes])
    marks = Marks(max(1, options.shards // MARKS))
    with tempfile.TemporaryDirectory(prefix="soloist-cluster-scale-") as temp:
        try:
            run_pass(workers, Path(temp), options.shards, options.shard_chunks, marks)
        finally:
            workers.close()
    print(f"{'shards':>8}{'chunks':>14}{'ms a shard':>12}{'cpu ms':>8}{'memory MB':>11}{'bytes a text':>14}")
    last = {"shards": 0.0, "seconds": 0.0, "processor_seconds": 0.0}
    for row in marks.rows:
        new = row["shards"] - last["shards"]
        row["ms_a_shard"] = 1e3 * (row["seconds"] - last["seconds"]) / new
        row["processor_ms_a_shard"] = 1e3 * (row["processor_seconds"] - last["processor_seconds"]) / new
        row["bytes_a_text"] = (row["rss_bytes"] - before) / (row["shards"] * options.shard_chunks)
        last = row
        print(
            f"{row['shards']:>8,}{row['shards'] * options.shard_chunks:>14,}{row['ms_a_shard']:>12.1f}"
            f"{row['processor_ms_a_shard']:>8.1f}{row['rss_bytes'] / 1e6:>11,.0f}{row['bytes_a_text']:>14.1f}"
        )
    return {
        "workers": options.workers,
        "shard_chunks": options.shard_chunks,
        "before_bytes": before,
        "marks": marks.rows,
    }


def efficiency(nodes: int, options: argparse.Namespace) -> dict[str, float]:
    """A pass on so many node processes, each shard of which is a sleep."""
    shards = nodes * options.shards_a_node
    with (
        tempfile.TemporaryDirectory(prefix="soloist-cluster-scale-") as temp,
        ClusterSession(ClusterAddress(kind="local", nodes=nodes), use_gpus=False) as session,
    ):
        started = [session.start_worker(node, WORK, {"seconds": options.seconds}) for node in session.nodes()]
        for worker in started:
            assert worker.exchange([], 600.0) == [{"word": "ready"}]
        workers = Workers(started)
        try:
            taken = run_pass(workers, Path(temp), shards, 64, Marks(shards))
        finally:
            workers.close()
    found = shards * options.seconds / nodes / taken
    print(f"{nodes:>8}{shards:>8}{options.seconds:>10.2f}{taken:>10.2f}{100 * found:>12.1f}%", flush=True)
    return {"nodes": nodes, "shards": shards, "shard_seconds": options.seconds, "seconds": taken, "efficiency": found}


def main() -> int:
    """Measure, print the tables and the JSON line."""
    options = _options()
    counts = [int(count) for count in options.nodes.split(",") if count]
    if counts:
        print(f"{'nodes':>8}{'shards':>8}{'s a shard':>10}{'seconds':>10}{'efficiency':>13}")
    report = {
        "benchmark": "cluster_scale",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("ray", "pyarrow", "numpy")),
        "efficiency": [efficiency(count, options) for count in counts],
        "memory": memory(options) if options.shards else None,
    }
    if options.results:
        Path(options.results).mkdir(parents=True, exist_ok=True)
        path = Path(options.results) / f"cluster-scale-{cores()}-core-cpu.json"
        before = json.loads(path.read_text()) if path.is_file() else {}  # the other measurement, made by itself
        path.write_text(
            json.dumps({**before, **{name: part for name, part in report.items() if part}}, indent=2) + "\n"
        )
    print(json.dumps(report))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 200 shards, 2 nodes, nothing saved")
    parser.add_argument("--shards", type=int, help="of the measurement of memory; 0 leaves it out")
    parser.add_argument("--shard-chunks", type=int)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--nodes", help="numbers of node processes; empty leaves the efficiency out")
    parser.add_argument("--shards-a-node", type=int)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a shard's sleep")
    parser.add_argument("--results")
    options = parser.parse_args()
    usual = {"shards": 200, "shard_chunks": 64, "nodes": "2", "shards_a_node": 3, "results": ""} if options.quick else {
        "shards": 25_000, "shard_chunks": 4096, "nodes": "2,4,8", "shards_a_node": 30,
        "results": str(ROOT / "benchmarks" / "results"),
    }  # fmt: skip
    return filled(options, usual)


if __name__ == "__main__":
    sys.exit(main())
