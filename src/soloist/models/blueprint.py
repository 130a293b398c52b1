"""The shape of a model's network, from which its memory can be computed without weights. Pure; no torch, no network.

A blueprint comes from a model's folder or, for a model that is not on this machine, from the catalogue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from soloist.errors import PredictionError
from soloist.models.pipeline import ModuleEntry, modules_for
from soloist.types import DType, Head

INPUT_NAMES = ("input_ids", "attention_mask")
_WITH_TOKEN_TYPES = ("BertTokenizer", "BertTokenizerFast")
# The sizes that decide the memory of every network, by the names that families have for them.
_SIZES = (
    ("hidden_size", "n_embd", "dim", "d_model"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("num_attention_heads", "n_head", "n_heads"),
    ("vocab_size",),
    ("intermediate_size", "n_inner", "d_inner", "ffn_dim", "hidden_dim", "d_ff"),
)
# sentence-transformers loads only the encoder of these encoder-decoders.
ENCODERS_OF_PAIRS = ("t5", "mt5", "umt5")
# Their names for the sizes of the other families.
_NAMES_OF_PAIRS = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "head_dim": "d_kv",
}
WITHOUT_PREDICTION = "plan without this model, and in a run set its token_budget"
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseShape:
    """A linear module after the pooling."""

    in_features: int
    out_features: int
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpladeShape:
    """A SpladePooling: what a sparse encoder makes of a network's predictions of masked words."""

    pooling_strategy: str = "max"
    activation_function: str = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A sentence-transformers pipeline: a transformer, pooling and later modules, or a static table of vectors.

    With `splade` the transformer predicts masked words, so a batch has a number for each token and each word of the
    vocabulary, and `pooling` does not count.

    `head` is that of `ModelSpec`: other than with `dense` a layer gives each token a weight.

    `config` has the fields of the transformers configuration, `model_type` among them; it is empty for a static model,
    whose table is `static_shape`. `checkpoint_bytes` is the size of the published weights.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[DenseShape, ...] = ()
    normalize: bool = False
    splade: SpladeShape | None = None
    head: Head = "dense"
    input_names: tuple[str, ...] = INPUT_NAMES
    static_shape: tuple[int, int] | None = None
    checkpoint_dtype: DType = "float32"
    checkpoint_bytes: int | None = None
    source: str = ""

    @property
    def is_static(self) -> bool:
        """Whether the model only looks up token vectors and averages them."""
        return self.static_shape is not None

    def __str__(self) -> str:
        """The kind of network, and the source of the blueprint."""
        if self.static_shape is not None:
            return f"a static table of {self.static_shape[0]} x {self.static_shape[1]}, from {self.source}"
        return f"{self.config.get('model_type', 'a network')}, from {self.source}"

    @property
    def digest(self) -> str:
        """16 hex digits over all fields that decide the memory."""
        decisive = {key: value for key, value in asdict(self).items() if not key.startswith(("checkpoint", "source"))}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_blueprint(folder: Path) -> Blueprint:
    """The blueprint of a sentence-transformers folder, from its configuration files; weights may be missing.

    Raises:
        PredictionError: a file or a field is missing, or the memory of a kind of module is unknown.
    """
    blueprint = Blueprint(source=str(folder))
    for module in _modules(folder):
        changes = _read_module(module.kind, module.folder)
        blueprint = Blueprint(**{**_fields(blueprint), **_joined(blueprint, changes)})
    if not blueprint.config and blueprint.static_shape is None:
        raise PredictionError(
            f"{folder} has no transformer in its modules.json, so its memory cannot be predicted: {WITHOUT_PREDICTION}"
        )
    return blueprint


def _input_names(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors from the tokenizer, which are moved to a device: by its own list, its class, or the network."""
    path = folder / "tokenizer_config.json"
    tokenizer = _object(path) if path.is_file() else {}
    named = tokenizer.get("model_input_names")
    if isinstance(named, list):
        return tuple(named)
    kind = tokenizer.get("tokenizer_class")
    two_kinds = config.get("type_vocab_size", 0) > 1 if kind is None else kind in _WITH_TOKEN_TYPES
    return (*INPUT_NAMES, "token_type_ids") if two_kinds else INPUT_NAMES


def _modules(folder: Path) -> tuple[ModuleEntry, ...]:
    """The modules of documents: no other module is on a device."""
    try:
        return modules_for(folder, "document")
    except (OSError, ValueError, LookupError) as exc:
        raise PredictionError(f"{folder} does not list its modules ({exc}): save the model again") from exc


def _fields(blueprint: Blueprint) -> dict[str, Any]:
    return {name: getattr(blueprint, name) for name in Blueprint.__slots__}


def _joined(blueprint: Blueprint, changes: dict[str, Any]) -> dict[str, Any]:
    if "dense" in changes:
        return {"dense": (*blueprint.dense, *changes["dense"])}
    return changes


def _read_module(kind: str, folder: Path) -> dict[str, Any]:
    match kind:
        case "Transformer" | "MLMTransformer" if (folder / "adapter_config.json").is_file():
            raise PredictionError(
                f"{folder} holds an adapter on a base model, whose memory cannot be predicted: {WITHOUT_PREDICTION}"
            )
        case "Transformer" | "MLMTransformer":
            config = _usual_names(_object(folder / "config.json"))
            _require_sizes(config, folder / "config.json")
            return {
                "config": config,
                "input_names": _input_names(folder, config),
                "checkpoint_dtype": _checkpoint_dtype(config),
            }
        case "Pooling":
            return {"pooling": _pooling(_object(folder / "config.json"))}
        case "SpladePooling":
            config = _object(folder / "config.json")
            return {"splade": SpladeShape(**{name: config[name] for name in SpladeShape.__slots__ if name in config})}
        case "Dense":
            config = _object(folder / "config.json")
            names = ("in_features", "out_features")
            sizes = {name: _needed(config, name, folder / "config.json") for name in names}
            return {"dense": (DenseShape(**sizes, bias=bool(config.get("bias", True))),)}
        case "Normalize":
            return {"normalize": True}
        case "Dropout":
            return {}
        case "StaticEmbedding":
            return {"static_shape": table_shape(folder / "model.safetensors"), "input_names": ("input_ids", "offsets")}
    raise PredictionError(f"{folder} has a module {kind}, whose memory cannot be predicted: {WITHOUT_PREDICTION}")


def _checkpoint_dtype(config: Mapping[str, Any]) -> DType:
    """The dtype of the stored weights, by either name of transformers; float32 where there is none."""
    named = config.get("dtype", config.get("torch_dtype"))
    return next((dtype for dtype in get_args(DType) if dtype == named), "float32")


def _usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the usual names of its sizes beside its own names."""
    if config.get("model_type") not in ENCODERS_OF_PAIRS:
        return config
    return {**config, **{name: config[own] for name, own in _NAMES_OF_PAIRS.items() if own in config}}


def hidden_size(config: Mapping[str, Any]) -> int | None:
    """The width of a network, by its family's name for it."""
    return next((size for name in _SIZES[0] if isinstance(size := config.get(name), int)), None)


def _require_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration without a size: transformers would take a default instead."""
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") and kind not in ENCODERS_OF_PAIRS:
        raise PredictionError(
            f"{path} is that of an encoder with a decoder ({kind}), whose memory cannot be predicted: "
            f"{WITHOUT_PREDICTION}"
        )
    for names in _SIZES:
        if not any(isinstance(config.get(name), int) for name in names):
            if "auto_map" in config:
                raise PredictionError(own_code_text(str(path)))
            raise PredictionError(f"{path} has no {names[0]}, so the memory cannot be predicted: add it")


def own_code_text(folder: str) -> str:
    """Why nothing is predicted for a network whose configuration refers to the model's own code."""
    return (
        f"{folder} is of a network whose code comes with the model (auto_map). No prediction runs such code, so its "
        f"memory cannot be predicted: {WITHOUT_PREDICTION}"
    )


def _pooling(config: Mapping[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if isinstance(modes, str):
        return (modes,)
    if isinstance(modes, (list, tuple)):
        return tuple(modes)
    return tuple(mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)) or ("mean",)


def table_shape(weights: Path) -> tuple[int, int]:
    """The shape of a static table as it is loaded, with a row for each token, from the header of its file."""
    header = safetensors_header(weights)
    shapes = [tuple(tensor["shape"]) for tensor in header.values() if len(tensor["shape"]) == 2]
    if len(shapes) != 1:
        raise PredictionError(
            f"{weights} has {len(shapes)} tables, not one, so its memory cannot be predicted: {WITHOUT_PREDICTION}"
        )
    mapping = header.get("mapping")  # of model2vec: tokens that share a row
    return (mapping["shape"][0], shapes[0][1]) if mapping is not None else shapes[0]


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: `dtype`, `shape` and `data_offsets` of its tensors, by name. Reads no weights.

    Raises:
        PredictionError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError, MemoryError, OverflowError) as exc:
        raise PredictionError(f"{path} cannot be read ({exc}): copy or download it again") from exc
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _needed(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int):
        raise PredictionError(f"{path} has no {name}, so the memory cannot be predicted: add it")
    return value


def _object(path: Path) -> Mapping[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise PredictionError(f"{path} is not a JSON object, so the memory cannot be predicted: save the model again")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise PredictionError(
            f"{path} cannot be read ({exc}), so the memory cannot be predicted: save the model again"
        ) from exc
