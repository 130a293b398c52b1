"""The options that choose a ranker: one for each row of the table that a search offers. Knows the table, and no run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soloist.errors import ConfigError
from soloist.retrieval.rankers import RankerRow, searchable, weighted
from soloist.wording import listed

if TYPE_CHECKING:
    from soloist.retrieval import By

Chosen = Mapping[str, str | bool | None]
_WEIGHTED = [f"--{name}" for name in weighted()]
WEIGHTS_HELP = f"For {listed(_WEIGHTED)}. [default: the run's]"


def with_ranker_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `rankers` has become one option for each ranker; it gets their values by name."""
    options = {name.replace("-", "_"): (name, row) for name, row in searchable().items()}

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        chosen = {name: values.pop(key) for key, (name, _) in options.items()}
        command(**values, rankers=chosen)

    def parameters() -> Iterator[inspect.Parameter]:
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name != "rankers":
                yield parameter
                continue
            for key, (name, row) in options.items():
                yield _option(key, name, row)

    signature = inspect.Signature(list(parameters()))
    with_options.__signature__ = signature  # type: ignore[attr-defined]  # typer reads it
    with_options.__annotations__ = {key: parameter.annotation for key, parameter in signature.parameters.items()}
    return with_options


def _option(key: str, name: str, row: RankerRow) -> inspect.Parameter:
    kind, default = (str | None, None) if row.takes_model else (bool, False)
    option = typer.Option(f"--{name}", metavar="NAME" if row.takes_model else None, help=row.help)
    return inspect.Parameter(
        key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, option]
    )


def chosen_by(rankers: Chosen, weights: Mapping[str, float] | None) -> By | None:
    """What the options choose; None where none was given.

    Raises:
        ConfigError: they choose two rankers, or weights for one that takes none.
    """
    from soloist.retrieval import By

    chosen = [
        name for name, value in rankers.items() if value not in (None, False)
    ]  # "" names a model, and none has it
    if len(chosen) > 1:
        raise ConfigError(f"--{chosen[0]} and --{chosen[1]} are two ways to rank: give one of them")
    if weights and not set(chosen) & set(weighted()):
        raise ConfigError(
            f"--weights needs {listed(_WEIGHTED, 'or')}, because fused vectors have the "
            "weights of the run. To change those, run soloist embed with other --weights, which fuses again and embeds "
            "nothing"
        )
    if not chosen:
        return None
    (name,) = chosen
    return By(model=str(rankers[name])) if searchable()[name].takes_model else By(ranker=name, weights=weights)
