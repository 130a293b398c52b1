"""Collections and configs that the engine's tests share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.collections import catalogue_below, chunks_below, config_of

from soloist.config import FusionConfig, RunConfig
from soloist.engine import RunResult, run
from soloist.stores import RunFolder


@pytest.fixture
def chunks_root(tmp_path) -> Path:
    """Two collections, `alpha` of 70 chunks and `beta` of 25."""
    return chunks_below(tmp_path)


@pytest.fixture
def long_texts(tmp_path, chunks_root) -> None:
    """The same collections with texts so long that a batch of them is much for a device of 2 MB."""
    shutil.rmtree(chunks_root)
    chunks_below(tmp_path, longest=120)


@pytest.fixture
def catalogue(tmp_path, tiny_models) -> Path:
    """A user catalogue with the tiny models under their own names."""
    return catalogue_below(tmp_path, tiny_models)


@pytest.fixture
def config(tmp_path, chunks_root, catalogue) -> RunConfig:
    """A decoder and an encoder in exclusive mode on two roomy simulated devices, in several shards."""
    return config_of(tmp_path, chunks_root, catalogue)


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
        parts = [folder.shards.read_vectors(collection, model, shard) for shard in folder.shards.indices(collection)]
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
    """Another process that holds 2 MB of each device of 4 MB, which no plan can know of."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "locks"), "4000000", "2000000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    yield
    process.communicate()
