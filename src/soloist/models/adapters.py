"""Folders that a LoRA training left. An adapter is a difference to the weights of a base model.

Knows files, the hub's cache, and which `peft` is installed. Imports no peft, and opens no weights.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from soloist.requirements import too_old

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_BASE_FILES = ("config.json", "model*.safetensors*", "pytorch_model*.bin*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter in a module's folder. `base` is a folder or a hub id, and empty where its file names none."""

    folder: Path
    kind: str
    base: str

    @property
    def weights(self) -> Path | None:
        """The file of its weights; None where there is none."""
        return next((self.folder / name for name in ADAPTER_WEIGHTS if (self.folder / name).is_file()), None)

    @property
    def base_folder(self) -> Path | None:
        """The folder of the base; None where it is not on this machine."""
        if self.base and Path(self.base).is_dir():
            return Path(self.base)
        try:
            cached = huggingface_hub.try_to_load_from_cache(self.base, "config.json") if self.base else None
        except HFValidationError:  # a path of the machine that trained it
            return None
        return Path(cached).parent if isinstance(cached, str) else None

    def base_files(self) -> dict[str, Path]:
        """The base's files that decide vectors, by name; empty where the base is in the same folder."""
        folder = self.base_folder
        if folder is None or folder.resolve() == self.folder.resolve():
            return {}
        files = (file for pattern in _BASE_FILES for file in folder.glob(pattern))
        return {f"base/{file.name}": file for file in sorted(files)}


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter in a folder; None where there is none.

    Raises:
        ValueError: its file is not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object")
    return Adapter(
        folder=folder,
        kind=str(config.get("peft_type") or "LoRA").replace("LORA", "LoRA"),
        base=str(config.get("base_model_name_or_path") or ""),
    )


def can_load_adapters() -> bool:
    """Whether the package that loads them is installed, in a version that transformers takes."""
    return importlib.util.find_spec("peft") is not None and too_old("peft") is None
