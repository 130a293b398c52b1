"""A small run of three models over two collections, made once for each kind."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from support.collections import write_collection
from support.three_models import MODELS, WEIGHTS
from torch.nn.modules.module import register_module_forward_hook

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.models.token_table import TablePipeline
from soloist.stores import RunFolder


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_models):
    """Chunks, a catalogue in which one model has a prompt for queries, and a folder for locks."""
    root = tmp_path_factory.mktemp("retrieval")
    write_collection(root / "chunks", "alpha", 70, seed=1)
    write_collection(root / "chunks", "beta", 25, seed=2)
    lines = [f'[models."{name}"]\nsource = "{folder}"\n' for name, folder in tiny_models.items()]
    lines[-1] += 'query_prompt = "question: "\n'  # bert's
    (root / "models.toml").write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def make(base):
    """`make(name, **settings)`: the folder of a finished run."""

    def make_run(name, *, fusion=None, **settings):
        config = RunConfig(
            out=base / name, shard_chunks=32,
            accelerator="cpu", lock_dir=base / "locks", cache_dir=base / "cache",
            fusion=fusion or FusionConfig(weights=WEIGHTS),
            **{"chunks_root": base / "chunks", "catalogue": base / "models.toml", "models": MODELS, **settings},
        )  # fmt: skip
        run(config)
        return base / name

    return make_run


@pytest.fixture(scope="session")
def searched(make):
    """The run that most tests search."""
    return make("searched")


@pytest.fixture(scope="session")
def every_row():
    """`every_row(folder, name)`: collection and id of each row, and its vectors, as the run folder reads them."""

    def read(path, name, collections=("alpha", "beta")):
        folder, ids, vectors = RunFolder.open(path), [], []
        for collection in collections:
            for shard in folder.shards.indices(collection):
                found = folder.shards.read_fused(collection, shard) if name == "fused" else (
                    folder.shards.read_vectors(collection, name, shard)
                )  # fmt: skip
                ids += [(collection, each) for each in found[0]]
                vectors.append(found[1])
        return ids, np.concatenate(vectors)

    return read


@pytest.fixture
def passes_through():
    """The passes that torch ran through a model, also those with which a model is tried out once it is loaded."""
    ran = []
    hook = register_module_forward_hook(
        lambda module, _, __: ran.append(module) if isinstance(module, (SentenceTransformer, TablePipeline)) else None
    )
    yield ran
    hook.remove()
