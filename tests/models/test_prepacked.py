"""Weights that oneDNN has packed give the vectors of plain ones, and become plain ones again bit for bit.

`require_equal` in test_every_module.py holds both against each other for every module and network of the suite.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import nn

from soloist.encoding.copies import replicate, twin
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.models import prepacked
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.models.matmul import fastest_matmul
from soloist.models.prepacked import PackedLinear, can_prepack, prepack
from soloist.types import DType

TEXTS = ["lease shard vector " * times for times in (9, 1, 4, 60, 33, 17)] + ["x"]

needs_onednn = pytest.mark.skipif(
    not can_prepack(torch.float32), reason="this torch has no products with packed weights on this processor"
)
pytestmark = needs_onednn


def packed_layers(module: nn.Module) -> list[PackedLinear]:
    return [part for part in module.modules() if isinstance(part, PackedLinear)]


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.clone() for name, parameter in module.named_parameters()}


def require_same_weights(module: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = dict(module.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def vectors_of(staged: StagedModel, module: nn.Module, texts: list[str] = TEXTS) -> np.ndarray:
    encoder = Encoder(staged, packs=True)
    tokenized = encoder.tokenize(texts)
    batch = encoder.plan(tokenized, lambda length: 1000)[0]
    vectors = np.zeros((len(texts), staged.dim), dtype=np.float32)
    vectors[list(batch.rows)] = forward(module, encoder.collate(tokenized, batch), "cpu")[: len(texts)]
    return vectors


def test_layers_with_one_input_share_a_product_and_take_their_activation_along(tiny_models: dict[str, Path]) -> None:
    """Catches query, key and value that are three products, and GELU as a pass over memory of its own."""
    staged = stage(resolve(str(tiny_models["bert"])), "float32", "onednn")
    assert staged.matmul == "onednn"
    layer = staged.module[0].model.encoder.layer[0]
    parts = [layer.attention.self.query, layer.attention.self.key, layer.attention.self.value]
    assert len({id(part._product) for part in parts}) == 1
    assert layer.intermediate.dense.activation is not None
    assert isinstance(layer.intermediate.intermediate_act_fn, nn.Identity)
    assert layer.output.dense.activation is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["bert", "qwen2", "xlm-roberta"])
def test_plain_layers_come_back_bit_for_bit(tiny_models: dict[str, Path], name: str, dtype: DType) -> None:
    """Catches a replica on a device with weights that are off, or without its activations."""
    if dtype == "bfloat16" and not can_prepack(torch.bfloat16):
        pytest.skip("this processor has no products of bfloat16")
    plain, packed = (stage(resolve(str(tiny_models[name])), dtype, matmul) for matmul in ("torch", "onednn"))
    assert plain.matmul == "torch"
    assert packed.matmul == "onednn"
    assert plain.fingerprint == packed.fingerprint
    assert plain.weights_bytes == packed.weights_bytes
    assert all(Encoder(staged, packs=True).packs for staged in (plain, packed))
    replica = replicate(packed.module, "cpu", torch.float32)
    assert not packed_layers(replica)
    assert {parameter.dtype for parameter in replica.parameters()} == {torch.float32}
    expected = vectors_of(plain, replicate(plain.module, "cpu", torch.float32))
    assert np.array_equal(vectors_of(plain, replica), expected)


def test_trees_of_one_model_share_packed_weights_and_nothing_else(tiny_models: dict[str, Path]) -> None:
    """Catches a worker that copies the weights, or that takes another worker's keys and values."""
    staged = stage(resolve(str(tiny_models["bert"])), "float32", "onednn")
    first, second = packed_layers(staged.module)[0], packed_layers(twin(staged.module))[0]
    assert first._product._weight is second._product._weight
    assert first._product is not second._product


def test_a_product_is_for_the_rows_that_are_asked_for() -> None:
    """Catches a key of the batch before, where a layer is asked out of turn."""
    linears = [nn.Linear(8, 4), nn.Linear(8, 5)]
    product = prepacked._Product(linears, prepacked._NO_ACTIVATION)
    one, other = torch.randn(20, 8), torch.randn(20, 8)
    with torch.no_grad():
        for rows, index in ((one, 0), (other, 1), (one, 1), (one, 0), (other, 0)):
            assert torch.allclose(product.part(rows, index), linears[index](rows), atol=1e-6)


class _ReadsWeights(Dense):
    """A module that multiplies with the weights of its layer itself."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = self.linear(features["sentence_embedding"])
        return {**features, "sentence_embedding": rows + features["sentence_embedding"] @ self.linear.weight.T}


class _UsesTwice(nn.Module):
    """A part that reads what a layer made, before its activation and behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(width, width), nn.GELU()

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = self.linear(features["sentence_embedding"])
        return {**features, "sentence_embedding": rows + self.activation(rows)}


@pytest.mark.parametrize("part", [lambda: _ReadsWeights(32, 32), lambda: _UsesTwice(32)])
def test_what_packed_layers_cannot_stand_in_for_stays_as_it_was(
    tiny_models: dict[str, Path], part: Callable[[], nn.Module]
) -> None:
    """Catches other vectors of a network that does more with its layers than to call them."""
    module = SentenceTransformer(str(tiny_models["bert"]), device="cpu")
    module.append(part().eval().requires_grad_(False))
    weights, before = weights_of(module), module.encode(TEXTS)
    assert not prepack(module)
    require_same_weights(module, weights)
    assert np.array_equal(module.encode(TEXTS), before)


def test_tied_weights_stay_where_they_are(tiny_models: dict[str, Path]) -> None:
    """Catches weights that are held twice, since the other part that has them holds them too."""
    module = SentenceTransformer(str(tiny_models["bert"]), device="cpu").requires_grad_(False)
    first, second = module[0].model.encoder.layer[0].output.dense, module[0].model.encoder.layer[1].output.dense
    second.weight = first.weight
    assert prepack(module)
    assert packed_layers(module)
    assert module[0].model.encoder.layer[0].output.dense is first
    assert module[0].model.encoder.layer[1].output.dense is second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_whatever_lies_beside_it(dtype: DType) -> None:
    """Catches kernels that are chosen by the number of tokens. Tiny networks do not show them: their sums are short."""
    if dtype == "bfloat16" and not can_prepack(torch.bfloat16):
        pytest.skip("this processor has no products of bfloat16")
    staged = stage(resolve("all-MiniLM-L6-v2"), dtype, "onednn")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = np.concatenate([vectors_of(staged, staged.module, [text]) for text in TEXTS])
        for times in (1, 8, 40):
            among_others = vectors_of(staged, staged.module, TEXTS * times)
            assert np.array_equal(among_others, np.tile(alone, (times, 1)))
    finally:
        torch.set_num_threads(threads)


def test_measuring_the_host_leaves_torch_as_it_is() -> None:
    """Catches threads that stay at one, and random numbers of the caller that move on."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fastest_matmul.cache_clear()
    assert fastest_matmul("float32") in ("torch", "onednn")
    assert fastest_matmul("float16") == "torch"
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)
