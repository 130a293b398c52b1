"""`soloist embed`: options to a RunConfig, and one call of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from soloist.cli.outcome import exit_codes
from soloist.config import DEFAULT_FILE_PATTERNS, DEFAULT_MODELS, RunConfig
from soloist.errors import ConfigError
from soloist.types import DTypeRequest, FusionMethod, Isolation, Mode, OnBadInput

_MODELS_HELP = f"""Catalogue names, folders or hub ids, in the order of their passes.
[default: {",".join(DEFAULT_MODELS)}]"""
DTYPE_HELP = "[default: auto]"
_MODE_HELP = """exclusive: one model at a time on all devices; standard: all models together, in turn for each shard.
The vectors are the same. [default: exclusive]"""
_FUSION_HELP = """How the models' vectors become one. Measured with MiniLM and WordLlama on seven retrieval sets: concat
beat the better single model on six of them at weights .7/.3 and on all seven at .85/.15; the plain mean at 256
dimensions lost on all seven. none writes no fused vectors. [default: concat]"""
_WEIGHTS_HELP = "A weight for every model, 0 leaves it out of the fused vector. [default: all alike]"
_BUDGET_HELP = "Padded tokens in a batch. [default: by kind of device]"
_ACCELERATOR_HELP = "auto, cpu, cuda, cuda:0,1, simulated:2xT4 or simulated:2x15.83GB. [default: auto]"
_BAD_INPUT_HELP = "error: stop at the first fault; skip: leave it out and write it to skipped.jsonl. [default: error]"
_TIMEOUT_HELP = "How long to wait for devices that another process holds. [default: as long as it takes]"
_CACHE_HELP = "Where runs keep what they measure, for later plans. [default: the user's cache folder]"
_ISOLATION_HELP = """allocator: after a pass this process holds nothing on the devices but its contexts; process: each
pass has a process of its own, and the driver has those back too. [default: allocator]"""
_CONFIG_HELP = "A TOML file with these options by the same names, in snake_case; what is given here wins over it."


def _numbers_by_name(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = (part.strip() for part in item.rpartition("="))
        if name in weights:
            raise ConfigError(f"--weights names {name} twice: give each model one weight, e.g. a=.7,b=.3")
        try:
            weights[name] = float(number)
        except ValueError as exc:
            raise ConfigError(f"--weights has {item!r}: give model=number, e.g. a=.7,b=.3") from exc
    return weights


def split(option: str, items: Sequence[str] | None) -> list[str] | None:
    """The names of a list option, which is separated by commas or repeated; None where it was not given."""
    if not items:  # typer gives an empty list for an option that was not given
        return None
    names = [part.strip() for item in items for part in item.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"{option} names nothing: give names such as a,b, or leave it out")
    return names


def embed(
    chunks_root: Annotated[Path | None, typer.Argument(help="The folder with the collections of chunks.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write, new or empty.")] = None,
    collections: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Only these collections. [default: all]")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help=_MODELS_HELP,
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="A=.7,B=.3", help=_WEIGHTS_HELP)] = None,
    mode: Annotated[Mode | None, typer.Option(help=_MODE_HELP)] = None,
    fusion: Annotated[FusionMethod | None, typer.Option(help=_FUSION_HELP)] = None,
    dim: Annotated[int | None, typer.Option(help="Components that fusion keeps of each model's vector.")] = None,
    dtype: Annotated[DTypeRequest | None, typer.Option(help=DTYPE_HELP)] = None,
    accelerator: Annotated[
        str | None, typer.Option(envvar="SOLOIST_ACCELERATOR", metavar="KIND", help=_ACCELERATOR_HELP)
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help=_BUDGET_HELP)] = None,
    on_bad_input: Annotated[OnBadInput | None, typer.Option(help=_BAD_INPUT_HELP)] = None,
    config: Annotated[Path | None, typer.Option(help=_CONFIG_HELP)] = None,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", help="A TOML file with models of your own.")
    ] = None,
    text_field: Annotated[str | None, typer.Option(help="The field that holds the text. [default: text]")] = None,
    id_field: Annotated[str | None, typer.Option(help="The field of the id. [default: the usual ones]")] = None,
    file_patterns: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help=f"Names of chunk files. [default: {','.join(DEFAULT_FILE_PATTERNS)}]"),
    ] = None,
    shard_chunks: Annotated[int | None, typer.Option(help="Chunks held in memory at once. [default: 4096]")] = None,
    lease_timeout_seconds: Annotated[float | None, typer.Option(help=_TIMEOUT_HELP)] = None,
    lock_dir: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_LOCK_DIR", help="Where all processes keep the devices' locks.")
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(envvar="SOLOIST_CACHE_DIR", help=_CACHE_HELP)] = None,
    isolation: Annotated[Isolation | None, typer.Option(help=_ISOLATION_HELP)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Embed the chunks below CHUNKS_ROOT into the folder --out.

    A list is separated by commas, or the option is repeated. The environment variables win over --config, the
    options over both.
    """
    given = dict(locals())  # the options are named like the settings
    del given["config"], given["debug"]
    with exit_codes(debug=debug):
        for name in ("collections", "models", "file_patterns"):
            given[name] = split(f"--{name.replace('_', '-')}", given[name])
        given["weights"] = _numbers_by_name(weights) if weights is not None else None
        _run(_config(config, given))


def _config(path: Path | None, given: dict[str, Any]) -> RunConfig:
    if path is None:
        return RunConfig.from_mapping({}, origin="the command line", **given)
    return RunConfig.from_toml(path, **given)


def _run(config: RunConfig) -> None:
    import sys

    from soloist import engine
    from soloist.reports.progress import progress
    from soloist.reports.table import open_console, print_result

    with progress(sys.stderr) as sink:
        result = engine.run(config, sink)
    print_result(result, open_console(sys.stdout))
