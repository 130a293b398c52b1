"""Collections and configs that the engine's tests share."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from soloist.config import FusionConfig, RunConfig
from soloist.engine import RunResult, run
from soloist.stores import RunFolder

WORDS = [
    "lease", "chunk", "vector", "shard", "device", "memory", "batch", "token", "replica", "model", "pass", "fusion",
    "weight", "norm", "query", "index",
]  # fmt: skip


def write_collection(root: Path, name: str, chunks: int, *, longest: int = 120, seed: int = 0) -> Path:
    """A collection of reproducible texts of 1 to `longest` words, in one chunk file."""
    generator = np.random.default_rng(seed)
    items = [
        {
            "text": " ".join(generator.choice(WORDS, size=generator.integers(1, longest + 1))),
            "metadata": {"chunk_id": f"{name}-{index:04d}"},
        }
        for index in range(chunks)
    ]
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "doc_chunks.json").write_text(json.dumps(items))
    return folder


@pytest.fixture
def chunks_root(tmp_path) -> Path:
    """Two collections, `alpha` of 70 chunks and `beta` of 25."""
    return _chunks_below(tmp_path)


@pytest.fixture
def long_texts(tmp_path, chunks_root) -> None:
    """The same collections with texts so long that a batch of them is much for a device of 2 MB."""
    shutil.rmtree(chunks_root)
    _chunks_below(tmp_path, longest=120)


@pytest.fixture
def catalogue(tmp_path, tiny_models) -> Path:
    """A user catalogue with the tiny models under their own names."""
    return _catalogue_below(tmp_path, tiny_models)


@pytest.fixture
def config(tmp_path, chunks_root, catalogue) -> RunConfig:
    """A decoder and an encoder in exclusive mode on two roomy simulated devices, in several shards."""
    return _config(tmp_path, chunks_root, catalogue)


def config_below(root: Path, tiny_models: dict[str, Path]) -> RunConfig:
    """The same below any folder, e.g. for a run that many tests read."""
    return _config(root, _chunks_below(root), _catalogue_below(root, tiny_models))


def _chunks_below(root: Path, longest: int = 50) -> Path:
    write_collection(root / "chunks", "alpha", 70, longest=longest, seed=1)
    write_collection(root / "chunks", "beta", 25, longest=longest, seed=2)
    return root / "chunks"


def _catalogue_below(root: Path, tiny_models: dict[str, Path]) -> Path:
    path = root / "catalogue.toml"
    path.write_text("".join(f'[models."{name}"]\nsource = "{folder}"\n' for name, folder in tiny_models.items()))
    return path


def _config(root: Path, chunks_root: Path, catalogue: Path) -> RunConfig:
    return RunConfig(
        chunks_root=chunks_root,
        out=root / "run",
        models=("qwen2", "xlm-roberta"),
        accelerator="simulated:2x1GB",
        catalogue=catalogue,
        shard_chunks=32,
        lock_dir=root / "locks",
    )


@pytest.fixture
def embed(config, tmp_path) -> Callable[..., tuple[RunResult, RunFolder]]:
    """Run the config with changes, each time into a new folder."""
    runs = iter(range(1000))

    def embed_with(*sinks, fusion: FusionConfig | None = None, **changes):
        changed = dataclasses.replace(
            config, out=tmp_path / f"run-{next(runs)}", fusion=fusion or config.fusion, **changes
        )
        return run(changed, *sinks), RunFolder.open(changed.out)

    return embed_with


@pytest.fixture
def all_vectors() -> Callable[[RunFolder, str, str], tuple[list[str], np.ndarray]]:
    """A reader of one model's vectors of a collection, over all shards."""

    def read(folder: RunFolder, collection: str, model: str) -> tuple[list[str], np.ndarray]:
        parts = [folder.read_vectors(collection, model, shard) for shard in folder.shards(collection)]
        return [id for ids, _ in parts for id in ids], np.concatenate([vectors for _, vectors in parts])

    return read


OTHER_PROCESS = textwrap.dedent("""
    import sys
    from pathlib import Path
    import support.torchless
    from soloist.devices.simulated_driver import DriverMemory
    for index in range(2):
        assert DriverMemory(f"simulated-{index}", int(sys.argv[2]), Path(sys.argv[1])).take(int(sys.argv[3]))
    print("taken", flush=True)
    sys.stdin.read()
""")


@pytest.fixture
def crowded(tmp_path):
    """Another process that holds 0.4 MB of each device of 2 MB, which no plan can know of."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "locks"), "2000000", "400000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    yield
    process.communicate()
