"""What a user is told where a library fails to load a model: what happened, and what to do. Knows libraries' errors."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError

from soloist.models.location import find_settings, network_config
from soloist.models.module_list import trust_text
from soloist.models.spec import ModelSpec

# What transformers, tokenizers, safetensors and a model's own code raise when files are missing, damaged or foreign.
LOAD_FAILURES = (
    OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError, UnpicklingError,
)  # fmt: skip


def load_failure_text(spec: ModelSpec, exc: BaseException) -> str:
    """What happened and what to do, for one of `LOAD_FAILURES`."""
    what = f"{spec.name} cannot be loaded from {spec.source}"
    table = f'[models."{spec.name}"]'
    if "trust_remote_code" in str(exc):
        return f"{what}: {trust_text(spec.name)}"
    if isinstance(exc, StrictDataclassError):  # a field of the configuration; its cause says which
        return f"{what} ({_first_sentence(exc.__cause__ or exc)}): correct that value in {_config_of(spec)}"
    if isinstance(exc, ImportError) and "sentence_transformers" in str(exc):
        return f"{what} ({_first_sentence(exc)}): install a version of sentence-transformers that has that module"
    if isinstance(exc, (ImportError, ValueError)) and (lacking := _lacking_package(str(exc))):
        return (
            f"{what} ({_first_sentence(exc)}): install {lacking}, or remove the setting that asks for it from its "
            "config.json or its sentence_bert_config.json"
        )
    if isinstance(exc, LocalEntryNotFoundError):
        hub = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return f"{what} (it is not on this machine, and {hub}): give its folder as source under {table} in a catalogue"
    if Path(spec.source).is_dir() and not isinstance(exc, (OSError, SafetensorError)):
        libraries = " and ".join(f"{name} {version(name)}" for name in ("sentence-transformers", "transformers"))
        return (
            f"{what} ({_first_sentence(exc)}): its files do not fit the installed {libraries}; correct the files, or "
            "get the model again"
        )
    return (
        f"{what} ({_first_sentence(exc)}): attach complete weights and name their folder as source under {table} in a "
        "catalogue"
    )


def _lacking_package(message: str) -> str | None:
    """The package that a library's message says to install; None where it names none."""
    if "FlashAttention" in message:
        return "flash-attn"
    command = re.search(r"pip install (?:-U |--upgrade )?[\"'`]?([A-Za-z][\w.-]*)", message)
    return command[1].rstrip(".") if command is not None else None


def _config_of(spec: ModelSpec) -> Path | str:
    """The file of a network's configuration, or the name that it has in every model."""
    folder = find_settings(spec)
    return (network_config(folder) if folder is not None else None) or "its config.json"


def _first_sentence(exc: BaseException) -> str:
    if str(exc).startswith("Error(s) in loading state_dict for "):  # of a module beside the network: keys follow below
        first, *others = (line.strip() for line in str(exc).splitlines())
        return f"its {first.removeprefix('Error(s) in loading state_dict for ')} {' '.join(others)}".rstrip(". ")
    line = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
    return line.split(". ")[0].rstrip(".")
