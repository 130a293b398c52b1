"""Weights that a file lacks, and weights that a network does not use: the report of transformers, and what it means.

transformers fills missing weights with random numbers and leaves out weights that it does not know, with a warning.
Both are harmless for the head of another task. Inside the network both give wrong vectors.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from soloist.models.damage import GET_AGAIN, integers_text, is_count

_QUANTISED = (
    "which belongs to quantised weights, and its config.json has no quantization_config: choose the model from which "
    "they were made"
)
_ADAPTED = (
    "which belongs to an adapter (LoRA) that was not merged into them: merge it (merge_and_unload of peft) and save "
    "the model"
)
# transformers' own patterns cover most of these; older files have more.
_HARMLESS_ENDS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "num_batches_tracked")
_PICKLE = b"\x80\x02"  # as torch wrote its files before they were archives
_PICKLED = (".bin", ".pt")
_ADAPTERS = ("lora_", "base_layer", ".adapter_", "modules_to_save", "ia3_")
_SCALES = (
    "absmax", "quant_map", "quant_state", "SCB", "qweight", "qzeros", "g_idx", "scales", "weight_scale",
    "weight_scale_inv", "weight_packed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The report of transformers about a network that it loaded: names of weights, as the network or the file has them.

    `parts` are the network's children: an unused weight below one of them shows that the file is of another network.
    `prefix` stands before the network's names in files of the same network with a head. `is_own_code` is True where the
    network's code came with the model, which may leave out what it likes.
    """

    network: str
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    parts: frozenset[str]
    prefix: str
    is_own_code: bool = False


@contextlib.contextmanager
def observed_loads() -> Iterator[list[LoadReport]]:
    """The reports of the networks that transformers loads within this. Only one thread at a time may use it."""
    from transformers import modeling_utils  # with the first network: a table of vectors does without it
    from transformers.integrations import peft as peft_integration

    reports: list[LoadReport] = []
    modules = [module for module in (modeling_utils, peft_integration) if hasattr(module, "log_state_dict_report")]
    before = [module.log_state_dict_report for module in modules]
    for module, function in zip(modules, before, strict=True):
        module.log_state_dict_report = _noting(function, reports)
    try:
        yield reports
    finally:
        for module, function in zip(modules, before, strict=True):
            module.log_state_dict_report = function


def _noting(function: Callable[..., Any], reports: list[LoadReport]) -> Callable[..., Any]:
    def note(*args: Any, **kwargs: Any) -> Any:
        model, info = kwargs.get("model", args[0] if args else None), kwargs.get("loading_info")
        if model is not None and info is not None:
            reports.append(
                LoadReport(
                    network=type(model).__name__,
                    missing=frozenset(info.missing_keys),
                    unexpected=frozenset(info.unexpected_keys),
                    mismatched=tuple(sorted((n, tuple(a), tuple(b)) for n, a, b in info.mismatched_keys)),
                    parts=frozenset(name for name, _ in model.named_children()),
                    prefix=str(getattr(model, "base_model_prefix", "")),
                    is_own_code=not type(model).__module__.startswith("transformers."),
                )
            )
        return function(*args, **kwargs)

    return note


def complaint(report: LoadReport, *, uses_pooler: bool = False) -> str | None:
    """The fault in the weights of a network, as the end of a sentence; None where all that counts was read.

    The pooler does not count unless it is used: many files lack it, and few pipelines read it.
    """
    if report.mismatched:
        name, there, wanted = report.mismatched[0]
        return (
            f"its weights have {name} of the shape {list(there)}, but its config.json asks for {list(wanted)}, so the "
            "files are of two models: get all of them from one"
        )
    missing = sorted(n for n in report.missing if uses_pooler or "pooler." not in n)
    foreign = sorted(n for n in report.unexpected if _is_inside(n, report))
    for marks, what in ((_SCALES, _QUANTISED), (_ADAPTERS, _ADAPTED)):
        marked = next((n for n in sorted(report.unexpected) if any(mark in n for mark in marks)), None)
        if marked is not None:
            return f"its weights have {marked}, {what}"
    if missing:
        also = f", while {sorted(report.unexpected)[0]} is not used" if report.unexpected else ""
        return (
            f"{_weights(len(missing))} not in its files, such as {missing[0]}{also}: get the complete model, with "
            "the config.json that belongs to its weights"
        )
    if foreign and not report.is_own_code:
        return (
            f"{_weights(len(foreign))} in its files and in no part of the network that its config.json describes, such "
            f"as {foreign[0]}: get the config.json that belongs to its weights"
        )
    return None


def _weights(count: int) -> str:
    return "1 weight is" if count == 1 else f"{count} weights are"


def _is_inside(name: str, report: LoadReport) -> bool:
    """Whether an unused weight belongs to a part that the network has."""
    if name.endswith(_HARMLESS_ENDS):
        return False
    own = name.removeprefix(f"{report.prefix}.") if report.prefix else name
    return own.split(".")[0] in report.parts and not own.startswith("pooler.")


def fault_in_pickles(files: Iterable[Path]) -> str | None:
    """The fault of the torch files among these: more than tensors in them, or whole numbers; None without a fault.

    `damage_in` looks at safetensors, whose header says all that. No weight is read, and no code is run.
    """
    faults = (_fault_in_pickle(file) for file in files if file.suffix in _PICKLED)
    return next((fault for fault in faults if fault is not None), None)


def _fault_in_pickle(file: Path) -> str | None:
    torn = f"{file} is not a torch file, or only a part of one; {GET_AGAIN}"
    with file.open("rb") as opened:
        if not opened.read(4).startswith((b"PK\x03\x04", _PICKLE)):
            return torn
    try:
        tensors = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError:
        return (
            f"{file} is a pickle of more than tensors, which could run any code, so soloist does not open it: get "
            + ("the file" if file.suffix == ".pt" else "the model's model.safetensors")
        )
    except (OSError, RuntimeError, ValueError, LookupError, EOFError):
        return torn
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else ():
        if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            if not is_count(name, tensor.shape, kind):
                return integers_text(file, name, kind)
    return None
