"""What run.json says of chunks that changed: how many rows were kept, taken over, repeated, embedded and are gone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.editing import assert_same_files, write_chunks

from soloist.config import RunConfig
from soloist.engine import run
from soloist.errors import RunStoppedError
from soloist.events import ShardEncoded
from soloist.stores import RunFolder
from soloist.stores.manifest import file_sha256
from soloist.stores.verification import verify_run

Files = dict[str, list[tuple[str, str]]]
# Three shards of 8 and one of 4, and one shard of 6.
ALPHA, BETA = 28, 6


@pytest.fixture
def files() -> Files:
    """Two collections, `alpha` in two files, of texts that are all different."""
    return {
        "alpha/a": [(f"a{n}", f"chunk {n} of the first file") for n in range(16)],
        "alpha/b": [(f"b{n}", f"chunk {n} of the second file") for n in range(12)],
        "beta/c": [(f"c{n}", f"a text of the other collection, {n}") for n in range(BETA)],
    }


@pytest.fixture
def embed(tmp_path: Path, catalogue: Path) -> Callable[..., dict[str, Any]]:
    """Run these files into one folder, hold it against a run into a new one, and give the figures of run.json."""
    fresh = iter(range(100))

    def embed_files(files: Files, **changes: Any) -> dict[str, Any]:
        def into(out: Path, **changes: Any) -> dict[str, Any]:
            options = {"models": ("static",), "shard_chunks": 8, **changes}
            result = run(
                RunConfig(
                    chunks_root=write_chunks(tmp_path / "chunks", files), out=out, accelerator="cpu",
                    catalogue=catalogue, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache", **options,
                )
            )  # fmt: skip
            return result.to_dict()

        out, other = tmp_path / "run", tmp_path / f"fresh-{next(fresh)}"
        summary = into(out, **changes)
        changes.pop("reuse", None)
        for model, fresh_model in zip(summary["models"], into(other, **changes)["models"], strict=True):
            for name in ("tokens", "truncated_rows", "truncated_tokens"):
                assert model[name] == fresh_model[name]
        assert_same_files(out, other)
        assert verify_run(RunFolder.open(out)).problems == ()
        if summary["models"][0]["kept"] < summary["models"][0]["chunks"]:
            assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(summary))
        return _figures(summary)

    return embed_files


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    """Of the first model: embedded, kept, reused, repeated; and what is gone from each collection, if anything."""
    model = summary["models"][0]
    figures = {name: model[name] for name in ("embedded", "kept", "reused", "repeated")}
    assert sum(figures.values()) == model["chunks"] == sum(each["chunks"] for each in summary["collections"])
    assert sum(model["rows_per_device"].values()) == model["embedded"]
    return figures | {each["name"]: each["removed"] for each in summary["collections"] if each["removed"]}


def test_a_first_run_embeds_all(embed, files):
    """Figures of nothing before must not be those of something."""
    assert embed(files) == {"embedded": ALPHA + BETA, "kept": 0, "reused": 0, "repeated": 0}


def test_the_same_chunks_again_cost_nothing(embed, files, tmp_path):
    """A lease that nobody needs would wait for other runs; files written again would be copied again by a backup."""
    embed(files)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    summary = (tmp_path / "run" / "run.json").read_bytes()
    assert embed(files) == {"embedded": 0, "kept": ALPHA + BETA, "reused": 0, "repeated": 0}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")} == times
    assert (tmp_path / "run" / "run.json").read_bytes() == summary  # it still says how the vectors were made


def test_one_changed_text_is_embedded_alone(embed, files):
    """The rest of its shard comes from the vectors that were there, the other shards stay."""
    embed(files)
    files["alpha/a"][5] = ("a5", "another text")
    assert embed(files) == {"embedded": 1, "kept": ALPHA + BETA - 8, "reused": 7, "repeated": 0}


def test_changed_metadata_embed_nothing(embed, files, tmp_path):
    """A new title is no new text: its chunk file is replaced, its vectors are the same file."""
    embed(files)
    vectors = tmp_path / "run" / "alpha" / "vectors" / "static" / "part-00000.parquet"
    was = vectors.stat().st_ino
    path = tmp_path / "chunks" / "alpha" / "a_chunks.json"
    run_config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    path.write_text(path.read_text().replace('{"chunk_id": "a5"', '{"title": "new", "chunk_id": "a5"'))
    result = run(RunConfig.from_dict(run_config))
    assert (result.models[0].embedded, result.models[0].kept) == (0, ALPHA + BETA)
    assert RunFolder.open(tmp_path / "run").shards.read_chunks("alpha", 0)[5].metadata == {
        "title": "new",
        "chunk_id": "a5",
    }
    assert vectors.stat().st_ino == was


def test_a_new_id_is_no_new_text(embed, files):
    """Ids are often made of line numbers, which an inserted line changes."""
    embed(files)
    files["alpha/b"][11] = ("new id", files["alpha/b"][11][1])
    assert embed(files) == {"embedded": 0, "kept": ALPHA + BETA - 4, "reused": 4, "repeated": 0, "alpha": 1}


def test_a_chunk_that_moves_to_another_file_is_not_embedded(embed, files):
    """All shards from there to there change, and no text does."""
    embed(files)
    files["alpha/b"].append(files["alpha/a"].pop(12))
    assert embed(files) == {"embedded": 0, "kept": 8 + BETA, "reused": ALPHA - 8, "repeated": 0}


def test_a_chunk_that_moves_to_another_collection_is_gone_from_the_first(embed, files):
    """Its id is counted as gone where it was, its vector is taken along."""
    embed(files)
    files["beta/c"].append(files["alpha/b"].pop())
    assert embed(files) == {"embedded": 0, "kept": 24, "reused": 3 + BETA + 1, "repeated": 0, "alpha": 1}


def test_a_file_that_is_renamed_costs_nothing(embed, files):
    """The order of the files decides the shards: this one stays where it is."""
    embed(files)
    files["alpha/b2"] = files.pop("alpha/b")
    assert embed(files) == {"embedded": 0, "kept": ALPHA + BETA, "reused": 0, "repeated": 0}


def test_a_removed_chunk_is_counted_and_gone(embed, files, tmp_path):
    """A vector without a chunk would be found by a search for ever."""
    embed(files)
    del files["alpha/b"][11]
    assert embed(files) == {"embedded": 0, "kept": ALPHA + BETA - 4, "reused": 3, "repeated": 0, "alpha": 1}
    folder = RunFolder.open(tmp_path / "run")
    assert [folder.shards.read_vectors("alpha", "static", shard)[0][-1] for shard in folder.shards.indices("alpha")][
        -1
    ] == "b10"


def test_a_shard_that_is_no_more_is_gone_in_every_folder(embed, files, tmp_path):
    """A file of a shard that no chunk is in any more would be taken for part of the run."""
    embed(files)
    del files["alpha/b"][8:]
    assert embed(files) == {"embedded": 0, "kept": 24 + BETA, "reused": 0, "repeated": 0, "alpha": 4}
    assert not list((tmp_path / "run" / "alpha").rglob("part-00003.parquet"))


def test_a_new_collection_is_embedded_alone(embed, files):
    """More of the same folder must not cost what is there."""
    embed(files)
    files["gamma/d"] = [("d0", "a text that no other collection has")]
    assert embed(files) == {"embedded": 1, "kept": ALPHA + BETA, "reused": 0, "repeated": 0}


def test_a_collection_that_is_deleted_is_gone(embed, files, tmp_path):
    """Also from run.json, which says how many chunks went with it."""
    embed(files)
    del files["beta/c"]
    assert embed(files) == {"embedded": 0, "kept": ALPHA, "reused": 0, "repeated": 0, "beta": BETA}
    assert not (tmp_path / "run" / "beta").exists()
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    assert summary["collections"][-1] == {
        "name": "beta",
        "files": 0,
        "chunks": 0,
        "skipped": 0,
        "removed": BETA,
        "without_vector": {},
    }


def test_repeated_texts_are_embedded_once(embed, files):
    """Within a shard, in another shard, and in another collection."""
    text = files["alpha/a"][0][1]
    for name, row in (("alpha/a", 3), ("alpha/b", 5), ("beta/c", 2)):
        files[name][row] = (files[name][row][0], text)
    assert embed(files) == {"embedded": ALPHA + BETA - 3, "kept": 0, "reused": 0, "repeated": 3}


def test_a_text_whose_first_place_changes_is_still_there_in_the_others(embed, files):
    """The vector of a repeated text came from a shard that is no more what it was."""
    text = files["alpha/a"][0][1]
    files["beta/c"][2] = ("c2", text)
    embed(files)
    files["alpha/a"][0] = ("a0", "a new text")
    files["alpha/b"][11] = ("b11", text)
    # The shard of b11 has three texts of its own from before, and one that beta, which is kept, has too.
    assert embed(files) == {"embedded": 1, "kept": 16 + BETA, "reused": 7 + 3, "repeated": 1}


def test_another_size_of_shards_embeds_nothing(embed, files):
    """--shard-chunks is about memory, and no property of a vector."""
    embed(files)
    assert embed(files, shard_chunks=5) == {"embedded": 0, "kept": 0, "reused": ALPHA + BETA, "repeated": 0}


def test_one_more_model_leaves_the_others_alone(embed, files):
    """The first model's vectors are kept, whatever comes beside them."""
    embed(files)
    assert embed(files, models=("static", "bert")) == {"embedded": 0, "kept": ALPHA + BETA, "reused": 0, "repeated": 0}


def from_others(out: Path) -> int:
    """How many vectors of the first model were taken from other runs."""
    return json.loads((out / "run.json").read_text())["models"][0]["from_others"]


def test_the_vectors_of_another_run_are_taken_over(embed, files, tmp_path):
    """--reuse: a new folder from an old one, with what the old one lacks."""
    embed(files)
    (tmp_path / "run").rename(tmp_path / "old")
    files["alpha/a"][5] = ("a5", "another text")
    taken = embed(files, reuse=(tmp_path / "old",))
    assert taken == {"embedded": 1, "kept": 0, "reused": ALPHA + BETA - 1, "repeated": 0}
    assert from_others(tmp_path / "run") == ALPHA + BETA - 1
    files["alpha/a"][6] = ("a6", "one more text")
    assert embed(files)["reused"] == 7
    assert from_others(tmp_path / "run") == 0  # those seven are of the run's own earlier state


def test_collections_may_be_named_like_the_folders_of_a_run(embed, files):
    """A sweep for files that are no more went by the names of folders, and took chunks that had just been read."""
    named = {
        "vectors/chunks": files["alpha/a"], "chunks/vectors": files["alpha/b"], "fused/fused": files["beta/c"],
    }  # fmt: skip
    embed(named)
    named["vectors/chunks"][5] = ("a5", "another text")
    assert embed(named) == {"embedded": 1, "kept": ALPHA + BETA - 8, "reused": 7, "repeated": 0}


@pytest.fixture
def cutting(tmp_path: Path, tiny_models: dict[str, Path]) -> RunConfig:
    """A run over four shards by a model that reads eight tokens, of texts of which every third is longer."""
    catalogue = tmp_path / "cutting.toml"
    catalogue.write_text(f'[models.cutting]\nsource = "{tiny_models["bert"]}"\nmax_tokens = 8\n')
    texts = [f"text {n}" if n % 3 else f"a text of many more words than those eight, {n}" for n in range(14)]
    texts[13] = texts[12]
    items = [(f"a{n}", text) for n, text in enumerate(texts)]
    return RunConfig(
        chunks_root=write_chunks(tmp_path / "chunks", {"alpha/a": items}), out=tmp_path / "run", models=("cutting",),
        accelerator="cpu", catalogue=catalogue, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        shard_chunks=4,
    )  # fmt: skip


def tally_of(result: Any) -> tuple[int, int, int]:
    """What the model read of all chunks, and what it did not."""
    (model,) = result.models
    return model.tokens, model.truncated_rows, model.truncated_tokens


def test_what_was_cut_is_counted_over_all_sessions(cutting, tmp_path):
    """run.json would name the texts that the last session cut, and be silent of those that lost as much before."""
    whole = run(dataclasses.replace(cutting, out=tmp_path / "whole"))
    assert tally_of(whole)[1] == 6  # a0, a3, a6, a9, a12, and a13, whose vector is that of a12
    second = Stopping(shards=2)
    with pytest.raises(RunStoppedError):
        run(cutting, second)
    resumed = run(cutting)
    assert (resumed.models[0].embedded, resumed.models[0].kept) == (5, 8)
    assert tally_of(resumed) == tally_of(whole)
    assert 0 <= resumed.models[0].padding_share < 1  # of what was embedded now, and not of all
    again = run(dataclasses.replace(cutting, out=tmp_path / "other", reuse=(cutting.out,)))
    assert (again.models[0].embedded, tally_of(again)) == (0, tally_of(whole))
    assert_same_files(cutting.out, tmp_path / "whole")
    assert_same_files(tmp_path / "other", tmp_path / "whole")


class Stopping:
    """A sink that sends SIGTERM to this process after some shards."""

    def __init__(self, shards: int) -> None:
        self._left = shards

    def emit(self, event: Any) -> None:
        self._left -= isinstance(event, ShardEncoded)
        if not self._left:
            self._left = -1
            os.kill(os.getpid(), signal.SIGTERM)


def written_by_an_earlier_version(folder: Path) -> None:
    """Take the counts of tokens out of a run's vectors and its manifest, as versions before them wrote both."""
    manifest = RunFolder(folder).manifest
    records = []
    for record in manifest.read().values():
        path = folder / record.file
        if record.kind == "vectors":
            table = pq.read_table(path).drop_columns(["tokens", "truncated_tokens"])
            pq.write_table(table, path, compression="none", use_dictionary=False)
            record = dataclasses.replace(
                record, tokens=None, truncated_rows=None, truncated_tokens=None, bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )  # fmt: skip
        records.append(record)
    manifest.replace(records)


def test_a_run_of_an_earlier_version_is_kept_and_its_vectors_taken(cutting, tmp_path):
    """Its shards would be computed again, or count as texts of no tokens without a word."""
    fresh = tally_of(run(cutting))
    whole = dataclasses.replace(cutting, out=tmp_path / "whole")
    run(whole)
    written_by_an_earlier_version(cutting.out)
    kept = run(cutting)
    assert (kept.models[0].kept, tally_of(kept)) == (14, (0, 0, 0))
    assert kept.notices[-1:] == (
        "cutting: 4 of its shards were written by an earlier version: the counts lack their tokens",
    )
    taken = run(dataclasses.replace(cutting, out=tmp_path / "other", reuse=(cutting.out,)))
    assert (taken.models[0].embedded, tally_of(taken)) == (0, fresh)
    assert_same_files(tmp_path / "other", whole.out)
