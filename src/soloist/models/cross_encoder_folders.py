"""Why a model or a folder is refused that is not a cross-encoder with one score for a pair. Knows files; no torch.

sentence-transformers makes a cross-encoder of nearly every folder: it adds a head with random weights, and the scores
mean nothing. Here a folder has to have a head of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError, ModelLoadError
from soloist.models.adapters import ADAPTER_CONFIG
from soloist.models.built_in import BUILT_IN_SPECS
from soloist.models.damage import GET_AGAIN, damage_in
from soloist.models.location import weight_files
from soloist.models.refusals import in_other_formats, quantised
from soloist.models.spec import ModelSpec

CROSS_ENCODER = "CrossEncoder"
CHOOSE_CROSS = "choose a cross-encoder, which scores a question with a chunk"

_EMBEDS = "a model of vectors, which gives every text a vector of its own and no score for a pair"
# By the model_type of config_sentence_transformers.json, which older files lack.
_OTHER_TYPES: Mapping[str, str] = {
    "SentenceTransformer": _EMBEDS,
    "SparseEncoder": "a sparse encoder, which gives every text weights of words and no score for a pair",
}
_SCORING_HEAD = "ForSequenceClassification"
_BUILT_IN_NAMES = {spec.name for spec in BUILT_IN_SPECS}
_BUILT_IN_SOURCES = {spec.source.lower() for spec in BUILT_IN_SPECS}


def require_reranker(spec: ModelSpec) -> None:
    """Refuse a spec that cannot be a cross-encoder, before its files are looked for.

    Raises:
        ConfigError: it is one of the models of vectors or words that soloist knows by name, or it has a prompt of
            queries or documents.
    """
    if spec.source.lower() in _BUILT_IN_SOURCES or (spec.name in _BUILT_IN_NAMES and spec.loader == "wordllama"):
        what = "the words of the texts" if spec.kind == "lexical" else _EMBEDS
        raise ConfigError(f"{spec.name} cannot rerank, because it is {what}: {CHOOSE_CROSS}")
    if spec.document_prompt or spec.query_prompt:
        raise ConfigError(
            f"{spec.name} has a prompt of documents or queries in the catalogue, and a cross-encoder reads both "
            "together: remove that prompt from its row"
        )


def require_cross_encoder(spec: ModelSpec, folder: Path) -> None:
    """Refuse a folder that is not a cross-encoder of sentence-transformers with weights of its own.

    Raises:
        ModelLoadError: it is such a folder. The message says what it is instead, or what is wrong with which file.
    """
    complaint = next(_complaints(folder), None)
    if complaint is not None:
        raise ModelLoadError(f"{spec.name} cannot rerank: {complaint.replace(f'{folder}/', '')}")


def _complaints(folder: Path) -> Iterator[str]:
    """All complaints, in an order in which every check may rely on the checks before it."""
    names = ("config.json", "modules.json", "config_sentence_transformers.json", "tokenizer_config.json")
    yield from damage_in(folder / name for name in names)
    if (folder / "modules.json").is_file():
        yield from _of_another_type(folder)
    else:
        yield from _without_a_head(folder)
    if (folder / "config.json").is_file():
        yield from quantised(folder / "config.json")
    weights = weight_files(folder)
    if not weights or not all(file.is_file() for file in weights):
        yield next(in_other_formats(folder), f"model.safetensors is missing in {folder}; {GET_AGAIN}")
    yield from damage_in(weights)


def _of_another_type(folder: Path) -> Iterator[str]:
    kind = str(_object(folder / "config_sentence_transformers.json").get("model_type", "SentenceTransformer"))
    if kind != CROSS_ENCODER:
        what = _OTHER_TYPES.get(kind, f"a {kind} of sentence-transformers")
        yield f"it is {what} ({folder}); {CHOOSE_CROSS}"


def _without_a_head(folder: Path) -> Iterator[str]:
    """Complaints about a plain folder of transformers whose network has no head that scores."""
    if (folder / ADAPTER_CONFIG).is_file():
        yield f"{folder} holds an adapter and not a whole model: merge it into its base and save that whole model"
    config = _object(folder / "config.json")
    if not config:
        yield f"{folder / 'config.json'} is missing in {folder}; {GET_AGAIN}"
    named = [str(name) for name in config.get("architectures") or []]
    if not any(name.endswith(_SCORING_HEAD) for name in named):
        yield (
            f"the network in {folder} is {', '.join(named) or 'without a name'} (architectures in config.json), which "
            f"has no head that scores a pair; {CHOOSE_CROSS}, or save yours with {CROSS_ENCODER}.save"
        )


def _object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
