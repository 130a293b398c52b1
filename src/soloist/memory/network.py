"""A pipeline without weights, built from its blueprint. Knows torch, transformers and sentence-transformers' modules.

Weights are counted on the whole network. A pass is traced on a network of two layers where the activations of a layer
die with it: a small trace of three layers shows that. Otherwise the whole network is traced. DeBERTa, for example,
keeps the output of every layer until the pass is over.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForTextEncoding
from transformers.utils import logging as transformers_logging

from soloist.errors import PredictionError
from soloist.memory.cards import Card
from soloist.memory.tracing import Features, Trace, fake_module, trace_forward
from soloist.models.blueprint import ENCODERS_OF_PAIRS, WITHOUT_PREDICTION, Blueprint, hidden_size, own_code_text
from soloist.models.token_weights import TokenWeights
from soloist.types import DType
from soloist.wording import first_line

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TRACED_LAYERS = 2
# Tensors that are kept for every layer show in a batch of any size.
_PROBE_ROWS, _PROBE_LENGTH = 2, 16
_LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers")

# transformers keeps the default dtype of a construction in a global.
_building = threading.Lock()
# By the digests of blueprints.
_deepening: dict[str, bool] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSizes:
    """The tensors that a replica copies to its device, in bytes, in the order in which it copies them."""

    sizes_bytes: tuple[int, ...]
    parameters: int
    embedding_parameters: int

    @property
    def total_bytes(self) -> int:
        """Their sum, before any rounding."""
        return sum(self.sizes_bytes)


class Network:
    """A pipeline on the meta device, from features to vectors, as in sentence-transformers."""

    def __init__(self, blueprint: Blueprint, dtype: DType, *, layers: int | None = None) -> None:
        self._blueprint = blueprint
        with _building, _quiet(), torch.device("meta"):
            self._transformer = None if blueprint.is_static else _transformer(blueprint, TORCH_DTYPES[dtype], layers)
            self._modules = _modules(blueprint, TORCH_DTYPES[dtype])
        for module in self._parts():
            module.eval().requires_grad_(False)
        forward = self._transformer.forward if self._transformer is not None else None
        self._mode: FakeTensorMode | None = None
        self._taken = set(inspect.signature(forward).parameters) if forward is not None else set()

    @property
    def layers(self) -> int:
        """The number of layers; 0 where the configuration does not say, and the network was not shortened."""
        config = self._transformer.config if self._transformer is not None else None
        return next((n for name in _LAYER_FIELDS if isinstance(n := getattr(config, name, None), int)), 0)

    def weights(self) -> WeightSizes:
        """The sizes of parameters and then of buffers."""
        tensors = [t for part in self._parts() for t in part.parameters()]
        buffers = [t for part in self._parts() for t in part.buffers()]
        unique = {id(t): t for t in (*tensors, *buffers)}.values()
        return WeightSizes(
            sizes_bytes=tuple(t.nbytes for t in unique),
            parameters=sum(t.numel() for t in tensors),
            embedding_parameters=self._embedding_parameters(),
        )

    def trace(self, rows: int, length: int, card: Card, *, masked: bool) -> Trace:
        """The storages of a batch of `rows` times `length` tokens; `masked` where some row is padded."""
        try:
            return self._traced(rows, length, card, masked=masked)
        except PredictionError:
            raise
        except Exception as exc:
            # A network may read its own values, or an operator may have no fake kernel: torch has many errors for that.
            raise PredictionError(
                f"{self._blueprint.source} cannot be traced ({type(exc).__name__}: {first_line(exc)}), so its memory "
                f"cannot be predicted: {WITHOUT_PREDICTION}"
            ) from exc

    def _traced(self, rows: int, length: int, card: Card, *, masked: bool) -> Trace:
        if self._mode is None:  # once: it takes a fifth of a trace
            self._mode = FakeTensorMode()
            for part in self._parts():
                fake_module(part, self._mode)
        weights = [tensor for part in self._parts() for tensor in (*part.parameters(), *part.buffers())]
        shape = torch.Size((rows * length,)) if self._blueprint.is_static else torch.Size((rows, length))
        shapes = {name: torch.Size((rows,)) if name == "offsets" else shape for name in self._blueprint.input_names}
        return trace_forward(self._forward, weights, shapes, card, self._mode, masked=masked)

    def _forward(self, features: Features) -> torch.Tensor:
        if self._transformer is not None:
            taken = {name: tensor for name, tensor in features.items() if name in self._taken}
            output = self._transformer(**taken, return_dict=True)
            features["token_embeddings"] = output["last_hidden_state" if self._blueprint.splade is None else "logits"]
            del output
        for module in self._modules:
            features = module(features)
        return features["sentence_embedding"]

    def _parts(self) -> list[torch.nn.Module]:
        return [part for part in (self._transformer, *self._modules) if part is not None]

    def _embedding_parameters(self) -> int:
        kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        tables = [table for part in self._parts() for table in part.modules() if isinstance(table, kinds)]
        return sum(int(table.weight.numel()) for table in tables)


def network_to_trace(blueprint: Blueprint, dtype: DType, card: Card) -> Network:
    """The smallest network whose passes have the peaks of the whole network: two layers, or all.

    Raises:
        PredictionError: the network cannot be built from the blueprint.
    """
    short = Network(blueprint, dtype, layers=TRACED_LAYERS)
    if blueprint.is_static:
        return short
    if blueprint.digest not in _deepening:
        _deepening[blueprint.digest] = _deepens(short, Network(blueprint, dtype, layers=short.layers + 1), card)
    return Network(blueprint, dtype) if _deepening[blueprint.digest] else short


def _deepens(short: Network, longer: Network, card: Card) -> bool:
    """Whether one more layer needs more memory at the peak, or more storages where another part has the peak.

    False for a network that cannot be traced: its next trace raises the error.
    """
    try:
        traces = [net.trace(_PROBE_ROWS, _PROBE_LENGTH, card, masked=True) for net in (short, longer)]
    except PredictionError:
        return False
    return len({(trace.peak_bytes, trace.most_storages) for trace in traces}) > 1


class _StaticTable(torch.nn.Module):
    """The forward pass of sentence-transformers' StaticEmbedding, without its tokenizer."""

    def __init__(self, rows: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(rows, dim, dtype=dtype)

    def forward(self, features: Features) -> Features:
        features["sentence_embedding"] = self.embedding(features["input_ids"], features["offsets"])
        return features


def _transformer(blueprint: Blueprint, dtype: torch.dtype, layers: int | None) -> torch.nn.Module:
    fields = dict(blueprint.config)
    _require_known_kind(blueprint)
    architecture = _architecture(blueprint)
    try:
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        if hasattr(config, "use_cache"):
            config.use_cache = False  # as in sentence-transformers: keys and values die with their layer
        if layers is not None:
            _shorten(config, layers)
        network: torch.nn.Module = architecture.from_config(config, dtype=dtype)
    except Exception as exc:
        # A configuration class or a network may raise anything for wrong or foreign values.
        raise PredictionError(
            f"no network can be built from the configuration of {blueprint.source} ({type(exc).__name__}: "
            f"{first_line(exc)}): complete its config.json"
        ) from exc
    _keep_in_float32(network, dtype)
    return network


def _architecture(blueprint: Blueprint) -> Any:
    if blueprint.splade is not None:
        return AutoModelForMaskedLM
    return AutoModelForTextEncoding if blueprint.config.get("model_type") in ENCODERS_OF_PAIRS else AutoModel


def _require_known_kind(blueprint: Blueprint) -> None:
    kind = blueprint.config.get("model_type")
    if kind is None or kind in CONFIG_MAPPING:
        return
    if "auto_map" in blueprint.config:
        raise PredictionError(own_code_text(blueprint.source))
    raise PredictionError(
        f"{blueprint.source} has a network of the kind {kind}, which this version of transformers does not know: "
        f"{WITHOUT_PREDICTION}"
    )


def _keep_in_float32(network: Any, dtype: torch.dtype) -> None:
    """Keep the modules in float32 that a load keeps, such as a projection of T5."""
    kept = set(getattr(network, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, module in network.named_modules():
        if dtype != torch.float32 and kept & set(name.split(".")):
            module.to(torch.float32)


def _shorten(config: Any, layers: int) -> None:
    for name in _LAYER_FIELDS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(layers, getattr(config, name)))
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, list) and kinds:
        # One layer of each kind: a sliding window and full attention need different masks.
        distinct = list(dict.fromkeys(kinds))
        config.layer_types = (distinct * layers)[: max(layers, len(distinct))]
        for name in _LAYER_FIELDS:
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, len(config.layer_types))


def _modules(blueprint: Blueprint, dtype: torch.dtype) -> list[torch.nn.Module]:
    if blueprint.static_shape is not None:
        modules: list[torch.nn.Module] = [_StaticTable(*blueprint.static_shape, dtype)]
    elif blueprint.splade is not None:
        splade = blueprint.splade
        modules = [SpladePooling(splade.pooling_strategy, splade.activation_function)]
    elif blueprint.head == "sparse":
        return [_token_weights(blueprint, dtype)]
    else:
        modules = [Pooling(_hidden_size(blueprint), pooling_mode=blueprint.pooling)]
    modules += [Dense(d.in_features, d.out_features, bias=d.bias).to(dtype) for d in blueprint.dense]
    modules += [Normalize()] if blueprint.normalize else []
    return [*modules, _token_weights(blueprint, dtype)] if blueprint.head == "both" else modules


def _token_weights(blueprint: Blueprint, dtype: torch.dtype) -> TokenWeights:
    width = _hidden_size(blueprint)
    beside = blueprint.dense[-1].out_features if blueprint.dense else width * len(blueprint.pooling)
    words = blueprint.config["vocab_size"]
    return TokenWeights(width, words, beside=beside if blueprint.head == "both" else None).to(dtype)


def _hidden_size(blueprint: Blueprint) -> int:
    size = hidden_size(blueprint.config)
    if size is None:
        raise PredictionError(f"{blueprint.source} has no hidden_size: add it to its config.json")
    return size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing advice to stderr while a network without weights is built."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
