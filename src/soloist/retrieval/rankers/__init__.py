"""What can rank the chunks of a run: one row each. Names and words only; the ranking is in the module of a row.

`search`, `eval` and their help read this table, so a new way to rank is a row here and a module with its `rankers`,
see `soloist.retrieval.rankers.ranker`. An evaluation ranks by all rows, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soloist.fusion_methods import FUSED, HYBRID

# What a system is in an evaluation: a single model, a member that is words, the run's own ensemble, another ensemble,
# a baseline of words that the run does not have, or one of these with a second stage behind it.
Kind = Literal["model", "words", "run", "fusion", "lexical", "reranked"]

BY_MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerRow:
    """A row of the table.

    `module` has the function `rankers`. `help` is the help of its option of `soloist search`, and empty where a search
    does not offer it. `takes_model` says whether the option takes the name of a model, and `is_weighted` whether
    weights of models go with it. An evaluation leaves it out where a run has fewer models than `fewest_models`, or
    fewer members, words included, than `fewest_members`.
    `missing` is what a search says where a run has none.
    """

    module: str
    kind: Kind
    help: str = ""
    takes_model: bool = False
    is_weighted: bool = False
    fewest_models: int = 0
    fewest_members: int = 1
    missing: str = "the run cannot be ranked this way"


RANKERS: dict[str, RankerRow] = {
    BY_MODEL: RankerRow(
        module="soloist.retrieval.rankers.single_models",
        kind="model",
        help="Rank by the vectors of this model alone, or by the words of a member such as bm25.",
        takes_model=True,
    ),
    HYBRID: RankerRow(
        module="soloist.retrieval.rankers.hybrid",
        kind="run",
        help="Rank by the weighted sum of all members' standardised scores. "
        "[default, if the run has words or sparse vectors]",
        is_weighted=True,
        fewest_members=2,
        missing="the run has one member, or dense members alone, so there is nothing to weigh for each question",
    ),
    "without words": RankerRow(
        module="soloist.retrieval.rankers.without_words",
        kind="fusion",
        fewest_members=3,
    ),
    FUSED: RankerRow(
        module="soloist.retrieval.rankers.own_fusion",
        kind="run",
        help="Rank by the fused vectors. [default, if the run has them, and neither words nor sparse vectors]",
        fewest_models=2,
        missing="the run has no fused vectors",
    ),
    "other fusions": RankerRow(
        module="soloist.retrieval.rankers.other_fusions",
        kind="fusion",
        fewest_models=2,
    ),
    "rrf": RankerRow(
        module="soloist.retrieval.rankers.reciprocal_ranks",
        kind="fusion",
        help="Rank by the weighted sum of the members' reciprocal ranks. -k is at most 1,000.",
        is_weighted=True,
        fewest_members=2,
    ),
    "standardised": RankerRow(
        module="soloist.retrieval.rankers.standardised_scores",
        kind="fusion",
        help="Rank by the weighted sum of the members' standardised scores.",
        is_weighted=True,
        fewest_members=2,
    ),
    "bm25": RankerRow(module="soloist.retrieval.rankers.bm25", kind="lexical"),
}


def searchable() -> dict[str, RankerRow]:
    """The rows that a search offers, by name."""
    return {name: row for name, row in RANKERS.items() if row.help}


def weighted() -> list[str]:
    """The names of the rows that a search offers and that take weights."""
    return [name for name, row in searchable().items() if row.is_weighted]
