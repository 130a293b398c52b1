"""Which number format runs where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from soloist.errors import ConfigError
from soloist.models.dtype import DeviceKind, resolve_dtype
from soloist.models.spec import ModelSpec
from soloist.types import DType

PLAIN = ModelSpec(name="plain", source="org/plain")
OVERFLOWS = replace(PLAIN, name="overflows", overflows_float16=True)
T4, A100 = (7, 5), (8, 0)


@pytest.mark.parametrize(
    ("kind", "capability", "plain", "overflows"),
    [
        ("cpu", None, "float32", "float32"),
        ("cpu", A100, "float32", "float32"),
        ("cuda", T4, "float16", "float32"),
        ("cuda", (6, 0), "float16", "float32"),
        ("cuda", A100, "bfloat16", "bfloat16"),
        ("cuda", (9, 0), "bfloat16", "bfloat16"),
        ("cuda", None, "float32", "float32"),
        ("simulated", T4, "float16", "float32"),
        ("simulated", A100, "bfloat16", "bfloat16"),
        ("simulated", None, "float32", "float32"),
    ],
)
def test_auto_is_what_the_device_does_best(
    kind: DeviceKind, capability: tuple[int, int] | None, plain: DType, overflows: DType
) -> None:
    """Catches bfloat16 on a T4, which emulates it, and float16 for a model that it turns into NaN."""
    assert resolve_dtype(PLAIN, "auto", device_kind=kind, capability=capability) == plain
    assert resolve_dtype(OVERFLOWS, "auto", device_kind=kind, capability=capability) == overflows


def test_a_request_wins_over_the_spec_and_the_spec_over_the_device() -> None:
    """Catches a --dtype that is overruled, and a spec's dtype that is forgotten on a GPU."""
    spec = replace(PLAIN, dtype="float32")
    assert resolve_dtype(spec, "bfloat16", device_kind="cuda", capability=T4) == "bfloat16"
    assert resolve_dtype(spec, "auto", device_kind="cuda", capability=A100) == "float32"


def test_float16_is_refused_for_a_model_that_overflows_it() -> None:
    """Catches a whole pass of NaN that somebody asked for by accident."""
    with pytest.raises(ConfigError, match=r"overflows cannot run in float16.*choose bfloat16, float32 or auto"):
        resolve_dtype(OVERFLOWS, "float16", device_kind="cuda", capability=T4)
    with pytest.raises(ConfigError):
        resolve_dtype(replace(OVERFLOWS, dtype="float16"), "auto", device_kind="cpu", capability=None)


@pytest.mark.parametrize(
    ("requested", "has_bfloat16", "expected"),
    [("auto-fast", True, "bfloat16"), ("auto-fast", False, "float32"), ("auto", True, "float32")],
)
def test_a_host_takes_bfloat16_where_it_is_allowed_and_fast(requested, has_bfloat16, expected):
    """Vectors would change without a word, or get slower."""
    dtype = resolve_dtype(PLAIN, requested, device_kind="cpu", capability=None, host_has_bfloat16=has_bfloat16)
    assert dtype == expected
    table = replace(PLAIN, loader="wordllama")
    assert resolve_dtype(table, requested, device_kind="cpu", capability=None, host_has_bfloat16=True) == "float32"
    assert resolve_dtype(PLAIN, requested, device_kind="cuda", capability=T4, host_has_bfloat16=True) == "float16"
