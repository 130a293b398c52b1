"""What decides a model's vectors, one thing at a time: changed, none of its vectors may be used again."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.editing import assert_same_files, random_text, write_chunks
from support.tiny_models import make_bert

from soloist.config import FusionConfig, RunConfig
from soloist.engine import RunResult, run
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

CHUNKS, DISTINCT = 21, 20


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection in three shards, of 20 texts, one of them there twice."""
    generator = random.Random(1)
    items = [(str(n), random_text(generator, longest=60)) for n in range(CHUNKS - 1)]
    return write_chunks(tmp_path_factory.mktemp("texts") / "chunks", {"alpha/a": [*items, ("twice", items[3][1])]})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], chunks: Path) -> RunConfig:
    """A finished run of `bert`, whose folder of weights is its own."""
    root = tmp_path_factory.mktemp("original")
    config = RunConfig(
        chunks_root=chunks,
        out=root / "run",
        models=("bert",),
        accelerator="cpu",
        catalogue=write_catalogue(root, shutil.copytree(tiny_models["bert"], root / "model")),
        shard_chunks=8,
        lock_dir=root / "locks",
        cache_dir=root / "cache",
    )
    assert run(config).models[0].embedded == DISTINCT
    return config


def write_catalogue(folder: Path, source: Path, **fields: Any) -> Path:
    path = folder / "catalogue.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"source": str(source), **fields}.items()]
    path.write_text("\n".join(["[models.bert]", *lines]) + "\n")
    return path


def _prompt(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    return dataclasses.replace(config, catalogue=write_catalogue(folder, model, document_prompt="passage: "))


def _dtype(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    return dataclasses.replace(config, dtype="bfloat16")


def _dtype_of_the_catalogue(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    return dataclasses.replace(config, catalogue=write_catalogue(folder, model, dtype="bfloat16"))


def _max_tokens(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    return dataclasses.replace(config, catalogue=write_catalogue(folder, model, max_tokens=16))


def _dim(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    wider = make_bert(folder / "wider", hidden_size=48, intermediate_size=64)
    return dataclasses.replace(config, catalogue=write_catalogue(folder, wider))


def _weights(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    """One number of one tensor, the size of the file and its time as before."""
    path = _in_a_copy(folder, model) / "model.safetensors"
    tensors, was = load_file(path), path.stat()
    name = next(name for name in tensors if name.endswith("layer.0.output.dense.weight"))
    tensors[name][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_size == was.st_size
    return dataclasses.replace(config, catalogue=write_catalogue(folder, path.parent))


def _pooling(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    path = _in_a_copy(folder, model) / "1_Pooling" / "config.json"
    settings = json.loads(path.read_text())
    assert settings["pooling_mode"] == "mean"
    path.write_text(json.dumps({**settings, "pooling_mode": "cls"}))
    return dataclasses.replace(config, catalogue=write_catalogue(folder, path.parents[1]))


def _tokenizer(config: RunConfig, folder: Path, model: Path) -> RunConfig:
    path = _in_a_copy(folder, model) / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["m"], vocabulary["n"] = vocabulary["n"], vocabulary["m"]
    path.write_text(json.dumps(content))
    return dataclasses.replace(config, catalogue=write_catalogue(folder, path.parent))


def _in_a_copy(folder: Path, model: Path) -> Path:
    return shutil.copytree(model, folder / "other model")


Change = Callable[[RunConfig, Path, Path], RunConfig]
DECISIVE: list[Change] = [
    _prompt, _dtype, _dtype_of_the_catalogue, _max_tokens, _dim, _weights, _pooling, _tokenizer,
]  # fmt: skip


@pytest.mark.parametrize("change", DECISIVE, ids=lambda change: change.__name__.strip("_"))
def test_a_change_of_what_decides_the_vectors_uses_none_again(change, original, tmp_path):
    """Vectors of two kinds in one run, which nobody would see: they have the same shape and norm."""
    changed = change(original, tmp_path, original.catalogue.parent / "model")
    fresh = _run_into(changed, tmp_path / "fresh")
    assert not _vectors_equal(original.out, tmp_path / "fresh"), "the change does not matter to these texts"

    again = _run_into(changed, shutil.copytree(original.out, tmp_path / "again"))
    assert_same_files(tmp_path / "again", tmp_path / "fresh")
    assert _figures(again) == _figures(fresh) == (DISTINCT, 0, 0, CHUNKS - DISTINCT)
    (notice,) = again.notices
    assert notice.startswith("bert: its weights or settings have changed, or soloist makes its vectors in another way")

    elsewhere = _run_into(dataclasses.replace(changed, reuse=(original.out,)), tmp_path / "elsewhere")
    assert_same_files(tmp_path / "elsewhere", tmp_path / "fresh")
    assert _figures(elsewhere) == _figures(fresh)
    message = f"bert: its vectors in {original.out} are not reused: they were made with other weights or settings"
    assert elsewhere.notices == (message,)
    assert not verify_run(RunFolder.open(tmp_path / "again")).problems


def test_what_does_not_decide_the_vectors_keeps_them(original, tmp_path):
    """A copy of the weights, on another machine say, would cost the whole run again."""
    copy = shutil.copytree(original.catalogue.parent / "model", tmp_path / "copy", copy_function=shutil.copyfile)
    for number, path in enumerate(sorted(copy.rglob("*"))):
        os.utime(path, (number, number))
    catalogue = write_catalogue(tmp_path, copy, query_prompt="query: ", licence="mit")
    changed = dataclasses.replace(original, catalogue=catalogue)
    again = _run_into(changed, shutil.copytree(original.out, tmp_path / "again"))
    assert _figures(again) == (0, CHUNKS, 0, 0)
    elsewhere = _run_into(dataclasses.replace(changed, reuse=(original.out,)), tmp_path / "elsewhere")
    assert _figures(elsewhere) == (0, 0, CHUNKS, 0)
    assert again.notices == elsewhere.notices == ()
    for out in ("again", "elsewhere"):
        assert_same_files(tmp_path / out, original.out)


def test_vectors_of_another_name_for_the_same_model_are_taken(original, tmp_path):
    """A name is no property of the vectors: what decides them is in the fingerprint."""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(original.catalogue.read_text().replace("[models.bert]", "[models.robert]"))
    renamed = dataclasses.replace(original, catalogue=catalogue, models=("robert",), reuse=(original.out,))
    assert _figures(_run_into(renamed, tmp_path / "run")) == (0, 0, CHUNKS, 0)


def test_another_run_without_vectors_of_a_model_is_said(original, tmp_path):
    """--reuse with the wrong folder, or of a run without the model, would cost the whole run without a word."""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(original.catalogue.read_text().replace("[models.bert]", "[models.robert]\nmax_tokens = 32"))
    renamed = dataclasses.replace(original, catalogue=catalogue, models=("robert",), reuse=(original.out,))
    expected = f"robert: no vectors are reused: there are none of this model in {original.out}"
    result = _run_into(renamed, tmp_path / "run")
    assert result.notices == (expected,)
    assert result.models[0].reused == 0


def test_a_change_of_the_fusion_makes_fused_vectors_again_and_no_others(original, tmp_path):
    """`--dim` cuts what is fused, not what the models give: it must cost no model, and leave no fused row as it was."""
    changed = dataclasses.replace(original, fusion=FusionConfig(dim=8))
    again = _run_into(changed, shutil.copytree(original.out, tmp_path / "again"))
    _run_into(changed, tmp_path / "fresh")
    assert _figures(again) == (0, CHUNKS, 0, 0)
    assert_same_files(tmp_path / "again", tmp_path / "fresh")
    assert RunFolder.open(tmp_path / "again").shards.read_fused("alpha", 0)[1].shape == (8, 8)


def _run_into(config: RunConfig, out: Path) -> RunResult:
    return run(dataclasses.replace(config, out=out))


def _figures(result: RunResult) -> tuple[int, int, int, int]:
    (model,) = result.models
    return model.embedded, model.kept, model.reused, model.repeated


def _vectors_equal(run: Path, other: Path) -> bool:
    mine, others = (
        np.concatenate([RunFolder.open(path).shards.read_vectors("alpha", "bert", shard)[1] for shard in range(3)])
        for path in (run, other)
    )
    return mine.shape == others.shape and bool((mine == others).all())
