"""A small BERT that overflows float16 in texts with one word, and in no other text."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

WORD = "harbour"
_LIMIT = 65_504


def make_overflowing(folder: Path, bert: Path) -> Path:
    """A copy of the tiny BERT whose first layer has a product beyond float16 for the word's token, and for no other.

    The token lies in a direction of its own, and one unit of the first layer looks for that direction.
    """
    shutil.copytree(bert, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (token,) = tokenizer.encode(WORD, add_special_tokens=False)
    weights = load_file(folder / "model.safetensors")
    table = weights["embeddings.word_embeddings.weight"]
    direction = torch.zeros(table.shape[1])
    direction[:2] = torch.tensor([0.5**0.5, -(0.5**0.5)])
    table -= (table @ direction)[:, None] * direction
    table[token] = 500 * direction
    for name in ("weight", "bias"):  # attention would turn the token away
        weights[f"encoder.layer.0.attention.output.dense.{name}"].zero_()
    weights["encoder.layer.0.intermediate.dense.weight"][0] = 1.3 * _LIMIT / table.shape[1] ** 0.5 * direction
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
