"""Why a folder is refused that is not a complete text encoder, dense or sparse. Knows files; no torch, no weights.

`embed` asks before it loads a model, and `plan` before it predicts one, so both say the same. A refusal is a sentence
with the reason, the file at fault and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from soloist.errors import ModelLoadError
from soloist.extras import install_command
from soloist.models.adapters import Adapter, adapter_in, can_load_adapters
from soloist.models.damage import GET_AGAIN, damage_in
from soloist.models.fingerprint import settings_files
from soloist.models.location import weight_files
from soloist.models.module_list import faults_in_list
from soloist.models.pipeline import ModuleEntry, RouteError, Task, modules_for, modules_of
from soloist.models.sparse_folders import (
    MASKED_WORDS,
    SPARSE_MODULES,
    SPARSE_TYPE,
    TOKEN_WEIGHTS_FILE,
    faults_of_sparse_encoder,
    faults_of_token_weights,
    kind_of_folder,
)
from soloist.models.spec import ModelSpec
from soloist.requirements import too_old

CHOOSE_DENSE = "choose a dense text encoder"

_SPARSE = "a sparse encoder (such as SPLADE), which gives every word of its vocabulary a weight"
# For a folder with modules of a sparse encoder whose settings do not say that it is one.
_SAVE_AS_SPARSE = f", or save it with {SPARSE_TYPE}.save"
_RERANKER = "a cross-encoder, which scores pairs of texts"
_MULTI_VECTOR = "a late-interaction model (such as ColBERT), which gives a vector for each token"
_PICTURES = "a model of pictures and their captions (such as CLIP)"
_WORDS = "a model of whole words, for which transformers has no tokenizer"
# By the model_type of config_sentence_transformers.json.
_MODEL_TYPES: Mapping[str, str] = {
    "CrossEncoder": _RERANKER,
    "MultiVectorEncoder": _MULTI_VECTOR,
    "ColBERT": _MULTI_VECTOR,
}
# Modules of sentence-transformers that no dense text encoder has, or whose vectors depend on the rows beside a text.
_MODULES: Mapping[str, str] = {
    **dict.fromkeys(SPARSE_MODULES, _SPARSE),
    "LogitScore": _RERANKER,
    "MultiVectorMask": _MULTI_VECTOR,
    "BaseTokenPooling": _MULTI_VECTOR,
    "HierarchicalTokenPooling": _MULTI_VECTOR,
    "LambdaTokenPooling": _MULTI_VECTOR,
    "CLIPModel": _PICTURES,
    "BoW": "a bag of words, which counts words and has no network",
    "WordEmbeddings": _WORDS,
    "LSTM": _WORDS,
    "CNN": "a convolution over tokens, whose vectors change with the padding of a row",
}
# By the transformer_task of sentence_bert_config.json.
_TASKS: Mapping[str, str] = {
    "sequence-classification": _RERANKER,
    "text-generation": "a model that writes text",
    "any-to-any": "a model that writes text",
    MASKED_WORDS: _SPARSE,
    "retrieval": _MULTI_VECTOR,
}
# By the model_type of config.json.
_OTHER_NETWORKS: Mapping[str, str] = dict.fromkeys(
    ("clip", "chinese_clip", "siglip", "siglip2", "align", "altclip", "blip", "clipseg", "vit", "dinov2"), _PICTURES
)
# By the end of a network's class, for folders without modules.json.
_ARCHITECTURES: Mapping[str, str] = {
    "ForSequenceClassification": _RERANKER,
    "HF_ColBERT": _MULTI_VECTOR,
    "CLIPModel": _PICTURES,
}
_SIDES: tuple[Task, ...] = ("document", "query")
_NETWORK_MODULES = ("Transformer", "MLMTransformer")
# A pipeline of these modules alone gives a vector for each token, since no Pooling is among them.
_KEEPING_TOKENS = ("Transformer", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling", "WordWeights")


def require_encoder(spec: ModelSpec, folder: Path, *, with_weights: bool = True) -> None:
    """Refuse a folder that is not a text encoder that soloist follows, or lacks a file that its modules read.

    Without `with_weights` the weights may be missing, if they are missing altogether.

    Raises:
        ModelLoadError: it is such a folder. The message says what it is instead, or what is wrong with which file.
    """
    if spec.loader == "wordllama":
        return
    try:
        complaint = next(_complaints(spec, folder, with_weights), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        complaint = f"its files do not fit together ({_first_line(exc)}): {GET_AGAIN}"
    if complaint is not None:  # its files are named without the folder, which is named already
        raise ModelLoadError(f"{spec.name} cannot be loaded from {folder}: {complaint.replace(f'{folder}/', '')}")


def _complaints(spec: ModelSpec, folder: Path, with_weights: bool) -> Iterator[str]:
    """All complaints, in an order in which every check may rely on the checks before it."""
    if not (folder / "modules.json").is_file():
        yield _without_modules(folder)
        return
    yield from damage_in((folder / "modules.json", folder / "config_sentence_transformers.json"))
    yield from damage_in((*folder.glob("router_config.json"), *folder.glob("*/router_config.json")))
    yield from _of_another_kind(folder)
    yield from _unroutable(folder)
    yield from faults_in_list(spec, folder, with_code=with_weights)
    yield from damage_in(settings_files(folder))
    if spec.head != "dense":
        yield from faults_of_token_weights(folder, may_lack=not with_weights and not Path(spec.source).is_dir())
        yield from damage_in((folder / TOKEN_WEIGHTS_FILE,))
    for module in modules_of(folder):
        if module.is_of_the_library:
            yield from _incomplete(module)
    for task in _SIDES:
        yield from _tokenless(modules_for(folder, task))
    if with_weights or has_weights(folder):
        yield from _without_weights(folder)
        yield from damage_in(weight_files(folder))
    else:
        yield from (text for module_folder in _networks(folder) for text in in_other_formats(module_folder))


def _of_another_kind(folder: Path) -> Iterator[str]:
    config = _json(folder / "config_sentence_transformers.json")
    kind = str(config.get("model_type", "SentenceTransformer"))
    is_sparse = kind == SPARSE_TYPE
    if kind != "SentenceTransformer" and not is_sparse:
        what = _MODEL_TYPES.get(kind, f"a {kind}, which gives no dense vectors")
        yield f"it is {what} ({kind} in config_sentence_transformers.json); {CHOOSE_DENSE}"
    if str(config.get("similarity_fn_name", "")).lower() == "maxsim":
        yield f"it is {_MULTI_VECTOR} (MaxSim in config_sentence_transformers.json); {CHOOSE_DENSE}"
    for module in modules_of(folder):
        if module.type.startswith("pylate."):
            yield f"it is {_MULTI_VECTOR} ({module.type} in modules.json); {CHOOSE_DENSE}"
        if module.is_of_the_library and module.kind in _MODULES and not (is_sparse and module.kind in SPARSE_MODULES):
            what = _MODULES[module.kind]
            yield f"it is {what} ({module.kind} in modules.json); {CHOOSE_DENSE}{_way_to_sparse(what)}"
        if module.is_of_the_library and module.kind in _NETWORK_MODULES:
            yield from _other_transformer(module.folder, is_sparse)


def _way_to_sparse(what: str) -> str:
    return _SAVE_AS_SPARSE if what == _SPARSE else ""


def _other_transformer(folder: Path, is_sparse: bool) -> Iterator[str]:
    settings = transformer_settings(folder)
    task = str(settings.get("transformer_task"))
    if task in _TASKS and not (is_sparse and task == MASKED_WORDS):
        what = _TASKS[task]
        yield f"it is {what} (its transformer_task is {task}); {CHOOSE_DENSE}{_way_to_sparse(what)}"
    inputs = settings.get("modality_config") or {"text": {}}
    if "text" not in inputs:
        yield f"it reads {', '.join(inputs)}, not plain text (modality_config); {CHOOSE_DENSE}"
    network = str(_json(folder / "config.json").get("model_type"))
    if network in _OTHER_NETWORKS:
        yield f"it is {_OTHER_NETWORKS[network]} (model_type {network} in {folder / 'config.json'}); {CHOOSE_DENSE}"


def _unroutable(folder: Path) -> Iterator[str]:
    for task in _SIDES:
        try:
            modules_for(folder, task)
        except RouteError as exc:
            yield f"{exc}, so it has no vectors in sentence-transformers either: name its routes document and query"
    if kind_of_folder(folder) == "sparse":
        yield from faults_of_sparse_encoder(folder)


def _incomplete(module: ModuleEntry) -> Iterator[str]:
    """Files that a module's class reads and that are missing or unusable."""
    needed = _NEEDED.get(module.kind)
    if needed is not None:
        yield from needed(module.folder)


def _needs_network(folder: Path) -> Iterator[str]:
    adapter = adapter_in(folder)
    if adapter is not None:
        yield from _unloadable(adapter)
    elif not (folder / "config.json").is_file():
        yield f"{folder / 'config.json'} is missing; {GET_AGAIN}"
    else:
        yield from quantised(folder / "config.json")


def _needs_config(folder: Path) -> Iterator[str]:
    if not (folder / "config.json").is_file():
        yield f"{folder / 'config.json'} is missing; {GET_AGAIN}"


def _needs_both(folder: Path) -> Iterator[str]:
    yield from _needs_config(folder)
    if not any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        yield f"{folder / 'model.safetensors'} is missing; {GET_AGAIN}"


def _needs_tokenizer(folder: Path) -> Iterator[str]:
    if not (folder / "tokenizer.json").is_file():
        yield f"{folder / 'tokenizer.json'} is missing; {GET_AGAIN}"


def _needs_table(folder: Path) -> Iterator[str]:
    yield from _needs_both(folder)
    yield from _needs_tokenizer(folder)


_NEEDED: Mapping[str, Callable[[Path], Iterator[str]]] = {
    "Transformer": _needs_network,
    "MLMTransformer": _needs_network,
    "SpladePooling": _needs_config,
    "SparseStaticEmbedding": _needs_table,
    "Pooling": _needs_config,
    "Dropout": _needs_config,
    "Dense": _needs_both,
    "LayerNorm": _needs_both,
    "WeightedLayerPooling": _needs_both,
    "WordWeights": _needs_config,
    "StaticEmbedding": _needs_tokenizer,
}
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tekken.json")
# Tokenizers of bytes and characters, which have no vocabulary.
_WITHOUT_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def _unloadable(adapter: Adapter) -> Iterator[str]:
    what = f"it holds a {adapter.kind} adapter ({adapter.folder / 'adapter_config.json'}) and not a whole model"
    merge = "or merge it into its base and save that whole model"
    if not adapter.base:
        yield f"{what}, and does not name its base: add base_model_name_or_path to that file, {merge}"
    if not can_load_adapters():
        old = too_old("peft")
        there = f", and the installed peft {old.installed} is too old ({old.needed})" if old else ""
        yield (
            f"{what}, of the base {adapter.base}{there}: run {install_command('peft')} to load it on its base, {merge}"
        )
    if adapter.base_folder is None:
        yield (
            f"{what}, and its base {adapter.base} is not on this machine: put the base there or name its folder as "
            f"base_model_name_or_path in that file, {merge}"
        )
    if adapter.weights is None:
        yield f"{what}, whose adapter_model.safetensors is missing; {GET_AGAIN}"


def quantised(path: Path) -> Iterator[str]:
    """A complaint where the configuration of a network says that its weights are quantised."""
    settings = _json(path).get("quantization_config")
    if isinstance(settings, dict):
        method = settings.get("quant_method") or next(
            ("bitsandbytes" for name in ("load_in_4bit", "load_in_8bit") if settings.get(name)), "an unknown method"
        )
        yield (
            f"its weights are quantised by {method} (quantization_config in {path}), and soloist does not compute with "
            "such weights: choose the model from which this one was made"
        )


def _tokenless(modules: tuple[ModuleEntry, ...]) -> Iterator[str]:
    """Complaints where no module makes one vector of a text, or no file says how a text becomes tokens."""
    if not modules:
        yield "its modules.json has no modules: save the model's pipeline again"
        return
    first = modules[0]
    if not first.is_of_the_library or first.kind not in _NETWORK_MODULES:
        return
    tokenizer = _json(first.folder / "tokenizer_config.json").get("tokenizer_class")
    if tokenizer not in _WITHOUT_VOCABULARY and not [f for end in _VOCABULARIES for f in first.folder.glob(end)]:
        yield f"{first.folder / 'tokenizer.json'} is missing; {GET_AGAIN}"
    whole = transformer_settings(first.folder).get("module_output_name") == "sentence_embedding"
    if not whole and all(m.is_of_the_library and m.kind in _KEEPING_TOKENS for m in modules):
        yield (
            f"it is {_MULTI_VECTOR} (its modules.json has no Pooling); {CHOOSE_DENSE}, or add a Pooling module if its "
            "tokens are meant to be pooled"
        )


def has_weights(folder: Path) -> bool:
    """Whether some of a model's weights are there: a file that is not empty."""
    return any(file.is_file() and file.stat().st_size for file in weight_files(folder))


def _without_weights(folder: Path) -> Iterator[str]:
    files = weight_files(folder)
    missing = [file for file in files if not file.is_file()]
    if missing:
        index = next(iter(sorted(missing[0].parent.glob("*.index.json"))), "its index")
        yield f"{missing[0].name} is missing, but {index} lists it; {GET_AGAIN}"
    else:
        networks = _networks(folder)
        bare = (p for p in networks if adapter_in(p) is None and not any(file.parent == p for file in files))
        wanting = next(bare, folder if not files and not networks else None)
        if wanting is not None:
            yield next(in_other_formats(wanting), _missing_text(wanting))


def _networks(folder: Path) -> list[Path]:
    return [
        m.folder for m in modules_of(folder) if m.is_of_the_library and m.kind in (*_NETWORK_MODULES, "StaticEmbedding")
    ]


# Files of weights that soloist does not compute with, and what they are.
_FORMATS: Mapping[str, str] = {
    "*.gguf": "GGUF (llama.cpp)",
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
    "openvino/*.xml": "OpenVINO",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "*.mlmodel*": "Core ML",
    "*.pt": "a pickle of torch",
    "*.pth": "a pickle of torch",
    "*.pkl": "a pickle",
}


def _missing_text(folder: Path) -> str:
    return f"{folder / 'model.safetensors'} is missing; {GET_AGAIN}"


def in_other_formats(folder: Path) -> Iterator[str]:
    """Complaints about weights that are there, in formats that soloist does not compute with."""
    for pattern, what in _FORMATS.items():
        for file in sorted(folder.glob(pattern)):
            yield (
                f"its weights are there only as {what} ({file.relative_to(folder)}), and soloist computes with torch: "
                "get the model's model.safetensors"
            )


def _without_modules(folder: Path) -> str:
    """Why a folder without modules.json is refused: its pooling would be a guess, and a guess gives vectors too."""
    complaint = next(damage_in((folder / "config.json", folder / "adapter_config.json")), None)
    if complaint is not None:
        return complaint
    lacking = "it has no modules.json that says how to pool"
    adapter = adapter_in(folder)
    if adapter is not None:
        return next(_unloadable(adapter), None) or (
            f"it holds a {adapter.kind} adapter of {adapter.base}, and {lacking[3:]}: load it with SentenceTransformer "
            "and its pooling, and save the result with SentenceTransformer.save"
        )
    config = _json(folder / "config.json")
    if config:
        return _plain_network(folder, config, lacking)
    below = sorted((*folder.glob("*/modules.json"), *folder.glob("snapshots/*/modules.json")))  # of the hub's cache
    if below:
        return f"{lacking}, and its folder {below[0].parent.relative_to(folder)} has one: name that folder"
    return next(in_other_formats(folder), f"{lacking}; save the model with SentenceTransformer.save")


def _plain_network(folder: Path, config: Mapping[str, Any], lacking: str) -> str:
    named = [str(name) for name in config.get("architectures") or []]
    kind = next((what for end, what in _ARCHITECTURES.items() for name in named if name.endswith(end)), None)
    kind = kind or _OTHER_NETWORKS.get(str(config.get("model_type")))
    if config.get("model_type") == "model2vec" or "StaticModel" in named:
        return (
            "it is a table of model2vec without a modules.json: add a modules.json that lists "
            "sentence_transformers.models.StaticEmbedding at the path . and, where config.json has normalize, "
            "sentence_transformers.models.Normalize at 1_Normalize"
        )
    if kind is None and (folder / "artifact.metadata").is_file():
        kind = _MULTI_VECTOR
    if kind is None and not [file for end in ("*.safetensors", "*.bin") for file in folder.glob(end)]:
        return next(in_other_formats(folder), _missing_text(folder))
    if kind is not None:
        return f"it is {kind} ({', '.join(named) or config.get('model_type')} in config.json); {CHOOSE_DENSE}"
    return (
        f"{lacking}, like every plain transformers folder; choose the pooling that the model was trained with, "
        "and save the model with SentenceTransformer.save"
    )


def transformer_settings(folder: Path) -> Mapping[str, Any]:
    """The settings of a Transformer module, from the first of its files that is there; empty without one."""
    files = sorted(folder.glob("sentence_*_config.json"), key=lambda file: file.name != "sentence_bert_config.json")
    return _json(files[0]) if files else {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
