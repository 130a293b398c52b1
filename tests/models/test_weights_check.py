"""Weights that a network lacks, and weights that nothing takes: errors that name them, and heads that harm nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

from soloist.errors import ModelLoadError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.weights_check import observed_loads

TEXTS = ["A lease gives one model every accelerator.", "Grey water."]
Weights = dict[str, torch.Tensor]
QUERY = "encoder.layer.0.attention.self.query.weight"
ADAPTER = "encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A complete model that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


def _change(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def _edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def _with(**more: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


def test_the_library_still_reports_what_it_loads(folder: Path) -> None:
    """Catches a version of transformers that reports elsewhere: then nothing would be found any more."""
    with observed_loads() as reports:
        SentenceTransformer(str(folder), device="cpu")
    assert [(report.network, report.missing, report.unexpected) for report in reports] == [
        ("BertModel", frozenset(), frozenset())
    ]
    assert reports[0].parts == {"embeddings", "encoder", "pooler"}


@pytest.mark.parametrize(
    "change",
    [
        _with(cls__predictions__bias=torch.ones(3), classifier__weight=torch.ones(2, 32)),
        _with(embeddings__position_ids=torch.arange(512)),
        lambda weights: {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")},
        lambda weights: (
            {f"bert.{name}": tensor for name, tensor in weights.items()} | {"qa_outputs.bias": torch.ones(2)}
        ),
    ],
    ids=["heads", "positions", "no-pooler", "prefix"],
)
def test_weights_of_other_tasks_harm_nobody(
    folder: Path, tiny_models: dict[str, Path], change: Callable[[Weights], Weights]
) -> None:
    """Catches a model that sentence-transformers loads rightly and that is refused for its head or its pooler."""
    _change(folder, change)
    expected = SentenceTransformer(str(tiny_models["bert"]), device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(stage(resolve(str(folder)), "float32").module.encode(TEXTS), expected)


def _fewer_layers(folder: Path) -> None:
    _edit(folder / "config.json", num_hidden_layers=1)


def _more_layers(folder: Path) -> None:
    _edit(folder / "config.json", num_hidden_layers=3)


def _another_size(folder: Path) -> None:
    _edit(folder / "config.json", intermediate_size=48)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            _fewer_layers,
            "16 weights are in its files and in no part of the network that its config.json describes, such as "
            "encoder.layer.1.attention.output.LayerNorm.bias",
        ),
        (_more_layers, "16 weights are not in its files, such as encoder.layer.2.attention.output.LayerNorm.bias"),
        (
            _another_size,
            "its weights have encoder.layer.0.intermediate.dense.bias of the shape [64], but its config.json asks for "
            "[48]",
        ),
        (
            lambda folder: _change(folder, lambda weights: {f"net.{name}": t for name, t in weights.items()}),
            "37 weights are not in its files, such as embeddings.LayerNorm.bias, while net.",
        ),
        (
            lambda folder: _change(folder, _with(**{ADAPTER: torch.ones(4, 32)})),
            f"its weights have {ADAPTER}, which belongs to an adapter (LoRA) that was not",
        ),
        (
            lambda folder: _change(folder, _with(**{f"{QUERY}.absmax": torch.ones(4)})),
            f"its weights have {QUERY}.absmax, which belongs to quantised weights, and its config.json has no",
        ),
    ],
)
def test_weights_of_another_network_are_errors_that_name_them(
    folder: Path, damage: Callable[[Path], object], said: str
) -> None:
    """Catches a network of which a part is left out or is random, whose vectors look right."""
    damage(folder)
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve(str(folder)), "float32")
    assert str(caught.value).startswith(f"model cannot be loaded from {folder}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: {"linear.weight": weights["linear.weight"]}, 'Missing key(s) in state_dict: "linear.bias"'),
        (_with(scale=torch.ones(1)), 'Unexpected key(s) in state_dict: "scale"'),
    ],
)
def test_a_module_behind_the_network_names_its_keys_too(
    tmp_path: Path, tiny_models: dict[str, Path], change: Callable[[Weights], Weights], said: str, file: str
) -> None:
    """Catches "Error(s) in loading state_dict for Dense", which does not say of what."""
    parts = [Transformer(str(tiny_models["bert"])), Pooling(32), Dense(32, 16)]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "model"), create_model_card=False)
    place = tmp_path / "model" / "2_Dense"
    weights = change(load_file(place / "model.safetensors"))
    (place / "model.safetensors").unlink()
    save_file(weights, place / file) if file.endswith("tensors") else torch.save(weights, place / file)
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve(str(tmp_path / "model")), "float32")
    assert f"(its Dense: {said}): " in str(caught.value)
