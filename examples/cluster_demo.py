"""Embed the chunks of the demo on two node processes of this machine, and show which node embedded what.

Nothing is downloaded, see `demo.py`. Run it with `make cluster-demo`, or `python -m examples.cluster_demo [FOLDER]`;
FOLDER is new or empty, by default a temporary one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import soloist
from examples import demo
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run
from soloist.wording import count_text

CLUSTER = "local:2"
SHARD_CHUNKS = 100  # small shards, so that both nodes have several


def main() -> int:
    """Chunk, embed on two nodes, say who did what, verify."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="soloist-cluster-demo-"))
    demo.write_chunks(folder / "chunks")
    config = soloist.RunConfig(
        chunks_root=folder / "chunks",
        out=folder / "run",
        models=tuple(demo.WEIGHTS),
        cluster=CLUSTER,
        shard_chunks=SHARD_CHUNKS,
    )
    soloist.embed(config, progress=True)
    for (model, node), (shards, chunks) in sorted(shares(folder / "run").items()):
        print(f"{node} embedded {count_text(chunks, 'chunk')} in {count_text(shards, 'shard')} with {model}")
    found = verify_run(RunFolder.at(folder / "run"))
    print(f"verified: {count_text(found.files, 'file')}, {count_text(len(found.problems), 'problem')}")
    print(f"The chunks and the run stay in {folder}: remove it when you have seen enough.")
    return 1 if found.problems else 0


def shares(run: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """By model and node, how many shards and chunks were embedded, from the run's events."""
    shards: Counter[tuple[str, str]] = Counter()
    chunks: Counter[tuple[str, str]] = Counter()
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] != "ShardEncoded":
            continue
        for device, rows in event["rows_per_device"].items():
            key = event["model"], device.partition("/")[0]
            shards[key] += 1
            chunks[key] += rows
    return {key: (shards[key], chunks[key]) for key in shards}


if __name__ == "__main__":
    sys.exit(main())
