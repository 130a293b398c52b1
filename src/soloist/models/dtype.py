"""Which number format a model computes in. Pure: knows specs and device capabilities, and nothing of torch."""

from __future__ import annotations

from typing import Literal

from soloist.errors import ConfigError
from soloist.models.spec import ModelSpec
from soloist.types import DType, DTypeRequest

DeviceKind = Literal["cpu", "cuda", "simulated"]

# Below compute capability 8.0 (a T4 is 7.5) bfloat16 is emulated: it runs, and slower than float32.
_FIRST_WITH_BFLOAT16 = (8, 0)


# Families whose activations exceed 65,504 (github.com/huggingface/transformers/issues/36822): the start of their
# model_type.
_OVERFLOWING = ("gemma3",)


def family_overflows_float16(model_type: str | None) -> bool:
    """Whether a family of networks is known to exceed float16."""
    return (model_type or "").startswith(_OVERFLOWING)


def resolve_dtype(
    spec: ModelSpec,
    requested: DTypeRequest,
    *,
    device_kind: DeviceKind,
    capability: tuple[int, int] | None,
    host_has_bfloat16: bool = False,
) -> DType:
    """The format for one model on one kind of device.

    An explicit request wins, then the spec's own, then the device's best: float32 on a CPU or where the
    capability is unknown, bfloat16 from capability 8.0, else float16 (float32 for models that overflow it).
    `auto-fast` is the same but for a CPU that multiplies bfloat16 (`host_has_bfloat16`), where it is bfloat16; not for
    the static tables of the wordllama loader, which multiply nothing.
    A simulated device counts as a CUDA device of the capability that it imitates.

    Raises:
        ConfigError: float16 is asked for, and the model's activations do not fit into it.
    """
    explicit = spec.dtype if requested in ("auto", "auto-fast") else requested
    if explicit == "auto" or explicit == "auto-fast":
        if device_kind != "cpu":
            return _best(spec, capability)
        is_fast = "auto-fast" in (requested, explicit) and host_has_bfloat16 and spec.loader != "wordllama"
        return "bfloat16" if is_fast else "float32"
    if explicit == "float16" and spec.overflows_float16:
        raise ConfigError(
            f"{spec.name} cannot run in float16 (its activations exceed 65,504): choose bfloat16, float32 or auto"
        )
    return explicit


def wider_dtype(dtype: DType, capability: tuple[int, int] | None) -> DType | None:
    """The next format with a wider range that such a device multiplies well; None where there is none."""
    if dtype == "float16" and capability is not None and capability >= _FIRST_WITH_BFLOAT16:
        return "bfloat16"
    return None if dtype == "float32" else "float32"


def _best(spec: ModelSpec, capability: tuple[int, int] | None) -> DType:
    if capability is None:
        return "float32"
    if capability >= _FIRST_WITH_BFLOAT16:
        return "bfloat16"
    return "float32" if spec.overflows_float16 else "float16"
