"""Stages the models of a run after its input is read, or during the reading if all are tables of vectors.

A broken input file should cost seconds, and neither a download nor the load of a network. A fault of the input is told
before a fault of a model. So the events of models that are staged during the reading are told after it, and a model
that fails during the reading is staged again after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from soloist.config import FusionConfig, RunConfig
from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.errors import RunStoppedError
from soloist.events import Event, EventSink, ListSink
from soloist.memory.prediction import blueprint_of
from soloist.models.loading import StagedModel
from soloist.models.location import find_settings
from soloist.models.spec import ModelSpec
from soloist.staging import MatmulOf, encoders_of, require_dim, stage_all

Check = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedModels:
    """Models in host memory, and their encoders. `untold` are the events of the staging that no sink has got yet."""

    staged: Mapping[str, StagedModel]
    encoders: dict[str, Encoder]
    untold: tuple[Event, ...] = ()

    def told(self, sink: EventSink) -> StagedModels:
        """The same models, after the sink has got the untold events."""
        for event in self.untold:
            sink.emit(event)
        return replace(self, untold=())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelStaging:
    """How the models of a run are staged. `fusion` is that of the dense ones; `matmul_of` is as in `stage_all`."""

    specs: Mapping[str, ModelSpec]
    config: RunConfig
    accelerator: Accelerator
    matmul_of: MatmulOf
    fusion: FusionConfig

    def are_tables(self) -> bool:
        """Whether all models are static, have their settings on this machine, and bring no code of their own; and
        whether there is one at all.
        """
        return bool(self.specs) and all(map(_is_table_at_hand, self.specs.values()))

    def through(self, sink: EventSink, check: Check) -> StagedModels:
        """Stage the models, and tell the sink. `check` is called often, and may raise.

        Raises:
            SoloistError: a model cannot be used.
        """
        dense = {name: spec for name, spec in self.specs.items() if spec.kind == "dense"}
        require_dims = functools.partial(require_dim, self.fusion, dense)
        staged = stage_all(
            self.specs, self.config, self.accelerator, sink, check, on_staged=require_dims, matmul_of=self.matmul_of
        )
        return StagedModels(staged=staged, encoders=encoders_of(staged, self.config, self.accelerator, sink))

    def in_silence(self, check: Check) -> StagedModels:
        """Stage the models, and keep the events as untold; the same errors."""
        events = ListSink()
        models = self.through(events, check)
        return StagedModels(staged=models.staged, encoders=models.encoders, untold=tuple(events.events))


def _is_table_at_hand(spec: ModelSpec) -> bool:
    """Whether a model is static, has its settings on this machine, and brings no code of its own."""
    if spec.trust_remote_code:
        return False
    try:
        return find_settings(spec) is not None and blueprint_of(spec).is_static
    except RunStoppedError:  # by a signal
        raise
    except Exception:  # the error of a damaged folder is told when the model is staged after the reading
        return False
