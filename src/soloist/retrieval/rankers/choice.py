"""Which ranker a search uses: what a person chose, checked against the table and the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from soloist.errors import ConfigError
from soloist.fusion_methods import FUSED, HYBRID
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.rankers import BY_MODEL, RANKERS, searchable, weighted
from soloist.retrieval.rankers.ranker import Ranker, rankers_of
from soloist.retrieval.run_record import RunRecord
from soloist.wording import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """What ranks the chunks: one member of the run, or another ranker by its name, e.g. "hybrid", "fused" or "rrf".

    `weights` are those of the members, for a ranker that combines them. Without weights it has those of the run's own
    fusion, or equal ones.
    """

    model: str | None = None
    ranker: str | None = None
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.ranker is not None:
            raise ConfigError(f"{self.model} and {self.ranker} are two ways to rank: give one of them")
        if self.ranker is not None and self.ranker not in named_rankers():
            raise ConfigError(f"there is no ranker {self.ranker}: choose one of {', '.join(named_rankers())}")
        if self.weights and self.ranker not in weighted():
            raise ConfigError(f"only {listed(weighted())} take weights: leave the weights out, or choose one of these")

    def __str__(self) -> str:
        return self.model or self.ranker or FUSED


def named_rankers() -> list[str]:
    """The rankers that a search offers by a name that is the same for every run: all but the models."""
    return [name for name in searchable() if name != BY_MODEL]


def choice_of(by: By | str | None, record: RunRecord) -> By:
    """What ranks, given a choice, the name of a model or a ranker, or nothing. A model goes before a ranker's name.

    Raises:
        ConfigError: it is neither; or nothing was chosen, and the run has several models and no fused vectors.
    """
    if by is None:
        return default_choice(record)
    if isinstance(by, By):
        return by
    if by in record.kinds:
        return By(model=by)
    if by not in named_rankers():
        choices = ", ".join((*record.kinds, *named_rankers()))
        raise ConfigError(f"the run has no model {by}, and there is no ranker {by}: choose one of {choices}")
    return By(ranker=by)


def default_choice(record: RunRecord) -> By:
    """All members of a run with words, the fused vectors, or the only model.

    Raises:
        ConfigError: the run has several models and no fused vectors.
    """
    if record.hybrid is not None:
        return By(ranker=HYBRID)
    if record.fusion is not None:
        return By(ranker=FUSED)
    if len(record.kinds) == 1:
        return By(model=next(iter(record.kinds)))
    combining = [name for name in weighted() if name != HYBRID]  # which is for members of several kinds
    raise ConfigError(
        f"the run has no fused vectors: choose a model ({', '.join(record.models)}), or {listed(combining, 'or')}, "
        "which combine the models"
    )


def chosen_ranker(by: By, corpus: Corpus) -> Ranker:
    """The ranker of a choice.

    Raises:
        ConfigError: the run has no such model, or no fused vectors; the weights are of other models.
    """
    if by.model is not None:
        corpus.record.require_member(by.model)
    row = RANKERS[BY_MODEL if by.model is not None else by.ranker or FUSED]
    for ranker in rankers_of(row, corpus, by.weights):
        if by.model in (None, ranker.name):
            return ranker
    raise ConfigError(f"{row.missing}: choose one of its models, {', '.join(corpus.record.kinds)}")
