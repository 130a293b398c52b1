"""`soloist embed`: options to a RunConfig, and one call of the engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.config import DEFAULT_MODELS, RunConfig
from soloist.errors import ConfigError
from soloist.formats import DEFAULT_FILE_PATTERNS
from soloist.fusion_methods import DEFAULT_FUSION, FUSIONS, NO_FUSION, fusion_choices
from soloist.jsontext import json_text
from soloist.models.catalogue import resolve
from soloist.models.user_catalogue import load_catalogue
from soloist.types import DTypeRequest, Isolation, Mode, OnBadInput, Packing, VectorDType

_MODELS_HELP = f"""Catalogue names, folders or hub ids, in the order of their passes.
[default: {",".join(DEFAULT_MODELS)}]"""
_MODE_HELP = """exclusive: one model at a time on all devices. standard: all models are on the devices together,
and take turns for each shard. The vectors are the same. [default: exclusive]"""
_FUSION_HELP = f"""How the models' vectors become one.
{" ".join(f"{name}: {method.help}." for name, method in FUSIONS.items())}
{NO_FUSION}: no fused vectors. Measured with MiniLM and WordLlama on seven retrieval sets: concat beat the better single
model on six of them at weights .7/.3 and on all seven at .85/.15; the plain mean at 256 dimensions lost on all seven.
[default: {DEFAULT_FUSION}]"""
_WEIGHTS_HELP = "A weight for every model; 0 leaves it out of the fused vector. [default: equal weights]"
DTYPE_HELP = """The dtype that the models compute in. auto-fast: like auto, but bfloat16 on a CPU that has instructions
for it; the loss of precision is measured and reported. [default: auto]"""
_VECTOR_DTYPE_HELP = """The dtype that vectors are stored in. float16 takes half the bytes; the cosine between a vector
and its stored form is above 1 - 1.3e-7. [default: float32]"""
_BUDGET_HELP = "Tokens in a batch, padding included. [default: as calibrated, else by the kind of device]"
_ACCELERATOR_HELP = "auto, cpu, cuda, cuda:0,1, simulated:2xT4 or simulated:2x15.83GB. [default: auto]"
_BAD_INPUT_HELP = """error: stop at the first fault. skip: leave it out and list it in skipped.jsonl. A text without
tokens, or with a zero vector, in one of the models is such a fault, and is left out for all models. Empty texts and
empty files are no faults: they are always left out and listed there. [default: error]"""
_TIMEOUT_HELP = "How long to wait for devices that another process holds. [default: no limit]"
_CACHE_HELP = "The folder where runs keep what they measure for later plans. [default: the user's cache folder]"
_ISOLATION_HELP = """allocator: after a pass, this process keeps only its CUDA contexts on the devices. process: each
pass runs in its own process, so that the contexts are freed too. [default: allocator]"""
_PACKING_HELP = """Compute rows without padding, for models that allow it. auto: on the CPU only. on: on devices
too; this has not been measured on a GPU yet. off: never. [default: auto]"""
_STOP_HELP = """Stop after a time such as 8h30m. The shard in work is finished first, and the exit code is 3. The same
command continues the run. [default: never]"""
_REUSE_HELP = "Folders of other runs. Vectors that the same models made of the same texts are copied from there."
_DRY_HELP = """Say by collection which chunks are new, changed, gone and unchanged in the folder --out, and how many
texts each model would embed. Loads no model and writes nothing."""
_CONFIG_HELP = "A TOML file that sets these options, with their names in snake_case. The command line wins over it."
_NEEDED = {"chunks_root": "the folder of chunks: add CHUNKS_ROOT", "out": "the folder to write: add --out"}


def choices(literal: Any) -> str:
    """The values of a Literal, as the help shows them."""
    return "|".join(get_args(literal))


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
    return "which names no model" if _is_number(number) else "which has no model=number"


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


def split(option: str, items: Sequence[str] | None) -> list[str] | None:
    """The names of a list option, which is separated by commas or repeated; None where it was not given."""
    if not items:  # typer gives an empty list for an option that was not given
        return None
    names = [part.strip() for item in items for part in item.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"{option} names nothing: give names such as a,b, or leave it out")
    return names


def embed(
    chunks_root: Annotated[
        str | None, typer.Argument(metavar="CHUNKS_ROOT", help="The folder with the collections of chunks.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="PATH", help="The folder to write: a new one, or that of a run.")
    ] = None,
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
    weights: Annotated[list[str] | None, typer.Option(metavar="A=.7,B=.3", help=_WEIGHTS_HELP)] = None,
    mode: Annotated[str | None, typer.Option(metavar=choices(Mode), help=_MODE_HELP)] = None,
    fusion: Annotated[str | None, typer.Option(metavar="|".join(fusion_choices()), help=_FUSION_HELP)] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            help="Components that fusion keeps of each model's vector; of a projection, those of the fused one."
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(metavar=choices(DTypeRequest), help=DTYPE_HELP)] = None,
    vector_dtype: Annotated[str | None, typer.Option(metavar=choices(VectorDType), help=_VECTOR_DTYPE_HELP)] = None,
    accelerator: Annotated[
        str | None, typer.Option(envvar="SOLOIST_ACCELERATOR", metavar="KIND", help=_ACCELERATOR_HELP)
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help=_BUDGET_HELP)] = None,
    on_bad_input: Annotated[str | None, typer.Option(metavar=choices(OnBadInput), help=_BAD_INPUT_HELP)] = None,
    config: Annotated[Path | None, typer.Option(metavar="PATH", help=_CONFIG_HELP)] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help="A TOML file with models of your own."),
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
        str | None,
        typer.Option(envvar="SOLOIST_LOCK_DIR", metavar="PATH", help="Where all processes keep the devices' locks."),
    ] = None,
    cache_dir: Annotated[str | None, typer.Option(envvar="SOLOIST_CACHE_DIR", metavar="PATH", help=_CACHE_HELP)] = None,
    isolation: Annotated[str | None, typer.Option(metavar=choices(Isolation), help=_ISOLATION_HELP)] = None,
    packing: Annotated[str | None, typer.Option(metavar=choices(Packing), help=_PACKING_HELP)] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="TIME", help=_STOP_HELP)] = None,
    reuse: Annotated[list[str] | None, typer.Option(metavar="RUN,RUN", help=_REUSE_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_HELP)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print as JSON the result, as run.json has it; with --dry-run, the changes.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Embed the chunks below CHUNKS_ROOT into the folder --out, or go on with the run that is there.

    Vectors of chunks that are the same are kept: a run that was stopped, or whose chunks have changed, costs only what
    is left to do. Settings of the folder are kept too, unless the command names others: models, collections,
    catalogue, fusion, fields, file patterns, --on-bad-input, dtypes, packing and shard size.

    A list is separated by commas, or the option is repeated. The environment variables win over --config, the
    options over both.
    """
    # Named like the settings, and checked by the config alone: as text, since a Path of "" is the working directory.
    given = dict(locals())
    for name in ("config", "dry_run", "as_json", "debug"):
        del given[name]
    with exit_codes(debug=debug):
        for name in ("collections", "models", "file_patterns", "reuse"):
            given[name] = split(f"--{name.replace('_', '-')}", given[name])
        if weights:
            given["weights"] = numbers_by_name(weights, _model_names(_config(config, {**given, "weights": None})))
        if dry_run:
            print_changes_of(_config(config, given), as_json=as_json)
        else:
            _run(_config(config, given), as_json)


def print_changes_of(config: RunConfig, *, as_json: bool) -> None:
    """Print what a run would change; also where a status is asked for with chunks."""
    with importing():
        from soloist.engine.resume.changes import changes
        from soloist.reports.changes import print_changes
        from soloist.reports.table import open_console

    found = changes(config)
    with written_to_stdout("the changes"):
        if as_json:
            typer.echo(json_text(found.to_dict(), indent=2))
        else:
            print_changes(found, open_console(sys.stdout))


def _config(path: Path | None, given: dict[str, Any]) -> RunConfig:
    if path is not None:
        return RunConfig.from_toml(path, **given)
    for name, what in _NEEDED.items():
        if given[name] is None:
            raise ConfigError(f"the command line does not name {what}, or a --config that sets {name}")
    return RunConfig.from_mapping({}, origin="the command line", **given)


def _model_names(config: RunConfig) -> list[str]:
    """The names by which weights call the models: those of the command or, where it names none, of the run's folder."""
    if "models" not in config.named() and config.out.is_dir():
        with importing():
            from soloist.engine.resume.kept_settings import settled

        config = settled(config).config
    known = load_catalogue(config.catalogue)
    return [resolve(each, known).name for each in config.models]


def _run(config: RunConfig, as_json: bool) -> None:
    with importing():
        from soloist import engine
        from soloist.reports.progress import progress
        from soloist.reports.table import open_console, print_result

    with progress(sys.stderr) as sink:
        result = engine.run(config, sink)
    with written_to_stdout("the table", before=f"the results are in {config.out}, but "):
        if as_json:
            typer.echo(json_text(result.to_dict(), indent=2))
        else:
            print_result(result, open_console(sys.stdout))
