"""Runs that store their vectors in float16, and runs that go from one vector dtype to the other: no vector is mixed in
that is not, to the bit, what a fresh run would have written.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import Commands, Death
from support.editing import assert_same_files, random_text, write_chunks

from soloist.config import RunConfig
from soloist.engine import RunResult, run
from soloist.events import Event, ShardEncoded
from soloist.fusion import Member, fuse, plan_fusion
from soloist.stores import RunFolder
from soloist.stores.tables import table_matrix
from soloist.stores.verification import verify_run
from soloist.types import VectorDType

MODELS = ("bert", "static")
CHUNKS, DISTINCT, SHARDS = 21, 20, 3
ROUNDED = "{}: its float32 vectors are rounded to float16, and not computed again"
COMPUTED = "{}: its float16 vectors cannot serve as float32: texts that have only a float16 vector are computed again"


@pytest.fixture(scope="module")
def items() -> list[tuple[str, str]]:
    """21 chunks of 20 texts."""
    generator = random.Random(3)
    found = [(str(n), random_text(generator, longest=60)) for n in range(CHUNKS - 1)]
    return [*found, ("twice", found[3][1])]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, catalogue: Path, items) -> dict[VectorDType, RunConfig]:
    """A fresh run of each vector dtype, of two models and their fusion, in three shards."""
    root = tmp_path_factory.mktemp("runs")
    config = RunConfig(
        chunks_root=write_chunks(root / "chunks", {"alpha/a": items}),
        out=root / "float32",
        models=MODELS,
        accelerator="cpu",
        catalogue=catalogue,
        shard_chunks=8,
        lock_dir=root / "locks",
        cache_dir=root / "cache",
    )
    found: dict[VectorDType, RunConfig] = {
        "float32": config,
        "float16": dataclasses.replace(config, out=root / "float16", vector_dtype="float16"),
    }
    for each in found.values():
        assert embedded(run(each)) == [DISTINCT, DISTINCT]
    return found


def embedded(result: RunResult) -> list[int]:
    """How many chunks went through each model now."""
    return [model.embedded for model in result.models]


def copied(config: RunConfig, out: Path, **changes: Any) -> RunConfig:
    """A config whose folder is a copy of a finished run's."""
    shutil.copytree(config.out, out)
    return dataclasses.replace(config, out=out, **changes)


def stored(folder: Path, *inside: str) -> Iterator[pa.Table]:
    """The tables of a run's files, shard by shard."""
    for shard in range(SHARDS):
        yield pq.read_table(folder.joinpath("alpha", *inside, f"part-{shard:05d}.parquet"))


def require_fresh(config: RunConfig, fresh: RunConfig) -> None:
    """Hold a run against a fresh one of the same vector dtype: every byte, what run.json says, and `verify`."""
    assert config.vector_dtype == fresh.vector_dtype
    assert_same_files(config.out, fresh.out)
    assert json.loads((config.out / "run.json").read_text())["vector_dtype"] == fresh.vector_dtype
    assert verify_run(RunFolder.open(config.out)).problems == ()


class StoppedError(Exception):
    """What ends a run in these tests."""


class StopAfter:
    """A sink that ends the run after so many shards of a model."""

    def __init__(self, shards: int) -> None:
        self._left = shards

    def emit(self, event: Event) -> None:
        """Count."""
        if isinstance(event, ShardEncoded):
            self._left -= 1
            if not self._left:
                raise StoppedError


def stop(config: RunConfig, shards: int) -> None:
    """Begin a run, and end it after so many shards."""
    with pytest.raises(StoppedError):
        run(config, StopAfter(shards))


def test_a_float16_run_is_the_float32_run_rounded(runs):
    """The vectors of the two would be of two computations, or the setting change no byte."""
    for model in MODELS:
        for full, half in zip(*(stored(each.out, "vectors", model) for each in runs.values()), strict=True):
            assert half.schema.field("vector").type.value_type == pa.float16()
            assert table_matrix(half).tobytes() == table_matrix(full).astype(np.float16).astype(np.float32).tobytes()
            assert half.drop_columns(["vector"]).equals(full.drop_columns(["vector"]))
    declared = {name: json.loads((each.out / "run.json").read_text()) for name, each in runs.items()}
    assert {name: summary["vector_dtype"] for name, summary in declared.items()} == {name: name for name in runs}
    fingerprints = [[model["fingerprint"] for model in summary["models"]] for summary in declared.values()]
    assert fingerprints[0] == fingerprints[1]
    for config in runs.values():
        assert verify_run(RunFolder.open(config.out)).problems == ()


def test_fused_vectors_of_a_float16_run_are_of_what_is_on_disk(runs):
    """Made from what was computed, they could never be made again from the files."""
    config = runs["float16"]
    members = [list(map(table_matrix, stored(config.out, "vectors", model))) for model in MODELS]
    plan = plan_fusion(
        config.fusion,
        [
            Member(name=name, dim=shards[0].shape[1], matryoshka_dims=())
            for name, shards in zip(MODELS, members, strict=True)
        ],
    )
    assert plan is not None
    for table, *vectors in zip(stored(config.out, "fused"), *members, strict=True):
        assert table.schema.field("vector").type.value_type == pa.float16()
        expected = fuse(plan, vectors).astype(np.float16).astype(np.float32)
        assert table_matrix(table).tobytes() == expected.tobytes()


def test_float32_becomes_float16_without_a_model(runs, tmp_path):
    """A finished run would cost its whole time again, or have other bits than a fresh one."""
    config = copied(runs["float32"], tmp_path / "run", vector_dtype="float16")
    result = run(config)
    assert embedded(result) == [0, 0]
    assert [model.reused for model in result.models] == [CHUNKS, CHUNKS]
    assert result.notices == tuple(ROUNDED.format(model) for model in MODELS)
    require_fresh(config, runs["float16"])


def test_float16_becomes_float32_by_computing(runs, tmp_path):
    """Rounded vectors would stand in a run that says float32."""
    config = copied(runs["float16"], tmp_path / "run", vector_dtype="float32")
    result = run(config)
    assert embedded(result) == [DISTINCT, DISTINCT]
    assert result.notices == tuple(COMPUTED.format(model) for model in MODELS)
    require_fresh(config, runs["float32"])


@pytest.mark.parametrize(
    ("source", "target", "fresh_texts"),
    [("float32", "float16", 0), ("float16", "float16", 0), ("float16", "float32", DISTINCT)],
)
def test_another_run_serves_where_no_bit_is_lost(runs, tmp_path, source, target, fresh_texts):
    """--reuse of a float16 run would put rounded vectors into a float32 run."""
    config = dataclasses.replace(runs[target], out=tmp_path / "run", reuse=(runs[source].out,))
    result = run(config)
    assert embedded(result) == [fresh_texts, fresh_texts]
    message = "{}: its vectors in {} are not reused: they were rounded to float16"
    expected = [message.format(model, runs[source].out) for model in MODELS] if fresh_texts else []
    assert list(result.notices) == expected
    require_fresh(config, runs[target])


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_float16_run_goes_on_where_it_was_stopped(runs, tmp_path, shards):
    """What was finished would be computed again, or be rounded twice."""
    config = dataclasses.replace(runs["float16"], out=tmp_path / "run")
    stop(config, shards)
    result = run(config)
    assert sum(model.kept for model in result.models) == [0, 8, 16, 21, 29][shards]
    assert result.notices == ()
    require_fresh(config, runs["float16"])


@pytest.mark.parametrize(("first", "then"), [("float32", "float16"), ("float16", "float32")])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_run_that_was_stopped_goes_on_in_the_other_dtype(runs, tmp_path, first, then, shards):
    """Half of a run in one dtype and half in the other, which is neither."""
    begun = dataclasses.replace(runs[first], out=tmp_path / "run")
    stop(begun, shards)
    config = dataclasses.replace(begun, vector_dtype=then)
    result = run(config)
    there = {1: [8, 0], 4: [DISTINCT, 8]}[shards] if then == "float16" else [0, 0]
    assert embedded(result) == [DISTINCT - rows for rows in there]
    require_fresh(config, runs[then])


@pytest.mark.parametrize("shards", [1, 3, 5])
def test_a_switch_that_was_stopped_can_be_taken_back(runs, tmp_path, shards):
    """The float32 vectors are there until the switch is done: nothing of them may be computed or rounded."""
    config = copied(runs["float32"], tmp_path / "run")
    stop(dataclasses.replace(config, vector_dtype="float16"), shards)
    config = dataclasses.replace(config, vector_dtype="float32")
    assert embedded(run(config)) == [0, 0]
    require_fresh(config, runs["float32"])


@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
def test_edits_together_with_a_switch(runs, tmp_path, items, vector_dtype):
    """Vectors of moved texts are taken from files that were set aside, which have no row that tells their dtype."""
    other = "float16" if vector_dtype == "float32" else "float32"
    edited = [("new", "a text that was not there"), *items[5:], *items[:4]]
    chunks = write_chunks(tmp_path / "chunks", {"alpha/a": edited})
    config = copied(runs[other], tmp_path / "run", vector_dtype=vector_dtype)
    config = dataclasses.replace(config, chunks_root=chunks)
    fresh = dataclasses.replace(config, out=tmp_path / "fresh")
    result, whole = run(config), run(fresh)
    assert embedded(result) == ([1, 1] if vector_dtype == "float16" else embedded(whole))
    expected = ROUNDED if vector_dtype == "float16" else COMPUTED
    assert result.notices == tuple(expected.format(model) for model in MODELS)
    require_fresh(config, fresh)


def test_edits_of_a_float16_run_embed_what_is_new(runs, tmp_path, items):
    """A float16 vector would be of no use to its own run."""
    chunks = write_chunks(tmp_path / "chunks", {"alpha/a": [*items[7:], ("new", "a text that was not there")]})
    config = dataclasses.replace(copied(runs["float16"], tmp_path / "run"), chunks_root=chunks)
    fresh = dataclasses.replace(config, out=tmp_path / "fresh")
    assert embedded(run(config)) == [1, 1]
    run(fresh)
    require_fresh(config, fresh)


def test_a_pass_in_a_process_of_its_own_stores_the_same(runs, tmp_path):
    """The worker is told the config by another way, and would write float32."""
    config = dataclasses.replace(runs["float16"], out=tmp_path / "run", isolation="process", mode="standard")
    assert embedded(run(config)) == [DISTINCT, DISTINCT]
    require_fresh(config, runs["float16"])


def test_a_run_of_an_earlier_version_is_one_of_float32(runs, tmp_path):
    """Every run that there is would be computed again."""
    config = copied(runs["float32"], tmp_path / "run")
    path = config.out / "run.json"
    summary = json.loads(path.read_text())
    del summary["vector_dtype"], summary["config"]["vector_dtype"]
    path.write_text(json.dumps(summary))
    assert verify_run(RunFolder.open(config.out)).problems == ()
    result = run(config)
    assert [model.kept for model in result.models] == [CHUNKS, CHUNKS]
    assert result.notices == ()
    assert json.loads(path.read_text()) == summary  # nothing was done, so it says what was done before
    assert_same_files(config.out, runs["float32"].out)


@pytest.mark.parametrize(("first", "then"), [("float32", "float16"), ("float16", "float32")])
def test_a_switch_that_is_killed_anywhere_ends_in_the_files_of_a_fresh_run(
    commands: Commands, runs, tmp_path, first, then
):
    """A folder that is neither the one nor the other, and that the next run takes for either."""
    config = copied(runs[first], tmp_path / "run")
    arguments = [
        "embed", str(config.chunks_root), "--out", str(config.out), "--models", ",".join(MODELS),
        "--accelerator", "cpu", "--catalogue", str(config.catalogue), "--shard-chunks", "8",
        "--lock-dir", str(config.lock_dir), "--cache-dir", str(config.cache_dir), "--vector-dtype", then,
    ]  # fmt: skip
    counts, killed = [3, 12, 17, 22, 27, 32, 37, 30, 25, 20, 15], 0
    for count in counts:
        ended = commands.run(*arguments, death=Death(folder=config.out, count=count, pattern="alpha|previous|manifest"))
        assert ended.code in (0, -9), ended.stderr
        killed += ended.code == -9
    assert killed >= 5
    ended = commands.run(*arguments)
    assert ended.code == 0, ended.stderr
    require_fresh(dataclasses.replace(config, vector_dtype=then), runs[then])
