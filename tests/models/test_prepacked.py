"""Weights that oneDNN has packed give the vectors of plain ones, and become plain ones again bit for bit.

`require_equal` in test_every_module.py holds both against each other for every module and network of the suite.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from support.tiny_models import make_static
from torch import nn

from soloist.config import RunConfig
from soloist.devices import open_accelerator
from soloist.encoding.copies import replicate, twin
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.events import ListSink
from soloist.models import prepacked
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.models.matmul import fastest_matmul
from soloist.models.prepacked import PackedLinear, can_prepack, prepack
from soloist.staging import select_models, stage_all
from soloist.types import DType, Matmul

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
    assert isinstance(layer.intermediate.intermediate_act_fn, prepacked._Applied)
    assert [part.out_features for part in packed_layers(layer.intermediate)] == [layer.intermediate.dense.out_features]


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


class _Part(nn.Module):
    """Two layers and an activation behind the network, as `work` uses them."""

    def __init__(self, work: Callable[[_Part, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one, self.other, self.activation = nn.Linear(32, 32), nn.Linear(32, 32), nn.GELU()
        self.work = work

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**features, "sentence_embedding": self.work(self, features["sentence_embedding"])}


def with_a_part(folder: Path, work: Callable[[_Part, torch.Tensor], torch.Tensor]) -> SentenceTransformer:
    module = SentenceTransformer(str(folder), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        module.append(_Part(work))
    return module.eval().requires_grad_(False)


def _reads_weights(part: _Part, rows: torch.Tensor) -> torch.Tensor:
    return part.one(rows) + rows @ part.one.weight.T


def _reads_weights_of_many_rows(part: _Part, rows: torch.Tensor) -> torch.Tensor:
    return part.one(rows) if len(rows) < 3 else rows @ part.one.weight.T


def _uses_twice(part: _Part, rows: torch.Tensor) -> torch.Tensor:
    made = part.one(rows)
    return made + part.activation(made)


@pytest.mark.parametrize("work", [_reads_weights, _reads_weights_of_many_rows, _uses_twice])
def test_what_packed_layers_cannot_stand_in_for_stays_as_it_was(
    tiny_models: dict[str, Path], work: Callable[[_Part, torch.Tensor], torch.Tensor]
) -> None:
    """Catches other vectors of a network that does more with its layers than to call them."""
    module = with_a_part(tiny_models["bert"], work)
    weights, before = weights_of(module), module.encode(TEXTS)
    assert not prepack(module)
    require_same_weights(module, weights)
    assert np.array_equal(module.encode(TEXTS), before)


def _changes_its_input(part: _Part, rows: torch.Tensor) -> torch.Tensor:
    first = part.one(rows)
    if len(rows) != 2:
        rows.mul_(2)
    return first + part.other(rows)


def _reads_facts(part: _Part, rows: torch.Tensor) -> torch.Tensor:
    rows = rows.to(part.one.weight.dtype).to(part.one.weight.device)
    return part.activation(part.one(rows))


def _negates(linear: nn.Linear) -> None:
    weight, bias = linear.weight, linear.bias
    linear.forward = lambda rows: -nn.functional.linear(rows, weight, bias)  # type: ignore[method-assign]


@pytest.mark.parametrize("work", [_changes_its_input, _reads_facts])
def test_networks_of_their_own_way_are_packed_and_keep_their_vectors(
    tiny_models: dict[str, Path], work: Callable[[_Part, torch.Tensor], torch.Tensor]
) -> None:
    """Catches layers that share a product though their input changes, and questions that a layer cannot answer."""
    module = with_a_part(tiny_models["bert"], work)
    before = module.encode(TEXTS)
    assert prepack(module)
    assert packed_layers(module[-1])
    np.testing.assert_allclose(module.encode(TEXTS), before, atol=1e-6)
    np.testing.assert_allclose(replicate(module, "cpu", torch.float32).encode(TEXTS), before, atol=1e-6)


def test_a_layer_with_another_way_to_compute_keeps_it(tiny_models: dict[str, Path]) -> None:
    """Catches a patched layer, as quantisation and adapters make them, whose patch is dropped."""
    module = with_a_part(tiny_models["bert"], lambda part, rows: part.one(rows))
    _negates(module[-1].one)
    before = module.encode(TEXTS)
    assert prepack(module)
    assert not packed_layers(module[-1])
    np.testing.assert_allclose(module.encode(TEXTS), before, atol=1e-6)


@pytest.mark.parametrize("name", sorted(prepacked._ACTIVATIONS))
def test_an_activation_that_is_part_of_a_product_is_the_one_that_it_was(name: str) -> None:
    """Catches an overflow that becomes a number, so that a wrong vector passes for a right one."""
    from transformers import activations

    activation = getattr(activations, name, None) or getattr(nn, name)
    linear = prepacked.empty_linear(4, 4, torch.float32)
    linear.weight.copy_(torch.eye(4))
    linear.bias.zero_()
    rows = torch.tensor([[-3.0, -0.5, 0.25, 2.0], [float("nan"), float("nan"), float("inf"), float("nan")]])
    rows = torch.cat([rows, torch.full((1, 4), 70.0)])
    with torch.no_grad():
        expected = activation()(linear(rows))
        found = prepacked.packed_product(linear, activation())(rows)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_tied_weights_stay_where_they_are(tiny_models: dict[str, Path]) -> None:
    """Catches weights that are held twice, since the other part that has them holds them too."""
    module = SentenceTransformer(str(tiny_models["bert"]), device="cpu").requires_grad_(False)
    first, second = module[0].model.encoder.layer[0].output.dense, module[0].model.encoder.layer[1].output.dense
    second.weight = first.weight
    assert prepack(module)
    assert packed_layers(module)
    assert module[0].model.encoder.layer[0].output.dense is first
    assert module[0].model.encoder.layer[1].output.dense is second


@pytest.mark.parametrize("matmul", ["onednn", "onednn+numpy"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_whatever_lies_beside_it(dtype: DType, matmul: Matmul) -> None:
    """Catches kernels that are chosen by the number of tokens. Tiny networks do not show them: their sums are short."""
    if dtype == "bfloat16" and not can_prepack(torch.bfloat16):
        pytest.skip("this processor has no products of bfloat16")
    staged = stage(resolve("all-MiniLM-L6-v2"), dtype, matmul)
    assert staged.matmul == matmul
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
    assert fastest_matmul("float32") in get_args(Matmul)
    assert fastest_matmul("float16") == "torch"
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def test_a_table_of_vectors_waits_for_no_measurement(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """A model that multiplies nothing would wait thirty milliseconds, in which it embeds hundreds of texts."""

    def measured(folder: Path) -> int:
        fastest_matmul.cache_clear()
        config = RunConfig(chunks_root=tmp_path, out=tmp_path / "run", models=(str(folder),), accelerator="cpu")
        stage_all(select_models(config), config, open_accelerator("cpu"), ListSink())
        return fastest_matmul.cache_info().misses

    table = SentenceTransformer(modules=[*SentenceTransformer(str(make_static(tmp_path / "bare"))), Normalize()])
    table.save(str(tmp_path / "unit"), create_model_card=False)
    widened = SentenceTransformer(modules=[*table, Dense(64, 32)])
    widened.save(str(tmp_path / "widened"), create_model_card=False)
    assert [measured(tmp_path / name) for name in ("bare", "unit", "widened")] == [0, 0, 1]
    assert measured(tiny_models["bert"]) == 1
