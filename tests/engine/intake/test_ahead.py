"""Tables of vectors that embed while the input is read: the same run, and no vector is seen before its pass."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding
from support.collections import write_catalogue
from support.editing import assert_same_files, empty_run, run_files
from support.tiny_models import make_static
from support.waiting import until

from soloist.config import RunConfig, SourceConfig
from soloist.devices import open_accelerator
from soloist.encoding.tables import TextVectors
from soloist.engine import RunResult, run
from soloist.engine.intake import ahead as ahead_module
from soloist.engine.intake.ahead import Ahead, AheadFile, free_bytes, spare_bytes
from soloist.engine.intake.model_staging import ModelStaging, StagedModels
from soloist.errors import BadChunkFileError, ModelLoadError, RunStoppedError
from soloist.events import (
    BatchEncoded,
    Event,
    InputScanned,
    ListSink,
    ModelStaged,
    Notice,
    PassStarted,
    ShardEncoded,
    TextsLeftOut,
)
from soloist.ingestion.ingest import ShardRef, ingest
from soloist.sources import discover
from soloist.staging import select_models
from soloist.stores import RunFolder
from soloist.stores.shard_files import ShardFiles
from soloist.types import Shard

_OF_TIMES = {
    "seconds", "parts", "waited_seconds", "held_seconds", "chunks_per_second", "memory", "allocated_bytes",
    "peak_bytes", "started",
}  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, Path]:
    """Two tables of token vectors, and one with a linear layer behind it."""
    folder = tmp_path_factory.mktemp("tables")
    torch.manual_seed(3)
    behind = SentenceTransformer(str(make_static(folder / "inner", 24, rows=700)), device="cpu")
    dense = SentenceTransformer(modules=[behind[0], Dense(24, 16)], device="cpu")
    dense.save(str(folder / "dense"), create_model_card=False)
    return {
        "wide": make_static(folder / "wide", 48, rows=700),
        "slim": make_static(folder / "slim", 16, rows=700),
        "dense": folder / "dense",
    }


def write(root: Path, name: str, texts: list[str]) -> Path:
    file = root / name / "a.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"id": f"{name}-{at}", "text": text}) + "\n" for at, text in enumerate(texts)))
    return file


@pytest.fixture
def config(tmp_path, tables) -> RunConfig:
    """Two tables over three collections in shards of four. Texts repeat in a shard, in a later shard and in another
    collection. One text is empty, and one has 300 words.
    """
    root = tmp_path / "chunks"
    texts = [f"stone {number} river" * (number % 3 + 1) for number in range(18)]
    write(root, "alpha", [*texts[:9], texts[2], texts[8], " ", *texts[9:], "bridge " * 300])
    write(root, "beta", [texts[0], "moss", "moss", texts[17], "fern", "fern and moss"])
    write(root, "gamma", ["a single text"])
    return RunConfig(
        chunks_root=root, out=tmp_path / "run", models=("wide", "slim"), accelerator="cpu", shard_chunks=4,
        catalogue=write_catalogue(tmp_path / "catalogue.toml", tables), lock_dir=tmp_path / "locks",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


class Waiting:
    """A sink that counts the files that wait for their pass when the first one begins."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.files = -1
        self._folder = folder

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, PassStarted) and self.files < 0:
            self.files = len(list((self._folder / ".ahead").rglob("part-*.parquet")))


def beside(config: RunConfig) -> tuple[RunResult, Waiting]:
    """A run into a new folder, whose tables may embed while the input is read."""
    sink = Waiting(config.out)
    return run(config, sink), sink


def afterwards(config: RunConfig, tmp_path: Path) -> tuple[RunResult, Waiting]:
    """The same run, computed in its passes, because `--reuse` names a run. That run has no vector."""
    reuse = (empty_run(tmp_path / "empty"),)
    return beside(dataclasses.replace(config, out=tmp_path / "afterwards", reuse=reuse))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in _OF_TIMES}
    return [without_times(item) for item in value] if isinstance(value, (list, tuple)) else value


def told(sink: Waiting) -> list[Any]:
    """The events in order, without times. Notices are left out, because `--reuse` adds one."""
    return [
        (type(event).__name__, without_times(dataclasses.asdict(event)))
        for event in sink.events
        if not isinstance(event, (Notice, BatchEncoded))
    ]


def batches(sink: Waiting) -> list[tuple[str, str, int]]:
    return sorted((event.model, event.device, event.rows) for event in sink.events if isinstance(event, BatchEncoded))


@pytest.mark.parametrize(
    ("dtype", "vector_dtype", "mode"),
    [("float32", "float32", "exclusive"), ("bfloat16", "float16", "exclusive"), ("float32", "float16", "standard")],
)
def test_a_run_is_the_same_with_and_without(config, tmp_path, dtype, vector_dtype, mode):
    """A vector would have another bit, a repeated text would count as embedded, or a record would lack its tally."""
    config = dataclasses.replace(config, dtype=dtype, vector_dtype=vector_dtype, mode=mode)
    result, sink = beside(config)
    other, without = afterwards(config, tmp_path)
    assert (sink.files, without.files) == (2 * (6 + 2 + 1), 0)
    assert_same_files(config.out, tmp_path / "afterwards")
    assert told(sink) == told(without)
    assert batches(sink) == batches(without)
    assert sum(event.repeated_rows for event in sink.events if isinstance(event, ShardEncoded)) == 2 * 5
    mine, others = (without_times(each.to_dict()) for each in (result, other))
    for name in ("models", "collections", "fusion", "weights"):
        assert mine[name] == others[name]
    assert not (config.out / ".ahead").exists()


def test_shards_with_texts_that_are_left_out_are_computed_in_the_pass(config, tmp_path):
    """Vectors of left-out rows would stand beside other texts, or a text of an earlier shard would have no vector."""
    write(
        config.chunks_root,
        "beta",
        ["stone 0 river", "\u200b", "fern", "stone", "river", "bridge", "moss", "a fern", "fern"],
    )
    config = dataclasses.replace(config, source=SourceConfig(on_bad_input="skip"))
    _, sink = beside(config)
    _, without = afterwards(config, tmp_path)
    assert [event.chunks for event in sink.events if isinstance(event, TextsLeftOut)] == [1]
    assert (sink.files, without.files) == (2 * (6 + 2 + 1), 0)
    assert told(sink) == told(without)
    assert_same_files(config.out, tmp_path / "afterwards")


def test_a_shard_waits_with_the_vectors_of_all_models_or_of_none(config, tables, tmp_path):
    """Files that no pass takes would fill the disk until the end, together with the vectors that passes write."""
    holes = SentenceTransformer(str(tables["slim"]), device="cpu")
    moss = holes.tokenizer.encode("moss", add_special_tokens=False).ids
    with torch.no_grad():
        holes[0].embedding.weight[moss] = 0
    holes.save(str(tmp_path / "holes"), create_model_card=False)
    catalogue = write_catalogue(tmp_path / "holes.toml", {"wide": tables["wide"], "holes": tmp_path / "holes"})
    config = dataclasses.replace(
        config, models=("wide", "holes"), catalogue=catalogue, source=SourceConfig(on_bad_input="skip")
    )
    _, sink = beside(config)
    assert [event.chunks for event in sink.events if isinstance(event, TextsLeftOut)] == [2]  # "moss" twice
    assert sink.files == 2 * (6 + 1 + 1)
    afterwards(config, tmp_path)
    assert_same_files(config.out, tmp_path / "afterwards")


def test_a_file_that_is_damaged_while_it_waits_is_computed_in_the_pass(config, tmp_path):
    """A run whose chunks are all fine would end in an error."""

    class Damaging(Waiting):
        def emit(self, event: Event) -> None:
            if isinstance(event, PassStarted) and self.files < 0:
                for file in (config.out / ".ahead").rglob("part-00003.parquet"):
                    file.write_bytes(file.read_bytes()[:100])
            super().emit(event)

    sink = Damaging(config.out)
    run(config, sink)
    _, without = afterwards(config, tmp_path)
    assert sink.files == 2 * (6 + 2 + 1)
    assert told(sink) == told(without)
    assert_same_files(config.out, tmp_path / "afterwards")


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ("dense",)},
        {"models": ("wide", "dense")},
        {"isolation": "process"},
        {"accelerator": "simulated:1xT4"},
        {"stop_after": 600.0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_other_runs_embed_in_their_passes_alone(config, changes):
    """A product's last bits may depend on the rows beside it, and devices have bits of their own. With a limit of time,
    each session could lose what it embedded during the reading, and the run would never come further.
    """
    _, sink = beside(dataclasses.replace(config, **changes))
    assert sink.files == 0


def test_a_network_in_the_run_is_not_staged_beside_the_reading(config, tiny_models, tmp_path):
    """The library for products is measured while a network is staged, and reading would disturb that measurement."""
    catalogue = write_catalogue(tmp_path / "both.toml", {"wide": tmp_path / "wide", "bert": tiny_models["bert"]})
    make_static(tmp_path / "wide", 16, rows=700)
    result, sink = beside(dataclasses.replace(config, models=("bert", "wide"), catalogue=catalogue))
    assert sink.files == 0
    assert [model.embedded for model in result.models] == [23, 23]


def test_a_run_that_has_vectors_computes_the_rest_in_its_pass(config):
    """Texts that have a vector would be embedded again."""
    run(config)
    write(config.chunks_root, "gamma", ["a single text", "and another one"])
    _, sink = beside(config)
    assert sink.files == 0
    assert [event.embedded_rows for event in sink.events if isinstance(event, ShardEncoded)] == [1, 1]


def test_a_fault_of_the_input_is_told_before_one_of_a_model(config, tmp_path):
    """A model's fault would hide the fault of the input, or be lost, or a broken file would cost a load of a model."""
    damaged = make_static(tmp_path / "damaged", 16, rows=700)
    (damaged / "model.safetensors").write_bytes(b"broken")
    catalogue = write_catalogue(tmp_path / "damaged.toml", {"damaged": damaged})
    config = dataclasses.replace(config, models=("damaged",), catalogue=catalogue)
    broken = config.chunks_root / "gamma" / "b.jsonl"
    broken.write_text("no JSON\n")
    sink = ListSink()
    with pytest.raises(BadChunkFileError, match=r"b\.jsonl"):
        run(config, sink)
    assert not config.out.exists()
    broken.unlink()
    with pytest.raises(ModelLoadError, match="damaged"):
        run(config, sink)
    assert not any(isinstance(event, ModelStaged) for event in sink.events)
    assert not config.out.exists()


def test_models_are_told_of_after_the_input(config):
    """A reader of the events would believe that the input is read before it is."""
    _, sink = beside(config)
    kinds = [type(event) for event in sink.events]
    assert max(at for at, kind in enumerate(kinds) if kind is InputScanned) < kinds.index(ModelStaged)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("soloist-ahead", "soloist-ahead-files")]


def test_a_stop_while_the_input_is_read_leaves_nothing(config):
    """A thread would go on in a removed folder, or leave some of its files behind."""

    def stop(event: object) -> None:
        if isinstance(event, InputScanned) and event.collection == "beta":
            assert threads()
            raise RunStoppedError("stopped by a caller")

    with pytest.raises(RunStoppedError, match="stopped by a caller"):
        run(config, stop)
    assert not threads()
    assert not config.out.exists()


def test_a_stop_in_a_pass_leaves_what_is_done_and_the_rest_is_computed(config, tmp_path):
    """Vectors that wait for their pass would stay for ever, or count as finished in the next session."""
    left = 5

    def stop(event: object) -> None:
        nonlocal left
        left -= isinstance(event, ShardEncoded)
        if not left:
            left = -1
            raise RunStoppedError("stopped by a caller")

    with pytest.raises(RunStoppedError):
        run(config, stop)
    assert sum("/vectors/" in name for name in run_files(config.out)) == 5
    assert not (config.out / ".ahead").exists()
    run(config)
    afterwards(config, tmp_path)
    assert_same_files(config.out, tmp_path / "afterwards")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a file that was just opened
def test_a_thread_that_is_ended_from_outside_costs_nothing(config, tmp_path):
    """The reading would wait for the thread for ever, or the thread's last shard would count as done.

    It waits for a first file: while a thread starts another one, Python gives such an exception to the new one, and
    the start never ends.
    """

    def end(event: object) -> None:
        if isinstance(event, InputScanned):
            until(lambda: any((config.out / ".ahead").rglob("*.parquet")), "a file of vectors is written")
            for thread in threads():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

    run(config, end)
    afterwards(config, tmp_path)
    assert_same_files(config.out, tmp_path / "afterwards")


@dataclasses.dataclass(frozen=True)
class Written:
    """Shards that are written, and what a thread needs to embed them."""

    folder: RunFolder
    shards: tuple[ShardRef, ...]
    staging: ModelStaging

    def ahead(self, **options: Any) -> Ahead:
        return Ahead(self.staging, self.folder, "float32", options.pop("spare_bytes", 0), **options)

    def through(self, **options: Any) -> tuple[StagedModels | None, dict[ShardRef, Any]]:
        with self.ahead(**options) as ahead:
            for shard in self.shards:
                ahead.begin(shard)
            models, embedded = ahead.finish(lambda: None)
        return models, dict(embedded.shards)

    def files(self) -> int:
        return len(list(self.folder.ahead.path.rglob("part-*"))) if self.folder.ahead.path.is_dir() else 0


@pytest.fixture
def written(config) -> Written:
    folder = RunFolder.create(config.out)
    collections = discover(config.chunks_root, SourceConfig())
    shards = ingest(collections, config.source, folder.incoming, 4, ListSink())
    accelerator = open_accelerator("cpu", config.lock_dir)
    staging = ModelStaging(
        specs=select_models(config),
        config=config,
        accelerator=accelerator,
        matmul_of=lambda name, dtype: "auto",
        fusion=config.fusion,
    )
    return Written(folder=folder, shards=shards, staging=staging)


def test_vectors_take_no_disk_that_the_reading_needs(written, config):
    """A run for which the disk is large enough would fail during the reading, with nothing finished."""
    models, shards = written.through()
    assert models is not None and list(shards) == list(written.shards)
    sizes = [(48 + 16) * 4 * shard.rows for shard in written.shards]  # of both tables
    left = [sizes[0] + 10, sizes[1] + 9, *[10**9] * 20]
    written.folder.ahead.path.rename(written.folder.path / ".before")
    models, shards = written.through(spare_bytes=10, free_bytes=lambda path: left.pop(0))
    assert models is not None and list(shards) == [written.shards[0], *written.shards[2:]]
    assert spare_bytes(discover(config.chunks_root, SourceConfig())) > 1 << 30
    assert free_bytes(config.out) > 0


def test_a_disk_that_takes_no_vectors_ends_this_work_alone(written):
    """The reading would end in an error of the embedding, or go on with a disk that unused files fill."""
    (written.folder.path / ".ahead").mkdir()
    (written.folder.ahead.path / "beta").write_text("a file where a folder has to be")
    models, shards = written.through()
    assert models is not None and models.staged.keys() == {"wide", "slim"}
    assert shards == {}
    assert not written.folder.ahead.path.exists()


def test_leaving_ends_the_thread_before_its_work_is_done(written):
    """A fault of the input would be told minutes late, or only after a model is loaded."""
    with written.ahead() as ahead:
        for shard in written.shards:
            ahead.begin(shard)
        assert threads()
    assert not threads()
    assert written.files() < 2 * len(written.shards)


def test_one_shard_is_read_before_it_is_needed(written, monkeypatch):
    """The whole input would come into memory, where reading it is faster than embedding."""
    read, embedded = list[int](), list[int]()
    whole, compute = ShardFiles.read_shard, ahead_module.text_vectors

    def counted(files: ShardFiles, collection: str, index: int) -> Shard:
        read.append(index)
        return whole(files, collection, index)

    def slow(*given: Any) -> TextVectors | None:
        embedded.append(len(embedded) // 2)  # two tables
        until(lambda: len(read) >= min(embedded[-1] + 2, len(written.shards)), "the next shard is read")
        time.sleep(0.02)
        assert len(read) <= embedded[-1] + 2
        return compute(*given)

    monkeypatch.setattr(ShardFiles, "read_shard", counted)
    monkeypatch.setattr(ahead_module, "text_vectors", slow)
    _, shards = written.through()
    assert list(shards) == list(written.shards)


def test_a_shard_with_other_texts_by_now_has_no_vectors(written):
    """Vectors would stand beside other texts."""
    _, shards = written.through()
    shard = written.shards[0]
    assert isinstance(shards[shard]["wide"], AheadFile)
    assert dataclasses.replace(shard, content="0" * 32) not in shards


def test_a_table_without_a_layer_behind_it_is_bare(tables):
    """A module with code of its own, or one that multiplies, would count as a table."""
    from soloist.models.module_facts import is_bare_table

    modules = {name: SentenceTransformer(str(folder), device="cpu") for name, folder in tables.items()}
    assert {name: is_bare_table(module) for name, module in modules.items()} == {
        "wide": True, "slim": True, "dense": False
    }  # fmt: skip

    class Own(StaticEmbedding):
        """A table whose `forward` could do anything."""

    inner = modules["slim"][0]
    own = Own(inner.tokenizer, embedding_weights=np.zeros((700, 4), np.float32))
    assert not is_bare_table(SentenceTransformer(modules=[own], device="cpu"))
