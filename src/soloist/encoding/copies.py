"""Module trees around copied or shared tensors. Knows torch and how a pipeline keeps its tokenizers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from soloist.models.prepacked import plain_layers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def replicate(module: SentenceTransformer, device: str, dtype: torch.dtype | None = None) -> SentenceTransformer:
    """A copy of a module tree with parameters and buffers on `device`, and plain layers. Tokenizers are shared.

    The host holds no other copy meanwhile, and tied parameters stay tied.
    """
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        moved = parameter.detach().to(device, _floating(parameter, dtype), copy=True)
        memo[id(parameter)] = torch.nn.Parameter(moved, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to(device, _floating(buffer, dtype), copy=True)
    copied = _tree(module, memo)
    for layer in plain_layers(copied):
        layer.to(device, dtype)
    return copied


def twin(module: SentenceTransformer) -> SentenceTransformer:
    """Another module tree around the same tensors."""
    return _tree(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _tree(module: SentenceTransformer, memo: dict[int, object]) -> SentenceTransformer:
    """A module tree around the tensors of a memo. Tokenizers and configurations are shared."""
    for part in module.modules():
        for name in ("tokenizer", "processor", "config"):
            shared = vars(part).get(name)
            if shared is not None:
                memo[id(shared)] = shared
    return copy.deepcopy(module, memo).eval()


def _floating(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
