"""Digests of all that decides a model's vectors. Pure: files and values in, hexadecimal digits out; no torch.

The path of a folder and the time of its files do not count, so a copied model keeps its fingerprint. Code that a model
is trusted to run counts by its bytes: every Python file in its folder, used or not, and remote code in the hub's cache.
Where the cache lacks such code, the model has no fingerprint, and so vectors from earlier runs are not reused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soloist.errors import ModelLoadError
from soloist.models.adapters import adapter_in
from soloist.models.location import (
    WORDLLAMA_TOKENIZER,
    WORDLLAMA_WEIGHTS,
    Location,
    module_folders,
    weight_files,
    weight_files_of,
)
from soloist.models.remote_code import remote_code
from soloist.models.settings import ModelSettings
from soloist.models.spec import ModelSpec
from soloist.types import DType

# Raised by one when a version of soloist gives other vectors for the same texts and weights.
ENCODER_VERSION = 4

_SETTINGS = (
    "modules.json", "config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "sentence_*_config.json",
    "router_config.json", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip
# Read only where there is no tokenizer.json, which has the same content.
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 22

_known_digests: dict[tuple[str, int, int], str] = {}


def content_digests(spec: ModelSpec, location: Location) -> dict[str, str]:
    """The sha256 of every file that decides the vectors, by its path in the model's folder. Remote code goes by its
    repository and file, and the base of an adapter by `base/` and its name.

    Raises:
        ModelLoadError: remote code is not on this machine.
    """
    folder = location.folder
    outside: dict[str, Path] = {}
    if spec.loader == "wordllama":
        files = [folder / WORDLLAMA_WEIGHTS, folder / WORDLLAMA_TOKENIZER]
    else:
        code = sorted(folder.rglob("*.py")) if spec.trust_remote_code else []
        files = [*weight_files_of(spec, folder), *settings_files(folder), *code]
        outside = remote_code(folder) if spec.trust_remote_code else {}
        for module_folder in module_folders(folder):
            adapter = adapter_in(module_folder)
            outside |= adapter.base_files() if adapter is not None else {}
    by_name = {file.relative_to(folder).as_posix(): file for file in files} | outside
    return {name: file_sha256(file) for name, file in by_name.items()}


def known_fingerprint(spec: ModelSpec, settings: ModelSettings, dtype: DType) -> str | None:
    """The fingerprint that a model will have once it is loaded; None where weights or code are not on this machine."""
    if settings.folder is None:
        return None
    if spec.loader != "wordllama":
        files = weight_files_of(spec, settings.folder)
        if not weight_files(settings.folder) or not all(file.is_file() for file in files):
            return None
    try:
        contents = content_digests(spec, Location(folder=settings.folder, revision=None))
    except ModelLoadError:
        return None
    return fingerprint(
        contents,
        document_prompt=settings.document_prompt,
        max_tokens=settings.max_tokens,
        dim=settings.dim,
        dtype=dtype,
        **({"most_active": settings.most_active} if settings.kind == "sparse" else {}),
    )


def fingerprint(contents: Mapping[str, str], **decisive: Any) -> str:
    """16 hex digits over the digests of files, the decisive values (prompts, limits, dtype) and `ENCODER_VERSION`."""
    everything = {"encoder_version": ENCODER_VERSION, "contents": dict(contents), **decisive}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, computed once for a path, a size and a time of change."""
    real = path.resolve()
    # The hub's cache names the blob of a large file by its sha256.
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    status = real.stat()
    key = (str(real), status.st_size, status.st_mtime_ns)
    if key not in _known_digests:
        _known_digests[key] = _sha256(real)
    return _known_digests[key]


def settings_files(folder: Path) -> list[Path]:
    """The files beside the weights that decide the vectors: settings, tokenizers and adapters of every module."""
    return [file for module_folder in module_folders(folder) for file in _settings_in(module_folder)]


def _settings_in(folder: Path) -> list[Path]:
    vocabulary = ("tokenizer.json",) if (folder / "tokenizer.json").is_file() else _VOCABULARIES
    return [file for pattern in (*_SETTINGS, *vocabulary) for file in sorted(folder.glob(pattern))]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
