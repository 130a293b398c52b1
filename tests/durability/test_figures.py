"""What run.json says of chunks that changed: how many rows were kept, taken over, repeated, embedded and are gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.editing import assert_same_files, write_chunks

from soloist.config import RunConfig
from soloist.engine import run
from soloist.stores import RunFolder
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
        into(other, **changes)
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
    assert RunFolder.open(tmp_path / "run").read_chunks("alpha", 0)[5].metadata == {"title": "new", "chunk_id": "a5"}
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
    assert [folder.read_vectors("alpha", "static", shard)[0][-1] for shard in folder.shards("alpha")][-1] == "b10"


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
    assert summary["collections"][-1] == {"name": "beta", "files": 0, "chunks": 0, "skipped": 0, "removed": BETA}


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
