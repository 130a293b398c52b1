"""One cluster of three node processes for all tests of a process, and the runs that they compare with."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.collections import write_catalogue, write_collection
from support.forks import run_forked
from support.tiny_sparse import make_m3

from soloist.config import RunConfig
from soloist.engine import run

pytest.importorskip("ray", reason="Ray is not installed")

from soloist.cluster.local_nodes import LocalNodes
from soloist.engine.drivers.cluster import coordinator


@pytest.fixture(scope="session")
def nodes() -> Iterator[LocalNodes]:
    """Three nodes that live. A test that ends one starts it again."""
    run_forked([sys.executable, "-c", ""])  # what the first worker would start on its node would end with the node
    with LocalNodes(3) as started:
        yield started


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """Chunks of two collections in twelve shards, with repeats within shards and across them, and a catalogue."""
    root = tmp_path_factory.mktemp("cluster")
    folder = write_collection(root / "chunks", "alpha", 80, longest=30, seed=1)
    write_collection(root / "chunks", "beta", 14, longest=30, seed=2)
    chunks = json.loads((folder / "doc_chunks.json").read_text())
    for row, source in ((3, 1), (40, 2), (41, 39), (64, 40), (79, 0)):
        chunks[row]["text"] = chunks[source]["text"]
    for row in range(24, 32):  # a shard of which nothing is computed
        chunks[row]["text"] = chunks[row - 16]["text"]
    (folder / "doc_chunks.json").write_text(json.dumps(chunks))
    make_m3(root / "m3", num_hidden_layers=1)
    write_catalogue(root / "catalogue.toml", {"bert": tiny_models["bert"]})
    return root


@pytest.fixture(scope="session")
def config(root: Path) -> RunConfig:
    """A dense model, one with sparse vectors beside its own, and words."""
    return RunConfig(
        chunks_root=root / "chunks", out=root / "local",
        models=("bert", str(root / "m3"), f"{root / 'm3'}:sparse", "bm25"),
        catalogue=root / "catalogue.toml", accelerator="cpu", dtype="float32", matmul="torch", shard_chunks=8,
        lock_dir=root / "locks", cache_dir=root / "cache", fusion="concat",
    )  # fmt: skip


@pytest.fixture(scope="session")
def local(config: RunConfig) -> RunConfig:
    """A finished run on this machine. Leave it as it is."""
    run(config)
    return config


@pytest.fixture
def on_nodes(config: RunConfig, nodes: LocalNodes, tmp_path: Path) -> Callable[..., RunConfig]:
    """The same run on the three nodes, below the folder of the test, with changes."""
    return lambda **changes: dataclasses.replace(
        config, **{"out": tmp_path / "run", "cluster": nodes.address, **changes}
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Start a planted worker on the nodes instead of the real one: in forks, or `started` with all its imports."""
    return lambda name, started=False: monkeypatch.setattr(
        coordinator, "WORK", f"support.{'planted' if started else 'warm'}_workers:{name}"
    )


@pytest.fixture(autouse=True)
def quick_starts(planted: Callable[..., None]) -> None:
    """Where a test plants nothing, the real worker in forks: its imports take six seconds on each node."""
    planted("plain")
