"""Options that are lists: `A,B` to names and `A=.7,B=.3` to numbers, or an error that shows the right form."""

from __future__ import annotations

from collections.abc import Sequence

from soloist.errors import ConfigError


def split(option: str, items: Sequence[str] | None) -> list[str] | None:
    """The names of a list option, which is separated by commas or repeated; None where it was not given."""
    if not items:  # typer gives an empty list for an option that was not given
        return None
    names = [part.strip() for item in items for part in item.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"{option} is empty: give names such as a,b, or leave the option out")
    return names


def numbers_by_name(items: Sequence[str] | None, models: Sequence[str] = ()) -> dict[str, float] | None:
    """The numbers of an option such as `A=.7,B=.3`; None where it was not given. An error shows it for the `models`."""
    if not items:  # as in split
        return None
    given = [item.strip() for item in ",".join(items).split(",")]
    weights: dict[str, float] = {}
    for item in given:
        name, equals, number = (part.strip() for part in item.rpartition("="))
        if not (equals and name and _is_number(number)):
            raise ConfigError(
                f"--weights has {item!r}, {_fault(name, equals, number)}: give each model a weight, e.g. --weights "
                f"{_example(given, models)}"
            )
        if name in weights:
            raise ConfigError(
                f"--weights names {name} twice: give each model one weight, e.g. --weights {_example(given, models)}"
            )
        weights[name] = float(number)
    return weights


def _fault(name: str, equals: str, number: str) -> str:
    if equals and name:
        return f"where {number!r} is not a number"
    return "which does not name a model" if _is_number(number) else "which is not model=number"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _example(given: Sequence[str], models: Sequence[str]) -> str:
    """The right form, with the numbers that were given where there is one for each model."""
    names = tuple(dict.fromkeys(models)) or ("a", "b")
    numbers = [item.rpartition("=")[2].strip() for item in given]
    if len(numbers) != len(names) or not all(map(_is_number, numbers)):
        numbers = [".7", ".3"] if len(names) == 2 else ["1"] * len(names)
    return ",".join(f"{name}={number}" for name, number in zip(names, numbers, strict=True))
