"""Every module that sentence-transformers ships: the vectors that it gives, or the sentence of its refusal.

The list is the library's own, so a new module fails here until somebody decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.cross_encoder import modules as of_rerankers
from sentence_transformers.multi_vector_encoder import modules as of_multi_vectors
from sentence_transformers.sentence_transformer import modules as of_dense
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder import modules as of_sparse
from support.routed_models import make_two_heads, table
from support.rows_of_texts import rows_of_texts

from soloist.devices import simulated
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import begin, unit_rows
from soloist.errors import ModelLoadError
from soloist.memory.cards import bare_card
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.models.module_list import LIBRARY_MODULES
from soloist.models.refusals import require_encoder
from soloist.types import Batch, Matmul

TEXTS = [
    "A lease gives one model every accelerator.",
    "Grey water, and rain all night on the harbour. " * 5,
    "Rows",
    "The committee will meet on Thursday to discuss the budget.",
]
Maker = Callable[[Path, Path], object]


def _after(*modules: torch.nn.Module, pooling: object = "mean") -> Maker:
    """The small BERT and its pooling, with these modules behind."""

    def make(folder: Path, bert: Path) -> None:
        parts = [Transformer(str(bert)), Pooling(32, pooling), *modules]
        SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)

    return make


def _seeded(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return make()


def _norm() -> LayerNorm:
    norm = LayerNorm(32)
    with torch.no_grad():
        norm.norm.weight.copy_(torch.linspace(0.5, 2, 32))
    return norm


def _layers(folder: Path, bert: Path) -> None:
    """The weighted mean of what each layer gives."""
    transformer = Transformer(str(bert), config_kwargs={"output_hidden_states": True})
    layers = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1)
    layers.layer_weights = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
    model = SentenceTransformer(modules=[transformer, layers, Pooling(32)], device="cpu")
    model.save(str(folder), create_model_card=False)


def _weighted_words(folder: Path, bert: Path) -> None:
    transformer = Transformer(str(bert))
    vocabulary = sorted(transformer.tokenizer.get_vocab(), key=transformer.tokenizer.get_vocab().__getitem__)
    weights = WordWeights(vocabulary, {word: 0.1 + index % 7 for index, word in enumerate(vocabulary)})
    model = SentenceTransformer(modules=[transformer, weights, Pooling(32)], device="cpu")
    model.save(str(folder), create_model_card=False)


def _static(folder: Path, bert: Path) -> None:
    SentenceTransformer(modules=[table(bert, 32)], device="cpu").save(str(folder), create_model_card=False)


def _words() -> WordEmbeddings:
    return WordEmbeddings(WhitespaceTokenizer(["pad", "grey", "water"]), np.ones((3, 8), np.float32))


def _of_words(*modules: torch.nn.Module, width: int = 8) -> Maker:
    def make(folder: Path, bert: Path) -> None:
        parts = [_words(), *modules, Pooling(width)]
        SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)

    return make


def _convolved(folder: Path, bert: Path) -> None:
    parts = [Transformer(str(bert)), CNN(32, 16), Pooling(48)]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)


def _bag(folder: Path, bert: Path) -> None:
    SentenceTransformer(modules=[BoW(["grey", "water"])], device="cpu").save(str(folder), create_model_card=False)


def _listed(cls: type) -> Maker:
    """A folder whose modules.json names this class."""

    def make(folder: Path, bert: Path) -> None:
        _after()(folder, bert)
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules[1]["type"] = f"{cls.__module__}.{cls.__name__}"
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")

    return make


FOLLOWED: dict[str, Maker] = {
    "Transformer": _after(),
    "Pooling": _after(pooling=("cls", "max")),
    "Dense": _after(_seeded(lambda: Dense(32, 16))),
    "Normalize": _after(Normalize()),
    "Dropout": _after(Dropout(0.5)),
    "LayerNorm": _after(_norm()),
    "StaticEmbedding": _static,
    "WeightedLayerPooling": _layers,
    "WordWeights": _weighted_words,
    "Router": make_two_heads,
    "Asym": make_two_heads,
}
SPARSE, RERANKER, MULTI_VECTOR = "a sparse encoder", "a cross-encoder", "a late-interaction model"
REFUSED: dict[str, tuple[Maker, str]] = {
    "BoW": (_bag, "a bag of words"),
    "WordEmbeddings": (_of_words(), "a model of whole words"),
    "LSTM": (_of_words(LSTM(8, 4)), "a model of whole words"),
    "CNN": (_convolved, "a convolution over tokens"),
    "CLIPModel": (_listed(of_dense.CLIPModel), "a model of pictures"),
    "MLMTransformer": (_listed(of_sparse.MLMTransformer), SPARSE),
    "SparseAutoEncoder": (_listed(of_sparse.SparseAutoEncoder), SPARSE),
    "SparseStaticEmbedding": (_listed(of_sparse.SparseStaticEmbedding), SPARSE),
    "SpladePooling": (_listed(of_sparse.SpladePooling), SPARSE),
    "LogitScore": (_listed(of_rerankers.LogitScore), RERANKER),
    "MultiVectorMask": (_listed(of_multi_vectors.MultiVectorMask), MULTI_VECTOR),
    "BaseTokenPooling": (_listed(of_multi_vectors.BaseTokenPooling), MULTI_VECTOR),
    "HierarchicalTokenPooling": (_listed(of_multi_vectors.HierarchicalTokenPooling), MULTI_VECTOR),
    "LambdaTokenPooling": (_listed(of_multi_vectors.LambdaTokenPooling), MULTI_VECTOR),
}
# What the others are made of, and no model has.
ABSTRACT = {"Module", "InputModule"}
SHIPPED = {name for part in (of_dense, of_sparse, of_rerankers, of_multi_vectors) for name in part.__all__}


def test_every_module_has_a_row() -> None:
    """Catches a module of a new version whose vectors nobody has looked at."""
    assert set(FOLLOWED) | set(REFUSED) | ABSTRACT == SHIPPED
    assert LIBRARY_MODULES | ABSTRACT == SHIPPED


def encoded(staged: StagedModel, *, packs: bool) -> np.ndarray:
    """Unit vectors of the texts, in batches of two."""
    encoder = Encoder(staged, packs=packs)
    return unit_rows(rows_of_texts(encoder, TEXTS, batch_rows=2))[0]


def waits(staged: StagedModel, *, packs: bool) -> dict[str, int]:
    """How often the host waits for a device in two forward passes, by operator. The first pass has padded rows."""
    simulated.configure([bare_card(1 << 30)])
    ledger, replica, encoder = simulated.ledger(0), replicate(staged.module, "sim:0"), Encoder(staged, packs=packs)
    tokenized = encoder.tokenize(TEXTS)
    lengths = tokenized.lengths
    ledger.waits.clear()
    for rows in ((0, 1, 2), (3,)):
        batch = Batch(rows=rows, padded_length=max(lengths[row] for row in rows))
        begin(replica, encoder.collate(tokenized, batch), "sim:0")
    return dict(ledger.waits)


def require_equal(folder: Path, waits_packed: Mapping[str, int] = MappingProxyType({})) -> None:
    """Both sides, padded and packed, against sentence-transformers' own; packed weights against plain ones.

    On a device the host never waits, except in these operators where rows are packed.
    """
    reference = SentenceTransformer(str(folder), device="cpu")
    staged = stage(resolve(str(folder)), "float32")
    sides = ((staged, reference.encode_document), (staged.for_queries(), reference.encode_query))
    for side, encode in sides:
        expected = unit_rows(encode(TEXTS))[0]
        for packs in (False, True):
            cosines = np.einsum("ij,ij->i", encoded(side, packs=packs), expected)
            assert cosines.min() >= 0.99999, (encode.__name__, packs, cosines)
        assert waits(side, packs=False) == {}, "the device is idle until the host has its answer"
        assert waits(side, packs=True) == waits_packed
    for matmul, packs in (("onednn", False), ("onednn+numpy", True)):
        require_alike(staged, stage(resolve(str(folder)), "float32", matmul), matmul, packs)


def require_alike(staged: StagedModel, other: StagedModel, matmul: Matmul, packs: bool) -> None:
    """The vectors of plain weights, padded, and those of another library, up to rounding."""
    has_layers = any(type(part) is torch.nn.Linear for part in staged.module.modules())
    if has_layers and not staged.sides.share_parts():
        assert other.matmul == matmul, "no layer was packed, so nothing is compared"
    for plain, packed in ((staged, other), (staged.for_queries(), other.for_queries())):
        difference = np.abs(encoded(packed, packs=packs) - encoded(plain, packs=False)).max()
        assert difference <= 1e-6, f"the products of {matmul} differ by {difference}"


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_module_has_the_vectors_of_sentence_transformers(
    tiny_models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Catches a module that is left out, sees padding where sentence-transformers has none, or waits for a device."""
    FOLLOWED[name](tmp_path / "model", tiny_models["bert"])
    require_equal(tmp_path / "model")


@pytest.mark.parametrize("mode", [*Pooling.POOLING_MODES, ("mean", "cls", "max")])
def test_each_way_of_pooling(tiny_models: dict[str, Path], tmp_path: Path, mode: object) -> None:
    """Catches a pooling that counts padding, or the tokens of a neighbour."""
    _after(pooling=mode)(tmp_path / "model", tiny_models["bert"])
    # sentence-transformers finds the places of packed tokens by `repeat_interleave`, whose size the device knows.
    require_equal(tmp_path / "model", {"aten.repeat_interleave.self_Tensor": 2} if mode == "weightedmean" else {})


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_of_another_kind_is_refused_by_what_it_is(
    tiny_models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Catches a KeyError or a shape in the place of the reason, and an advice that does not help."""
    make, what = REFUSED[name]
    make(tmp_path / "model", tiny_models["bert"])
    sentence = rf"^model cannot be loaded from .*: it is {what}.*; choose a dense text encoder"
    with pytest.raises(ModelLoadError, match=sentence):
        require_encoder(resolve(str(tmp_path / "model")), tmp_path / "model")
