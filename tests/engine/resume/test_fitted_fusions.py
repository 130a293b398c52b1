"""Fusions that are fitted to a run: the same files as a fresh run's, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support.collections import write_collection

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.errors import FusionError, RunStoppedError
from soloist.events import ListSink, ShardEncoded, ShardFused
from soloist.stores import RunFolder
from soloist.stores.layout import FIT
from soloist.stores.verification import verify_run

METHODS = ("projection", "aligned-mean")


@pytest.fixture
def config(tmp_path, tiny_models):
    """Two models over a collection of three shards."""
    write_collection(tmp_path / "chunks", "alpha", 60, seed=3)
    lines = [f'[models."{name}"]\nsource = "{folder}"\n' for name, folder in tiny_models.items()]
    (tmp_path / "models.toml").write_text("".join(lines))
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=("bert", "wordllama"), accelerator="cpu",
        catalogue=tmp_path / "models.toml", shard_chunks=25, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        fusion=FusionConfig(method="projection", dim=16),
    )  # fmt: skip


def content(path):
    """The files of a run but those that say when it was."""
    files = [file for file in path.rglob("*") if file.is_file() and file.suffix in (".parquet", ".safetensors")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def fresh(config, **changes):
    """The files of a run of this config into a new folder."""
    out = config.out.with_name("fresh")
    shutil.rmtree(out, ignore_errors=True)
    run(dataclasses.replace(config, out=out, **changes))
    return content(out)


def edit(config):
    """Change a chunk."""
    file = config.chunks_root / "alpha" / "doc_chunks.json"
    chunks = json.loads(file.read_text())
    chunks[7]["text"] = "a text that was not there before"
    file.write_text(json.dumps(chunks))


class StopAfter:
    """Asks for the end of the run after so many fused shards."""

    def __init__(self, shards):
        self.left = shards

    def emit(self, event):
        if isinstance(event, ShardFused):
            self.left -= 1
            if not self.left:
                raise RunStoppedError("stopped by a test")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_with_a_fitted_fusion_is_whole(config, method):
    """Vectors of no norm, or a fit that nobody kept."""
    config = dataclasses.replace(config, fusion=FusionConfig(method=method))
    result = run(config)
    found = verify_run(RunFolder.open(config.out))
    assert not found.problems
    assert (config.out / FIT).is_file()
    vectors = RunFolder.open(config.out).shards.read_fused("alpha", 0)[1]
    assert vectors.shape[1] == result.fusion.dim
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_stopped_while_it_fuses_it_goes_on(config, method):
    """Half of the vectors would be of one fit and half of another."""
    config = dataclasses.replace(config, fusion=FusionConfig(method=method))
    with pytest.raises(RunStoppedError):
        run(config, StopAfter(1))
    sink = ListSink()
    run(config, sink)
    assert not any(isinstance(event, ShardEncoded) for event in sink.events)
    assert content(config.out) == fresh(config)


def test_a_changed_chunk_changes_the_fit(config):
    """The run would depend on its past: a fresh one had other vectors."""
    run(config)
    before = content(config.out)
    edit(config)
    sink = ListSink()
    run(config, sink)
    after = content(config.out)
    assert after[FIT] != before[FIT]
    assert after == fresh(config)
    assert sum(isinstance(event, ShardFused) for event in sink.events) == 3
    assert not verify_run(RunFolder.open(config.out)).problems


def test_nothing_to_do_is_nothing_done(config):
    """Every run would fit and fuse anew, and write all files again."""
    run(config)
    before = {path: (config.out / path).stat().st_mtime_ns for path in content(config.out)}
    sink = ListSink()
    run(config, sink)
    assert not any(isinstance(event, (ShardEncoded, ShardFused)) for event in sink.events)
    fused = {path: (config.out / path).stat().st_mtime_ns for path in before if "fused" in path or path == FIT}
    assert fused == {path: time for path, time in before.items() if path in fused}


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_lost_fit_is_found_and_made_again(config, damage):
    """Questions could not be fused any more, and nobody would know before they asked."""
    run(config)
    before = content(config.out)
    if damage == "missing":
        (config.out / FIT).unlink()
    else:
        (config.out / FIT).write_bytes(before[FIT][:-1] + bytes([before[FIT][-1] ^ 1]))
    problems = verify_run(RunFolder.open(config.out)).problems
    assert any(FIT in problem for problem in problems)
    run(config)
    assert content(config.out) == before


def test_another_fusion_takes_its_fit_away(config):
    """A file of matrices that belong to nothing would stay in the folder."""
    run(config)
    run(dataclasses.replace(config, fusion=FusionConfig(method="concat")))
    assert not (config.out / FIT).exists()
    assert not verify_run(RunFolder.open(config.out)).problems


def test_too_few_chunks_are_told_before_anything_is_embedded(config):
    """Hours of encoding would come before the sentence."""
    sink = ListSink()
    with pytest.raises(FusionError, match="a projection to 256 dims cannot be fitted to 60 chunks"):
        run(dataclasses.replace(config, fusion=FusionConfig(method="projection", dim=256)), sink)
    assert not any(isinstance(event, ShardEncoded) for event in sink.events)
