"""What a node says of itself once its models are staged, and whether its rows would be the run's. Values only."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.installed import versions
from soloist.memory.planner import BatchLimits
from soloist.models.numpy_threads import libraries
from soloist.sizing.run_plan import RunPlan

# At these padded lengths the rows of a batch are compared.
_LENGTHS = (16, 64, 256, 512, 1024, 2048, 8192)
_PROCESSOR_NUMBERS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
# Instructions that have kernels of their own, and that torch's word for the processor does not tell.
_KERNELS = ("avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "bf16", "sve", "i8mm")
# Libraries whose versions decide what a vector is.
_DECISIVE = ("soloist", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The models and devices of a node. `limits` are by model the rows of a batch at some padded lengths."""

    fingerprints: Mapping[str, str]
    dtypes: Mapping[str, str]
    matmuls: Mapping[str, str]
    limits: Mapping[str, tuple[int, ...]]
    kind: str
    card: str
    devices: tuple[str, ...]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NodeFacts:
        """What `to_dict` gave."""
        limits = {model: tuple(rows) for model, rows in values["limits"].items()}
        return cls(**{**values, "limits": limits, "devices": tuple(values["devices"])})


def facts_of(encoders: Mapping[str, Encoder], plan: RunPlan, accelerator: Accelerator) -> NodeFacts:
    """The facts of this process."""
    return NodeFacts(
        fingerprints={model: encoder.staged.member(model).fingerprint for model, encoder in encoders.items()},
        dtypes={model: encoder.staged.dtype for model, encoder in encoders.items()},
        matmuls={model: encoder.staged.matmul for model, encoder in encoders.items()},
        limits={model: _rows(encoder, plan.limits[model]) for model, encoder in encoders.items()},
        kind=accelerator.kind,
        card=_card(accelerator),
        devices=accelerator.devices,
        versions={name: version for name, version in versions().items() if name in _DECISIVE},
    )


def _rows(encoder: Encoder, limits: BatchLimits) -> tuple[int, ...]:
    """The rows of a batch at some padded lengths, up to the longest text of the model."""
    longest = encoder.staged.max_tokens
    return tuple(limits.rows(length) for length in _LENGTHS if longest is None or length <= longest)


def difference(node: NodeFacts, own: NodeFacts, *, mixed_cards: bool = False) -> str | None:
    """How a node differs from the process that drives the run, so that its rows might be others; None if not.

    The words continue a sentence that begins with the node's name.

    With `mixed_cards` other cards, and what follows from them, are allowed.
    """
    for name in own.versions:
        if node.versions.get(name) != own.versions[name]:
            theirs = node.versions.get(name, "no")
            return (
                f"has {name} {theirs} and the command's machine has {own.versions[name]}: install the same version on "
                "all nodes"
            )
    if node.kind != own.kind:
        return (
            f"computes on {node.kind} and the command's machine on {own.kind}: run the command on a machine with the "
            "same cards as the nodes, or give --accelerator a kind that all of them have"
        )
    if node.card != own.card and not mixed_cards:
        return (
            f"has {node.card} and the command's machine has {own.card}, so vectors may differ in their last bits: "
            "leave this node out, or give --mixed-cards"
        )
    return _other_model(node, own, mixed_cards=mixed_cards)


def _other_model(node: NodeFacts, own: NodeFacts, *, mixed_cards: bool) -> str | None:
    for model, fingerprint in own.fingerprints.items():
        if node.dtypes.get(model) != own.dtypes[model]:
            return (
                f"computes {model} in {node.dtypes.get(model)}, and the run in {own.dtypes[model]}: give --dtype "
                f"{own.dtypes[model]}"
            )
        if node.fingerprints.get(model) != fingerprint:
            return (
                f"has other files of {model} (fingerprint {node.fingerprints.get(model)}; the command's machine has "
                f"{fingerprint}): put the same files or the same revision of the model on all nodes"
            )
        if node.matmuls.get(model) != own.matmuls[model]:
            return (
                f"multiplies with {node.matmuls.get(model)} for {model}, and the run with {own.matmuls[model]}: give "
                "--matmul torch"
            )
        if node.limits.get(model) != own.limits[model] and not mixed_cards:
            return (
                f"would make batches of {model} of another size, so vectors may differ in their last bits: leave this "
                "node out, or give --mixed-cards"
            )
    return None


def _card(accelerator: Accelerator) -> str:
    """The card, with its name; of a host its processor, because its kernels differ by that."""
    if accelerator.copies_weights:
        return f"the card {accelerator.card.name}"
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"a processor {processor(_cpuinfo())} with {instructions} and {libraries()}"


def processor(cpuinfo: str) -> str:
    """The first processor in /proc/cpuinfo: its name, its family and model, and the instructions for small numbers.

    Libraries take other kernels for another maker, model or cache although the instructions are the same.

    >>> processor("model name : EPYC\\ncpu family : 26\\nmodel : 2\\nflags : avx2 avx512_bf16")
    'EPYC, cpu family 26, model 2, avx512_bf16'
    """
    told: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    numbers = [f"{name} {told[name]}" for name in _PROCESSOR_NUMBERS if name in told]
    flags = {*told.get("flags", told.get("Features", "")).split()}
    return ", ".join(
        [told.get("model name", platform.machine()), *numbers, *(flag for flag in _KERNELS if flag in flags)]
    )


def _cpuinfo() -> str:
    """What Linux says of the processors; nothing elsewhere."""
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(errors="replace")
    return ""
