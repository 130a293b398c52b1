"""When the models of a run are staged: after its input is read, or before it where that costs next to nothing.

A broken input file should cost seconds, and no download of a model. So only tables of vectors that are on this machine
and bring no code of their own come first. Their texts can then be looked at while the input is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.errors import RunStoppedError, SoloistError
from soloist.events import Event, EventSink, ListSink
from soloist.memory.prediction import blueprint_of
from soloist.models.loading import StagedModel
from soloist.models.location import find_settings
from soloist.models.spec import ModelSpec
from soloist.staging import encoders_of, require_dim, stage_all
from soloist.types import Matmul


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedModels:
    """Models in host memory, and their encoders; and the events of models that were staged before the reading."""

    staged: Mapping[str, StagedModel]
    encoders: dict[str, Encoder]
    untold: tuple[Event, ...] = ()

    def told(self, sink: EventSink) -> StagedModels:
        """The same, once the sink has the events that it has not had."""
        for event in self.untold:
            sink.emit(event)
        return self


@dataclass(frozen=True, slots=True, eq=False)
class ModelStaging:
    """How the models of a run are staged. `matmuls` and `check` are as in `stage_all`."""

    specs: Mapping[str, ModelSpec]
    config: RunConfig
    accelerator: Accelerator
    matmuls: Mapping[str, Matmul]
    check: Callable[[], object]

    def now(self, sink: EventSink) -> StagedModels:
        """Stage the models.

        Raises:
            SoloistError: a model cannot be loaded, or the run is to end.
        """
        require_dims = functools.partial(require_dim, self.config.fusion, self.specs)
        staged = stage_all(
            self.specs, self.config, self.accelerator, sink, self.check, on_staged=require_dims, matmuls=self.matmuls
        )
        return StagedModels(staged=staged, encoders=encoders_of(staged, self.config, self.accelerator, sink))

    def early(self) -> StagedModels | None:
        """The models, staged before the input is read; None where they come after it.

        What is wrong with a model is told after what is wrong with the input: then there are none.

        Raises:
            RunStoppedError: the run is to end.
        """
        if not all(map(_is_own_table, self.specs.values())):
            return None
        untold = ListSink()
        try:
            models = self.now(untold)
        except RunStoppedError:
            raise
        except SoloistError:
            return None
        return StagedModels(staged=models.staged, encoders=models.encoders, untold=tuple(untold.events))


def _is_own_table(spec: ModelSpec) -> bool:
    """Whether a model is a table of vectors, on this machine and without code of its own."""
    if spec.trust_remote_code:
        return False
    try:
        return find_settings(spec) is not None and blueprint_of(spec).is_static
    except SoloistError:
        return False
