"""Adapters (LoRA) on their base, where peft is installed: the vectors are sentence-transformers' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.errors import PredictionError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.loading import stage

peft = pytest.importorskip("peft", reason="adapters are loaded with the extra peft, which is not installed")

TEXTS = ["A lease gives one model every accelerator.", "Grey water, and rain all night.", "Rows"]
TARGETS = {"bert": ["query"], "qwen2": ["q_proj", "v_proj"]}


def _adapted(folder: Path, base: Path, name: str) -> Path:
    model = SentenceTransformer(str(base), device="cpu")
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[name], init_lora_weights=False)
    model.add_adapter(settings)
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_an_adapter_has_the_vectors_that_sentence_transformers_gives(
    tiny_models: dict[str, Path], tmp_path: Path, name: str, packs: bool
) -> None:
    """Catches vectors of the bare base, and differences that get lost where rows are packed."""
    folder = _adapted(tmp_path / "adapted", tiny_models[name], name)
    expected = SentenceTransformer(str(folder), device="cpu").encode_document(TEXTS)
    bare = SentenceTransformer(str(tiny_models[name]), device="cpu").encode_document(TEXTS)
    staged = stage(resolve(str(folder)), "float32")
    encoder = Encoder(staged, packs=packs)
    tokenized = encoder.tokenize(TEXTS)
    found = np.zeros((len(TEXTS), staged.dim), np.float32)
    for batch in encoder.plan(tokenized, lambda length: 4):
        found[list(batch.rows)] = forward(staged.module, encoder.collate(tokenized, batch), "cpu")[: len(batch.rows)]
    assert encoder.packs == packs
    assert np.einsum("ij,ij->i", unit_rows(found)[0], expected).min() >= 0.99999
    assert np.einsum("ij,ij->i", bare, expected).min() < 0.999


def test_the_fingerprint_is_of_the_adapter_and_of_its_base(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches vectors of another base that are taken over, since its weights lie in another folder."""
    base = Path(shutil.copytree(tiny_models["bert"], tmp_path / "base"))
    folder = _adapted(tmp_path / "adapted", base, "bert")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    found = {stage(resolve(str(folder)), "float32").fingerprint}
    for weights in (base / "model.safetensors", folder / "adapter_model.safetensors"):
        changed = {name: tensor + 1 for name, tensor in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
        found.add(stage(resolve(str(folder)), "float32").fingerprint)
    assert len(found) == 3


def test_the_memory_of_an_adapter_is_declined_by_name(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches a plan that speaks of a missing config.json."""
    folder = _adapted(tmp_path / "adapted", tiny_models["bert"], "bert")
    with pytest.raises(PredictionError, match="holds an adapter on a base model, whose memory cannot be predicted: "):
        blueprint_of(resolve(str(folder)))
