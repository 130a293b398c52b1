"""A small collection, and the options with which a fast model embeds it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.collections import write_collection

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.fusion import FusionPlan, fuse
from soloist.stores import RunFolder

TEXTS = ["A lease gives one model every device.", "Rain fell on the harbour all night.", "def add(a, b): return a + b"]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """Variables of the person who runs the tests must not decide them."""
    for name in ("SOLOIST_ACCELERATOR", "SOLOIST_CATALOGUE", "SOLOIST_LOCK_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def chunks_root(tmp_path) -> Path:
    """One collection, `notes`, of three chunks."""
    folder = tmp_path / "chunks" / "notes"
    folder.mkdir(parents=True)
    chunks = [{"text": text, "metadata": {"chunk_id": f"n{index}"}} for index, text in enumerate(TEXTS)]
    (folder / "a_chunks.json").write_text(json.dumps(chunks))
    return tmp_path / "chunks"


@pytest.fixture
def options(tmp_path, chunks_root) -> list[str]:
    """Arguments of a run with wordllama on the CPU, with locks of its own."""
    return [
        "embed", str(chunks_root), "--out", str(tmp_path / "run"), "--models", "wordllama", "--accelerator", "cpu",
        "--lock-dir", str(tmp_path / "locks"),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_models):
    """A finished run of WordLlama and a model of random vectors, with judged questions and headings."""
    root = tmp_path_factory.mktemp("commands")
    write_collection(root / "chunks", "alpha", 60, seed=4)
    file = root / "chunks" / "alpha" / "doc_chunks.json"
    chunks = json.loads(file.read_text())
    for number, chunk in enumerate(chunks):
        chunk["metadata"]["title"] = f"Part {number} of the text"
    file.write_text(json.dumps(chunks))
    (root / "models.toml").write_text(f'[models."random"]\nsource = "{tiny_models["bert"]}"\n')
    run(
        RunConfig(
            chunks_root=root / "chunks", out=root / "run", models=("wordllama", "random"), accelerator="cpu",
            catalogue=root / "models.toml", lock_dir=root / "locks", cache_dir=root / "cache", fusion=FusionConfig(),
        )
    )  # fmt: skip
    make_useless(root / "run")
    with (root / "queries.jsonl").open("w") as queries, (root / "qrels.tsv").open("w") as qrels:
        for number, chunk in enumerate(chunks[:50]):
            words = chunk["text"].split()
            queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words[::2])}) + "\n")
            qrels.write(f"q{number}\t{chunk['metadata']['chunk_id']}\t1\n")
    return root


def make_useless(path):
    """Put random vectors in the place of a model's, and fuse them: they have nothing to do with their texts."""
    folder, drawn = RunFolder(path), np.random.default_rng(0)
    summary = folder.read_json("run.json")
    records = list(folder.manifest.read().values())
    made_by = {each.kind if each.kind == "fused" else each.model: each.fingerprint for each in records}
    folder.reopen()
    for shard in folder.shards.indices("alpha"):
        ids, own = folder.shards.read_vectors("alpha", "wordllama", shard)
        digests = folder.shards.read_digests("alpha", "random", shard)
        vectors = drawn.standard_normal(folder.shards.read_vectors("alpha", "random", shard)[1].shape).astype(
            np.float32
        )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        folder.manifest.append(
            folder.shards.write_vectors("alpha", "random", shard, ids, vectors, digests, made_by["random"])
        )
        fused = fuse(FusionPlan.from_dict(summary["fusion"]), [own, vectors])
        content = next(each.content for each in records if each.kind == "fused" and each.shard == shard)
        folder.manifest.append(folder.shards.write_fused("alpha", shard, ids, fused, content, made_by["fused"]))
    folder.finish(summary)
