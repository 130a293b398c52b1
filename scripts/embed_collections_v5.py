"""Embed collections of chunks: the command line of the validation plan, translated to the adapter's embedder.

Writes, below --output-root:

    embedding_summary.json                          a list with an item for each collection
    <collection>/<collection>_embeddings.npy        (chunks, dim) float32, rows in input order
    <collection>/<collection>_ids.json              the rows' ids
    <collection>/<collection>_metadata.jsonl        a line for each row: id, text, metadata
    <collection>/<collection>_processing_stats.json settings, figures and lease events; written last
    run/                                            the last run's own folder, with every model's vectors

Each command that embeds replaces the whole of `run/`, which then has only the collections of that command.

Exit codes: 0 done, 1 failed, 2 wrong usage or contradicting flags, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("soloist") is None:
    sys.path.insert(1, str(ROOT / "src"))

# Below the lines that make them importable from a checkout.
from processor.collection_results import (  # noqa: E402
    RUN,
    digest_of_run,
    digest_of_source,
    install,
    made_folder,
    pack,
    require_usable,
    result_file,
    stats_file,
    temporary_folder,
    write_json,
    write_metadata,
    write_vectors,
)
from processor.ultimate_embedder.config import FUSION_METHODS, EnsembleConfig  # noqa: E402
from processor.ultimate_embedder.log import logger, make_visible  # noqa: E402
from soloist.config import DEFAULT_MODELS, SourceConfig  # noqa: E402
from soloist.errors import ConfigError, NothingToEmbedError, OutputError, SoloistError  # noqa: E402
from soloist.formats import DEFAULT_FILE_PATTERNS  # noqa: E402
from soloist.sources import discover  # noqa: E402
from soloist.stores import RunFolder, folder_name  # noqa: E402
from soloist.stores.atomic import disk_errors  # noqa: E402
from soloist.types import Collection, OnBadInput  # noqa: E402

if TYPE_CHECKING:
    from processor.ultimate_embedder.core import UltimateKaggleEmbedderV4
    from processor.ultimate_embedder.results import FinishedRun
    from soloist.engine.result import CollectionReport

_BAD_INPUT_HELP = """stop at the first fault, or leave it out; empty texts and empty files are always left out
(default: %(default)s)"""
_PATTERNS_HELP = f"names of chunk files (default: {','.join(DEFAULT_FILE_PATTERNS)})"
_SKIP_HELP = "leave out collections that have results (default: no, results are made again and replaced)"
_SUMMARY_HELP = "where the summary goes (default: OUTPUT_ROOT/embedding_summary.json)"
_ZIP_HELP = "pack the output root into OUTPUT_ROOT.zip too (default: no)"
_AGGREGATION_HELP = "how to fuse the models' vectors (default: weighted_average)"
_FOR_ENSEMBLES = {
    "--exclusive-ensemble": "exclusive_ensemble",
    "--ensemble-models": "ensemble_models",
    "--aggregation-method": "aggregation_method",
    "--model-weights": "model_weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    complaint = contradiction(options)
    if complaint is not None:
        parser.error(complaint)
    make_visible()
    try:
        embed_collections(options)
    except SoloistError as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Embed collections of chunks with one model or an ensemble.")
    add = parser.add_argument
    yes_or_no = argparse.BooleanOptionalAction
    add("--chunks-root", type=Path, required=True, metavar="DIR", help="the folder of the collections")
    add("--output-root", type=Path, required=True, metavar="DIR", help="where results go")
    add(
        "--collections",
        nargs="+",
        default=[],
        metavar="NAME",
        help="which collections to embed (default: all with chunks)",
    )
    add("--on-bad-input", choices=get_args(OnBadInput), default="error", help=_BAD_INPUT_HELP)
    add("--file-patterns", type=_names, default=DEFAULT_FILE_PATTERNS, metavar="A,B", help=_PATTERNS_HELP)
    add("--text-field", default="text", metavar="NAME", help="the field that holds the text (default: %(default)s)")
    add("--id-field", metavar="NAME", help="the field that holds the id (default: the usual names)")
    add("--model", default=DEFAULT_MODELS[0], metavar="NAME", help="the primary model (default: %(default)s)")
    add("--enable-ensemble", action="store_true", help="embed with several models, and fuse their vectors")
    add(
        "--ensemble-mode",
        choices=("auto", "sequential", "disabled"),
        default="auto",
        help="auto: the other flags decide (default: auto)",
    )
    add("--exclusive-ensemble", action="store_true", help="lease all devices to one model at a time")
    add("--ensemble-models", type=_names, metavar="A,B", help=f"the models (default: {','.join(DEFAULT_MODELS)})")
    add("--aggregation-method", choices=tuple(FUSION_METHODS), help=_AGGREGATION_HELP)
    add("--model-weights", type=_weights, metavar="A=.7,B=.3", help="weights of the models (default: equal)")
    add("--matryoshka-dim", type=_positive, metavar="N", help="cut every model's vectors to N components")
    add("--summary", type=Path, metavar="FILE", help=_SUMMARY_HELP)
    add("--skip-existing", action=yes_or_no, default=False, help=_SKIP_HELP)
    add("--force-cpu", action="store_true", help="compute on the CPU")
    add("--zip-output", action=yes_or_no, default=False, help=_ZIP_HELP)
    return parser


def contradiction(options: argparse.Namespace) -> str | None:
    """A sentence about the first pair of settings that contradict each other; None where there is none."""
    if options.enable_ensemble and options.ensemble_mode == "disabled":
        return "--enable-ensemble contradicts --ensemble-mode disabled: leave one of them out"
    if not options.enable_ensemble:
        given = [flag for flag, name in _FOR_ENSEMBLES.items() if getattr(options, name)]
        given += ["--ensemble-mode sequential"] if options.ensemble_mode == "sequential" else []
        if given and options.ensemble_mode == "disabled":
            return f"{given[0]} contradicts --ensemble-mode disabled: leave one of them out"
        if given:
            return f"{given[0]} is for ensembles: add --enable-ensemble, or leave it out"
    named = os.environ.get("SOLOIST_ACCELERATOR") or "auto"
    if options.force_cpu and named not in ("auto", "cpu"):
        return f"--force-cpu contradicts SOLOIST_ACCELERATOR={named}: leave one of them out"
    if options.output_root.resolve().is_relative_to(options.chunks_root.resolve()):
        return "--output-root is inside --chunks-root, so results would be read as chunks: choose another folder"
    return None


def embed_collections(options: argparse.Namespace) -> None:
    """Embed the collections of the options, and write the results.

    Raises:
        SoloistError: see `soloist.errors`. Results that were there before are still whole.
    """
    output: Path = options.output_root.resolve()
    source = _source(options)
    collections = discover(options.chunks_root, source, tuple(options.collections))
    require_usable(output, [collection.name for collection in collections])
    with made_folder(output):
        _write_results(options, output, collections, source)


def _write_results(
    options: argparse.Namespace, output: Path, collections: Sequence[Collection], source: SourceConfig
) -> None:
    names = [collection.name for collection in collections]
    embedder = _embedder(options, source)
    done = [collection for collection in collections if _is_done(output, collection.name, options)]
    request = _request(options, embedder.fingerprints)
    skipped = {one.name: _stored_item(output, one, source, request) for one in done}
    for name in skipped:
        logger.info("%s: left out, its results are already there (--skip-existing)", name)
    items = _embed(embedder, options, output, tuple(skipped)) if len(skipped) < len(names) else {}
    # A collection in neither has no chunks and was not asked for.
    empty = {name: {"collection": name, "chunks": 0, "ensemble_mode": _mode(options)} for name in names}
    write_json(
        options.summary or output / "embedding_summary.json",
        [{**empty, **skipped, **items}[name] for name in names],
    )
    if options.zip_output:
        pack(output)


def _embed(
    embedder: UltimateKaggleEmbedderV4, options: argparse.Namespace, output: Path, skipped: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """One run over all collections but the skipped ones; their items of the summary."""
    from soloist.stopping import first_interrupt_only  # imports torch, as in _embedder

    root, asked = options.chunks_root, options.collections
    loaded = embedder.load_chunks_from_processing(root, collections=asked, exclude=skipped)
    if not loaded["total_chunks"]:
        return {}
    _warn_of_replacing(output, loaded["collections"])
    with first_interrupt_only(), temporary_folder(output) as temporary:
        try:
            results = embedder.generate_embeddings_kaggle_optimized(output_dir=temporary / RUN)
        except NothingToEmbedError as exc:
            if asked or not skipped:
                raise
            logger.warning("%s; the results that are there stay as they are", exc)
            return {}
        assert embedder.last_run is not None
        install(temporary / RUN, output / RUN, temporary / "replaced")
    run = dataclasses.replace(embedder.last_run, folder=RunFolder.open(output / RUN))
    return {name: _write_collection(run, results, name, output, options) for name in run.counts}


def _warn_of_replacing(output: Path, names: Iterable[str]) -> None:
    existing = [name for name in names if result_file(output, name, "embeddings.npy").exists()]
    existing += [RUN] if (output / RUN).exists() else []
    if existing:
        logger.warning("in %s, new results replace these: %s", output, ", ".join(existing))


def _source(options: argparse.Namespace) -> SourceConfig:
    return SourceConfig(
        text_field=options.text_field,
        id_field=options.id_field,
        file_patterns=tuple(options.file_patterns),
        on_bad_input=options.on_bad_input,
    )


def _embedder(options: argparse.Namespace, source: SourceConfig) -> UltimateKaggleEmbedderV4:
    # Imports torch, which takes seconds that a wrong flag, a missing folder and --help do not need.
    from processor.ultimate_embedder.core import UltimateKaggleEmbedderV4

    if not options.enable_ensemble:
        return UltimateKaggleEmbedderV4(
            options.model, matryoshka_dim=options.matryoshka_dim, force_cpu=options.force_cpu, source=source
        )
    config = EnsembleConfig(
        ensemble_models=_roster(options),
        exclusive_mode=options.exclusive_ensemble,
        aggregation_method=_aggregation(options),
        model_weights=options.model_weights,
        matryoshka_dim=options.matryoshka_dim,
    )
    return UltimateKaggleEmbedderV4(
        options.model, enable_ensemble=True, ensemble_config=config, force_cpu=options.force_cpu, source=source
    )


def _roster(options: argparse.Namespace) -> list[str]:
    """All models, each once, and the primary one first."""
    return list(dict.fromkeys([options.model, *(options.ensemble_models or DEFAULT_MODELS)]))


def _aggregation(options: argparse.Namespace) -> Any:
    return options.aggregation_method or "weighted_average"


def _mode(options: argparse.Namespace) -> str:
    if not options.enable_ensemble:
        return "disabled"
    return "exclusive" if options.exclusive_ensemble else "sequential"


def _request(options: argparse.Namespace, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """All settings that change a vector: results with other settings are not kept."""
    common = {"matryoshka_dim": options.matryoshka_dim, "fingerprints": dict(fingerprints)}
    if not options.enable_ensemble:
        return {"models": [options.model], **common}
    return {
        "models": _roster(options),
        **common,
        "aggregation_method": _aggregation(options),
        "model_weights": options.model_weights,
    }


def _write_collection(
    run: FinishedRun, results: dict[str, Any], name: str, output: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The files of one collection; its item of the summary."""
    with disk_errors(stats_file(output, name)):
        stats_file(output, name).unlink(missing_ok=True)  # it is written last, when the other files are whole
    write_vectors(run, name, result_file(output, name, "embeddings.npy"))
    write_json(result_file(output, name, "ids.json"), [row for ids, _ in run.shards(name) for row in ids])
    write_metadata(run, name, result_file(output, name, "metadata.jsonl"))
    item = _item(run, results, name, output, options)
    leases = results["gpu_lease_events"]
    details = {key: results[key] for key in ("model_reports", "notices")}
    write_json(stats_file(output, name), {**item, **details, "gpu_lease_events": leases, "lease_events": leases})
    return item


_SHARED_FIGURES = (
    "ensemble_mode", "model", "models", "aggregation_method", "model_weights", "matryoshka_dim", "embedding_dimension",
    "optimal_batch_size", "optimal_batch_sizes", "dtypes", "accelerator", "devices",
)  # fmt: skip


def _item(
    run: FinishedRun, results: dict[str, Any], name: str, output: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The summary item of a collection. Its `run_*` figures are of the run over all collections of this command."""
    report = next(report for report in run.result.collections if report.name == name)
    fingerprints = {model: report["fingerprint"] for model, report in results["model_reports"].items()}
    return {
        "collection": name,
        "chunks": report.chunks,
        "skipped_chunks": report.skipped,
        "files": report.files,
        "skipped_existing": False,
        **{key: results[key] for key in _SHARED_FIGURES},
        "run_chunks": results["total_chunks"],
        "run_seconds": results["seconds"],
        "run_chunks_per_second": results["chunks_per_second"],
        "output_folder": str(output / folder_name(name)),
        "request": {**_request(options, fingerprints), "chunks": _digest_of_chunks(run, report, options)},
    }


def _is_done(output: Path, name: str, options: argparse.Namespace) -> bool:
    needed = (stats_file(output, name), result_file(output, name, "embeddings.npy"))
    return bool(options.skip_existing) and all(file.is_file() for file in needed)


def _stored_item(output: Path, collection: Collection, source: SourceConfig, request: dict[str, Any]) -> dict[str, Any]:
    """The summary item of a collection that was embedded before, from the same chunks with the same settings."""
    file = stats_file(output, collection.name)
    try:
        stats = json.loads(file.read_text(encoding="utf-8"))
        made_with = dict(stats["request"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{file} cannot be read as processing stats: use --no-skip-existing to replace it") from exc
    asked = {**request, "chunks": digest_of_source(collection, source)}
    other = [name.replace("_", " ") for name in {**asked, **made_with} if asked.get(name) != made_with.get(name)]
    if other:
        raise ConfigError(
            f"the results of {collection.name} were made with other {', '.join(other)} than this command names: give "
            "--no-skip-existing to replace them, or another --output-root"
        )
    details = {"model_reports", "notices", "gpu_lease_events", "lease_events"}
    return {**{key: value for key, value in stats.items() if key not in details}, "skipped_existing": True}


def _digest_of_chunks(run: FinishedRun, report: CollectionReport, options: argparse.Namespace) -> str:
    """The digest of the chunks in a collection's files, as the run read them.

    The run does not have texts that were left out because of a model, so the files are read again. If they have changed
    since the run read them, this is the digest of the run: the next command finds other chunks.
    """
    of_run = digest_of_run(run, report.name)
    if not report.without_vector:
        return of_run
    source = _source(options)
    (collection,) = discover(options.chunks_root, source, (report.name,))
    log = (run.folder.path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, log) if row["collection"] == report.name and row.get("models")]
    left_out = {(row["file"], row["index"]) for row in rows}
    if digest_of_source(collection, source, left_out) != of_run:
        return of_run
    return digest_of_source(collection, source)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name: give names such as a,b")
    return names


def _weights(text: str) -> dict[str, float]:
    pairs = [item.rpartition("=") for item in text.split(",")]
    try:
        weights = {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        weights = {}
    if len(weights) != len(pairs) or not all(weights):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of weights: give each model once with its weight, such as a=.7,b=.3"
        )
    return weights


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dimensions: give a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
