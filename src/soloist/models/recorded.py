"""A model's spec as JSON values, so that another machine finds the model without the run's settings. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError
from soloist.models.catalogue import BUILT_IN, SPARSE_END, is_hub_id, resolve
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue

_LEFT_OUT = {"blueprint", "note"}  # of planning and of lists


def spec_values(spec: ModelSpec) -> dict[str, Any]:
    """The values of the fields by which a model is found and loaded."""
    values = {name: value for name, value in dataclasses.asdict(spec).items() if name not in _LEFT_OUT}
    return {**values, "matryoshka_dims": list(spec.matryoshka_dims)}


def spec_of_values(values: Mapping[str, Any]) -> ModelSpec:
    """The spec that `spec_values` gave.

    Raises:
        TypeError: the values are of other fields.
    """
    return ModelSpec(**{**values, "matryoshka_dims": tuple(values["matryoshka_dims"])})


def recorded_spec(spec: ModelSpec, copied: Path | None, given: Path | None) -> ModelSpec:
    """Where a recorded model is now: in a catalogue that is `given`, in the folder with its copied files, or where it
    was.

    Raises:
        ConfigError: its folder is not on this machine, or it would run code that nobody here has allowed.
    """
    own = _given_spec(spec, given)
    if own is not None:
        return own
    if spec.trust_remote_code:
        raise ConfigError(
            f"{spec.name} runs code of its own, and a file that came from elsewhere cannot allow that: give "
            f'--catalogue a file that has source and trust_remote_code = true under [models."{spec.name}"]'
        )
    if copied is not None:
        return dataclasses.replace(spec, source=str(copied), package=None)
    if not (is_hub_id(spec.source) or spec.package or Path(spec.source).is_dir()):
        raise ConfigError(
            f"{spec.name} made the run from the folder {spec.source}, which is not on this machine: give --catalogue a "
            f'file that has its folder as source under [models."{spec.name}"], or export again --with-models'
        )
    return spec


def _given_spec(spec: ModelSpec, given: Path | None) -> ModelSpec | None:
    """The model in a user's catalogue; None where the catalogue says nothing of it."""
    if given is None:
        return None
    catalogue, base = load_catalogue(given), spec.name.removesuffix(SPARSE_END)
    names = [name for name in (spec.name, base) if name in catalogue and catalogue.get(name) != _built_in(name)]
    if not names:
        return None
    return dataclasses.replace(resolve(spec.name, catalogue), sparse_top=spec.sparse_top)


def _built_in(name: str) -> ModelSpec | None:
    return BUILT_IN.get(name) if name in BUILT_IN else None
