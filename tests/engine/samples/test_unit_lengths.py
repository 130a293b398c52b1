"""A model of dot products or distances: run, plan and run.json say that unit vectors may rank otherwise."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.engine.samples.unit_lengths import ranks_otherwise
from soloist.events import ListSink, Notice
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.settings import read_settings
from soloist.planning.estimate import estimate_run

TEXTS = [" ".join(["stone"] * (1 + 3 * n) + ["river", "light"][: n % 3]) for n in range(12)]


@pytest.fixture
def dot_folder(tiny_models, tmp_path) -> Path:
    """A small BERT without Normalize, trained for dot products."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "dot"))
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:2]))
    set_similarity(folder, "dot")
    return folder


def set_similarity(folder: Path, name: str) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "similarity_fn_name": name}))


def config_of(folder: Path, tmp_path: Path) -> RunConfig:
    chunks = tmp_path / "chunks" / "docs"
    chunks.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(TEXTS)]
    (chunks / "a.jsonl").write_text("\n".join(lines))
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=(str(folder),), accelerator="cpu",
        lock_dir=tmp_path / "locks", fusion=FusionConfig(method="none"), dtype="float32",
    )  # fmt: skip


def said(sink: ListSink) -> list[str]:
    return [event.message for event in sink.events if isinstance(event, Notice) and "compared by" in event.message]


def test_what_is_said_is_what_was_measured(dot_folder, tmp_path) -> None:
    """Figures that are not those of the run's own chunks, or a run that says nothing of rankings that differ."""
    config, sink = config_of(dot_folder, tmp_path), ListSink()
    run(config, sink)
    (message,) = said(sink)
    vectors = SentenceTransformer(str(dot_folder), device="cpu", local_files_only=True).encode(TEXTS).astype(float)
    lengths = np.linalg.norm(vectors, axis=1)
    dots, cosines = vectors @ vectors.T, (vectors / lengths[:, None]) @ (vectors / lengths[:, None]).T
    for scores in (dots, cosines):
        np.fill_diagonal(scores, -np.inf)
    changed = int(np.sum(dots.argmax(axis=1) != cosines.argmax(axis=1)))
    assert changed, "these texts show nothing"
    found = re.search(
        r"over 12 chunks, the lengths are ([\d.]+) to ([\d.]+), and the nearest other chunk changes for (\d+) of",
        message,
    )
    assert [float(found[1]), float(found[2])] == pytest.approx([lengths.min(), lengths.max()], rel=1e-2)
    assert int(found[3]) == changed
    record = json.loads((config.out / "run.json").read_text())
    assert [notice for notice in record["notices"] if message in notice]
    again = ListSink()
    run(config, again)
    assert len(said(again)) == 1, "a run that has nothing left to embed says it too"
    assert [note for note in estimate_run(config).notes if "trained to be compared by dot product" in note]


def test_vectors_of_one_length_need_no_word(tiny_models, tmp_path) -> None:
    """A notice that means nothing trains its reader to pass over those that do."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "unit"))
    set_similarity(folder, "dot")
    config, sink = config_of(folder, tmp_path), ListSink()
    run(config, sink)
    assert said(sink) == []
    assert not [note for note in estimate_run(config).notes if "compared by" in note]


def test_a_plan_looks_at_the_last_module(tiny_models, tmp_path) -> None:
    """A linear module behind Normalize gives vectors of unlike lengths again, of which the plan said nothing."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "dense"))
    (folder / "3_Dense").mkdir()
    Dense(32, 24).save(str(folder / "3_Dense"))
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.base.modules.dense.Dense"
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    spec = resolve(str(folder))
    assert not read_settings(spec, blueprint_of(spec)).has_unit_vectors
    spec = resolve(str(tiny_models["bert"]))
    assert read_settings(spec, blueprint_of(spec)).has_unit_vectors


def test_which_comparisons_rank_otherwise() -> None:
    """Of unit vectors the dot product and the Euclidean distance rank as cosine does; Manhattan's does not."""
    names = ("cosine", "dot", "euclidean", "manhattan")
    otherwise = {
        (name, unit)
        for name in names
        for unit in (True, False)
        if ranks_otherwise(name, "dense", has_unit_vectors=unit)
    }
    assert otherwise == {("dot", False), ("euclidean", False), ("manhattan", False), ("manhattan", True)}
    sparse = {name for name in names if ranks_otherwise(name, "sparse", has_unit_vectors=False)}
    assert sparse == {"euclidean", "manhattan"}
