"""A model and the weights of its tokens in one run: one pass gives both, and each has files of its own."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.collections import write_collection
from support.tiny_sparse import make_m3

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.events import BatchEncoded, LeaseAcquired, LeaseReleased, ListSink, PeakCompared, ShardEncoded
from soloist.models.spec import ModelSpec
from soloist.planning.estimate import estimate_run
from soloist.retrieval.opened import open_run
from soloist.staging import companions
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

BOTH = ("m3", "m3:sparse")
ON_DEVICES = {"accelerator": "simulated:2xT4", "dtype": "float16", "matmul": "auto"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has token weights, and chunks of which two have one text."""
    root = tmp_path_factory.mktemp("same-pass")
    make_m3(root / "m3", num_hidden_layers=1)
    folder = write_collection(root / "chunks", "alpha", 40, longest=12, seed=3)
    texts = json.loads((folder / "doc_chunks.json").read_text())
    texts[39]["text"] = texts[0]["text"]
    (folder / "doc_chunks.json").write_text(json.dumps(texts))
    return root


def config_in(folder: Path, root: Path, models: tuple[str, ...] = BOTH, **changes: object) -> RunConfig:
    """The run below `folder`."""
    return RunConfig(**{
        "chunks_root": root / "chunks", "out": folder / "run", "models": tuple(str(root / name) for name in models),
        "accelerator": "cpu", "dtype": "float32", "matmul": "torch", "shard_chunks": 32, "fusion": "none",
        "lock_dir": folder / "locks", "cache_dir": folder / "cache", **changes,
    })  # fmt: skip


def files_of(out: Path, model: str) -> dict[str, bytes]:
    """The files of a member's vectors."""
    folder = RunFolder(out)
    names = [folder.shards.vectors_file("alpha", model, number) for number in range(2)]
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def made(root: Path) -> tuple[RunConfig, list[object]]:
    """A finished run of both, and its events. Leave it as it is."""
    sink, config = ListSink(), config_in(root, root)
    run(config, sink)
    return config, sink.events


def test_one_pass_gives_both(root: Path, made: tuple[RunConfig, list[object]], tmp_path: Path) -> None:
    """Catches a network that computes every text twice, and vectors that a second member changes."""
    config, events = made
    assert len([event for event in events if isinstance(event, LeaseAcquired)]) == 1
    assert sum(event.rows for event in events if isinstance(event, BatchEncoded)) == 39
    encoded = Counter((event.model, event.shard) for event in events if isinstance(event, ShardEncoded))
    assert encoded == Counter({(model, shard): 1 for model in BOTH for shard in range(2)})
    assert verify_run(RunFolder(config.out)).problems == ()
    for model in BOTH:
        alone = config_in(tmp_path / model, root, (model,))
        run(alone)
        assert files_of(config.out, model) == files_of(alone.out, model), model
    members = json.loads((config.out / "run.json").read_text())["models"]
    assert [(m["name"], m.get("kind", "dense"), m["embedded"], m["repeated"]) for m in members] == [
        ("m3", "dense", 39, 1), ("m3:sparse", "sparse", 39, 1),
    ]  # fmt: skip


def test_questions_go_the_same_way(root: Path, made: tuple[RunConfig, list[object]]) -> None:
    """Catches a question whose weights are not those of a document with its text."""
    texts = json.loads((root / "chunks" / "alpha" / "doc_chunks.json").read_text())
    rows = RunFolder(made[0].out).sparse.read("alpha", "m3:sparse", 0)[1]
    question = dict(zip(*(part.tolist() for part in rows.row(7)), strict=True))
    scores = [sum(question.get(key, 0) * value for key, value in zip(*row, strict=True)) for row in rows]
    hits = open_run(made[0].out).search(texts[7]["text"], 40, by="m3:sparse")
    found = {hit.id: hit.score for hit in hits}
    assert found["alpha-0007"] > 0
    for number, score in enumerate(scores):
        assert found.get(f"alpha-{number:04d}", 0) == pytest.approx(score, rel=1e-4), number


@pytest.mark.parametrize("lost", BOTH)
def test_what_one_of_them_lacks_is_computed_and_the_other_stays(
    root: Path, made: tuple[RunConfig, list[object]], tmp_path: Path, lost: str
) -> None:
    """A run that is killed between the two files of a shard would do both again, or leave one out."""
    shutil.copytree(made[0].out, tmp_path / "run")
    before = {model: files_of(made[0].out, model) for model in BOTH}
    gone = tmp_path / "run" / list(before[lost])[1]
    gone.unlink()
    sink = ListSink()
    run(config_in(tmp_path, root), sink)
    encoded = [(event.model, event.shard) for event in sink.events if isinstance(event, ShardEncoded)]
    assert encoded == [(lost, 1)]
    assert {model: files_of(tmp_path / "run", model) for model in BOTH} == before


def test_a_member_that_is_added_is_all_that_is_computed(
    root: Path, made: tuple[RunConfig, list[object]], tmp_path: Path
) -> None:
    """Catches dense vectors that are written again for a second member, and rows of one that the other has not."""
    dense = config_in(tmp_path, root, ("m3",))
    run(dense)
    kept = {name: (dense.out / name).stat().st_mtime_ns for name in files_of(dense.out, "m3")}
    result = run(config_in(tmp_path, root, tuple(reversed(BOTH)), sparse_top=5))
    assert [(m.name, m.embedded, m.kept) for m in result.models] == [("m3:sparse", 39, 0), ("m3", 0, 40)]
    assert {name: (dense.out / name).stat().st_mtime_ns for name in kept} == kept
    rows = RunFolder(dense.out).sparse.read("alpha", "m3:sparse", 0)[1]
    assert rows.lengths.max() == 5
    items = json.loads((root / "chunks" / "alpha" / "doc_chunks.json").read_text())
    items[3]["text"] = "another text about a lease"
    chunks = tmp_path / "chunks" / "alpha"
    chunks.mkdir(parents=True)
    (chunks / "doc_chunks.json").write_text(json.dumps(items))
    other = config_in(tmp_path / "other", root, chunks_root=tmp_path / "chunks", reuse=(dense.out,))
    result = run(other)  # of all texts but one the dense vectors are there, and no row of all weights
    assert [(m.name, m.embedded, m.from_others) for m in result.models] == [("m3", 1, 39), ("m3:sparse", 39, 0)]
    again = config_in(tmp_path / "again", root, chunks_root=tmp_path / "chunks")
    run(again)
    for model in BOTH:
        assert files_of(other.out, model) == files_of(again.out, model), model


def test_on_devices_the_weights_lie_there_once_and_the_peak_is_predicted(root: Path, tmp_path: Path) -> None:
    """Catches a network that is on a device twice, and a plan without the numbers for each word."""
    sink = ListSink()
    config = config_in(tmp_path, root, **ON_DEVICES)
    run(config, sink)
    assert len([event for event in sink.events if isinstance(event, LeaseAcquired)]) == 1
    (compared,) = (event for event in sink.events if isinstance(event, PeakCompared))
    assert compared.models == BOTH
    assert compared.measured_bytes == pytest.approx(compared.predicted_bytes, rel=0.02)
    (released,) = (event for event in sink.events if isinstance(event, LeaseReleased))
    assert {stats.allocated_bytes for stats in released.memory.values()} == {0}
    assert verify_run(RunFolder(config.out)).problems == ()


def test_a_plan_has_the_memory_of_the_one_pass(root: Path, tmp_path: Path) -> None:
    """A plan of each alone leaves out the other one's numbers: half of the peak of bge-m3 on a T4."""
    planned = {
        models: [model.peak_bytes for model in estimate_run(config_in(tmp_path, root, models, **ON_DEVICES)).models]
        for models in (BOTH, BOTH[:1], BOTH[1:])
    }
    both, beside = planned[BOTH]
    assert both == beside >= planned[BOTH[1:]][0]
    assert both > planned[BOTH[:1]][0]


def test_members_that_read_texts_differently_have_passes_of_their_own() -> None:
    """Weights of texts that were cut to 8 tokens, whose fingerprint says 512."""
    dense, sparse = ModelSpec(name="m3", source="org/m3"), ModelSpec(
        name="m3:sparse", source="org/m3", kind="sparse", head="sparse", sparse_top=5
    )  # fmt: skip
    assert companions({"m3": dense, "m3:sparse": sparse}) == {"m3:sparse": "m3"}
    for changed in ({"max_tokens": 8}, {"document_prompt": "d: "}, {"revision": "abc"}):
        assert companions({"m3": replace(dense, **changed), "m3:sparse": sparse}) == {}


@pytest.mark.process
def test_in_a_process_of_its_own_the_files_are_the_same(
    root: Path, made: tuple[RunConfig, list[object]], tmp_path: Path
) -> None:
    """Catches a worker that loads each of the two, or gives only one of them."""
    config = config_in(tmp_path, root, isolation="process")
    run(config)
    for model in BOTH:
        assert files_of(config.out, model) == files_of(made[0].out, model)
