"""The members of a run: those that models make, and those that are words. Settled before anything is read.

Knows configs and the catalogue; loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from soloist.config import FusionConfig, RunConfig
from soloist.engine.resume.kept_settings import KeptSettings, require_weights_for_all
from soloist.events import EventSink, Notice
from soloist.fusion import FusionPlan, HybridPlan, dense_fusion, plan_hybrid, require_weights
from soloist.languages import DEFAULT_LANGUAGE
from soloist.models.spec import ModelSpec
from soloist.staging import require_dim, select_models
from soloist.types import MemberKind
from soloist.words import Analyser, analyser_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Members:
    """All members of a run in order. `words` are the analysers of those that are words, and `fusion` is how the vectors
    of the dense ones become one.
    """

    specs: Mapping[str, ModelSpec]
    words: Mapping[str, Analyser]
    fusion: FusionConfig

    @property
    def kinds(self) -> dict[str, MemberKind]:
        """What each member makes of a text."""
        return {name: spec.kind for name, spec in self.specs.items()}

    @property
    def models(self) -> dict[str, ModelSpec]:
        """The members with weights, which are staged and need a lease."""
        return {name: spec for name, spec in self.specs.items() if spec.kind != "lexical"}

    @property
    def word_fingerprints(self) -> dict[str, str]:
        """What decides the terms of each member that is words."""
        return {name: analyser.fingerprint for name, analyser in self.words.items()}

    def hybrid(self, config: RunConfig, fusion: FusionPlan | None) -> HybridPlan | None:
        """How the members are weighed at question time; None where their vectors alone rank."""
        return plan_hybrid(config.fusion.weights, self.kinds, has_fused=fusion is not None)

    def concerned(self, notices: Iterable[Notice]) -> Iterator[Notice]:
        """The notices of settings that a member reads: no language changes anything without words."""
        readers = {"language": "lexical", "sparse_top": "sparse"}
        return (each for each in notices if readers.get(each.about, each.about) in (each.about, *self.kinds.values()))

    def tell_idle_settings(self, config: RunConfig, sink: EventSink) -> None:
        """Say so where a setting was asked for that is of members that the run does not have."""
        if config.language != DEFAULT_LANGUAGE and not self.words:
            message = f"{config.language} changes nothing, because no member is words: add bm25 to --models"
            sink.emit(Notice(about="language", message=message))
        if config.sparse_top and "sparse" not in self.kinds.values():
            message = (
                f"{config.sparse_top} changes nothing, because no member is sparse: add a sparse model to --models"
            )
            sink.emit(Notice(about="sparse_top", message=message))


def members_of(kept: KeptSettings) -> Members:
    """The members of a run whose settings are all decided.

    Raises:
        ConfigError: there is no such model, or weights do not fit, or a library for words is not installed.
        FusionError: the dense members cannot be fused as asked.
    """
    config = kept.config
    specs = select_models(config)
    require_weights_for_all(kept, tuple(specs))
    require_weights(config.fusion, tuple(specs))
    fusion = dense_fusion(config.fusion, {name: spec.kind for name, spec in specs.items()})
    require_dim(fusion, {name: spec for name, spec in specs.items() if spec.kind == "dense"})
    words = {name: analyser_of(config.language) for name, spec in specs.items() if spec.kind == "lexical"}
    return Members(specs=specs, words=words, fusion=fusion)
