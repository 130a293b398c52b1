"""`soloist embed`: options to a RunConfig, and one call of the engine."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import typer

from soloist.cli import options
from soloist.cli.lists import numbers_by_name, split
from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.way_on import WayOn, of_a_run, starts_again
from soloist.config import RunConfig, read_toml
from soloist.errors import ConfigError
from soloist.jsontext import json_text
from soloist.models.catalogue import resolve
from soloist.models.user_catalogue import load_catalogue

_NEEDED = {"chunks_root": "the folder of chunks: add CHUNKS", "out": "the run folder: add --out"}
_NOT_SETTINGS = ("config", "dry_run", "as_json", "debug")
_LISTS = ("collections", "models", "file_patterns", "reuse")


def embed(
    chunks_root: options.ChunksRoot = None,
    out: options.Out = None,
    collections: options.Collections = None,
    models: options.Models = None,
    weights: options.Weights = None,
    mode: options.ModeChoice = None,
    fusion: options.Fusion = None,
    dim: options.Dim = None,
    dtype: options.DType = None,
    vector_dtype: options.StoredDType = None,
    language: options.Language = None,
    sparse_top: options.SparseTop = None,
    accelerator: options.Accelerator = None,
    token_budget: options.TokenBudget = None,
    on_bad_input: options.BadInput = None,
    config: options.Config = None,
    catalogue: options.Catalogue = None,
    text_field: options.TextField = None,
    id_field: options.IdField = None,
    file_patterns: options.FilePatterns = None,
    shard_chunks: options.ShardChunks = None,
    lease_timeout_seconds: options.LeaseTimeout = None,
    lock_dir: options.LockDir = None,
    cache_dir: options.CacheDir = None,
    isolation: options.IsolationChoice = None,
    packing: options.PackingChoice = None,
    matmul: options.MatmulChoice = None,
    stop_after: options.StopAfter = None,
    reuse: options.Reuse = None,
    cluster: options.Cluster = None,
    mixed_cards: options.MixedCards = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Embed the chunks of the folder CHUNKS into the run folder --out, or continue the run that is there.

    Vectors of unchanged chunks are kept. A run that was stopped, or whose chunks have changed, does only what is left.
    Settings of the folder are kept too, unless the command gives others: models, collections, catalogue, fusion,
    fields, file patterns, --on-bad-input, dtypes, packing, matmul and shard size.

    Separate the items of a list by commas, or repeat the option. Environment variables win over --config, and options
    win over both.
    """
    # The options are named like the settings, and the config alone checks them. Paths are texts until then, because
    # Path("") is the working directory.
    given = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    way_on = starts_again if dry_run else of_a_run(_folder(out, config))
    with exit_codes(debug=debug, way_on=way_on):
        for name in _LISTS:
            given[name] = split(f"--{name.replace('_', '-')}", given[name])
        if weights:
            given["weights"] = numbers_by_name(weights, _model_names(_config(config, {**given, "weights": None})))
        if dry_run:
            print_changes_of(_config(config, given), as_json=as_json)
        else:
            _run(_config(config, given), as_json, way_on)


def print_changes_of(config: RunConfig, *, as_json: bool) -> None:
    """Print what a run would change; also where a status is asked for with chunks."""
    with importing():
        from soloist.engine.resume.changes import changes
        from soloist.reports.changes import print_changes
        from soloist.reports.table import open_console

    planned = changes(config)
    with written_to_stdout("the changes"):
        if as_json:
            typer.echo(json_text(planned.to_dict(), indent=2))
        else:
            print_changes(planned, open_console(sys.stdout))


def _folder(out: str | None, config: Path | None) -> str | None:
    """The run folder, as far as it is known before anything is checked."""
    if out is not None or config is None:
        return out
    with contextlib.suppress(ConfigError):
        named = read_toml(config, "config file").get("out")
        return named if isinstance(named, str) else None
    return None


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
            from soloist.engine.resume.kept_settings import with_kept_settings

        config = with_kept_settings(config).config
    known = load_catalogue(config.catalogue)
    return [resolve(model, known).name for model in config.models]


def _run(config: RunConfig, as_json: bool, way_on: WayOn) -> None:
    with importing(way_on):
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
