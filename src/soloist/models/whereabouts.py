"""Where the models of a run are on this machine: by the run's settings, or by a catalogue that is given now. Pure."""

from __future__ import annotations

import contextlib
from pathlib import Path

from soloist.config import RunConfig
from soloist.errors import ConfigError
from soloist.models.catalogue import resolve
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue


def catalogue_there(config: RunConfig) -> Path | None:
    """The catalogue with which a run was made, where it is still there."""
    return config.catalogue if config.catalogue is not None and config.catalogue.is_file() else None


def spec_in_run(name: str, config: RunConfig, given: Path | None = None) -> ModelSpec:
    """The spec of a run's model. `given` is a catalogue that goes before the run's own.

    Raises:
        ConfigError: the model is not found.
    """
    path = given or config.catalogue
    is_gone = given is None and path is not None and catalogue_there(config) is None
    catalogue = load_catalogue(None if is_gone else path)
    for asked in (name, *config.models):
        with contextlib.suppress(ConfigError):  # another of the run's models may have moved
            spec = resolve(asked, catalogue)
            if spec.name == name:
                return spec
    gone = f", and the run's catalogue {path} is not there" if is_gone else ""
    raise ConfigError(
        f"{name} made the run, but is not found on this machine{gone}: give --catalogue a file that has the "
        f'folder of the model as source under [models."{name}"]'
    )
