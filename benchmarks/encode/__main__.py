"""soloist beside other engines, in one run, on the same texts and threads, in turn.

Engines in environments of their own, such as CTranslate2, take part where `make bench-engines` has made these.
Writes encode-*.json, .md and .png into --results; prints the table, and as its last line one JSON object. Exit code 1
where soloist's vectors are not the reference's, 2 where it cannot measure.

    python -m benchmarks.encode [--quick] [--model NAME] [--devices cpu|cuda|cuda:0,cuda:1] [--rounds 3] [...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.encode.engines import BATCH_SIZES, PRECISIONS, REFERENCE, STATIC_BATCH_SIZES, Engine, engines_for
from benchmarks.encode.plot import plot
from benchmarks.encode.processes import WorkerError
from benchmarks.encode.rounds import Job, measure
from benchmarks.encode.summary import faults_of, summarize
from benchmarks.encode.table import markdown
from benchmarks.local_models import DEFAULT_MODEL, located, token_counter
from benchmarks.machine import ROOT, commit, cores, hardware, slug, versions, warn_of_kernel_variables
from benchmarks.options import filled
from benchmarks.texts import Texts, documentation, many_pieces

RESULTS = ROOT / "benchmarks" / "results"
_CHUNKS = 2000
_STATIC_CHUNKS = 20_000  # a static model embeds these in about a second


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    warn_of_kernel_variables()
    devices = _devices(options.devices)
    if devices is None:
        print("no CUDA device is here, so there is nothing to measure on: run this on a machine with one")
        return 2
    try:
        report = _measured(options, devices)
    except WorkerError as exc:
        print(f"nothing could be measured: {exc}", file=sys.stderr)
        return 2
    print(markdown(report))
    if options.results:
        _save(report, Path(options.results))
    print(json.dumps(report))
    faults = faults_of(report)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 200 chunks, 1 round, nothing saved")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model of the catalogue, or a folder")
    parser.add_argument("--devices", default="cpu", help="cpu, cuda for all, or a list such as cuda:0,cuda:1")
    parser.add_argument("--chunks", type=int, help="default: 2,000, and 20,000 for a static model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--precisions", help="e.g. float32,bfloat16; default: all that can be compared on the devices")
    parser.add_argument("--engines", help="engines whose names contain one of these, e.g. soloist,openvino")
    parser.add_argument("--search-chunks", type=int, help="number of chunks on which the best batch size is measured")
    parser.add_argument(
        "--results", help=f"the folder for results; default without --quick: {RESULTS.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    usual = {"chunks": 200, "rounds": 1, "search_chunks": 64, "results": ""} if options.quick else {
        "rounds": 3, "search_chunks": 1000, "results": str(RESULTS)
    }  # fmt: skip
    return filled(options, usual)


def _devices(wanted: str) -> tuple[str, ...] | None:
    """The devices by torch's names; None where CUDA is wanted and is not there."""
    if wanted == "cpu":
        return ("cpu",)
    import torch

    count = torch.cuda.device_count()
    if not count:
        return None
    return tuple(f"cuda:{index}" for index in range(count)) if wanted == "cuda" else tuple(wanted.split(","))


def _measured(options: argparse.Namespace, devices: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="soloist-bench-") as temp:
        folder = _model_folder(options.model, Path(temp))
        static = _is_static(folder)
        texts = _texts(options.chunks or (_STATIC_CHUNKS if static else _CHUNKS))
        sizes = STATIC_BATCH_SIZES if static else BATCH_SIZES
        job = Job(
            model=options.model, folder=folder, texts=texts.texts, devices=devices, threads=options.threads,
            rounds=options.rounds, search_chunks=len(texts.texts) if static else options.search_chunks,
            batch_sizes=sizes[2:4] if options.quick else sizes, loads_again=static,
        )  # fmt: skip
        found = summarize(measure(job, _engines(options, devices, static=static), Path(temp), _say))
    return {**_circumstances(options, devices, texts), **found}


def _texts(count: int) -> Texts:
    """Pieces of documentation. If there are too few, shorter pieces of all texts."""
    found = documentation(count, token_counter())
    return found if len(found.texts) == count else many_pieces(count, token_counter())


def _engines(options: argparse.Namespace, devices: tuple[str, ...], *, static: bool) -> list[Engine]:
    """Those that the options ask for, and the reference."""
    precisions = (options.precisions or ",".join(_precisions(devices))).split(",")
    wanted = options.engines.split(",") if options.engines else [""]
    return [
        engine
        for engine in engines_for(devices[0].split(":")[0], (*precisions, "float32"), static=static)
        if engine.name == REFERENCE or (engine.beside in precisions and any(part in engine.name for part in wanted))
    ]


def _is_static(folder: Path) -> bool:
    """Whether the model is a table of token vectors, and no network."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    return any(module["type"].endswith(".StaticEmbedding") for module in modules)


def _circumstances(options: argparse.Namespace, devices: tuple[str, ...], texts: Texts) -> dict[str, Any]:
    return {
        "benchmark": "encode",
        "commit": commit(),
        "model": Path(options.model).name,  # of a folder its name alone: results are published
        "source": texts.source,
        "devices": _card_names(devices),
        "threads": options.threads,
        "rounds": options.rounds,
        "hardware": hardware(),
        "versions": versions(("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")),
    }


def _precisions(devices: tuple[str, ...]) -> tuple[str, ...]:
    """All of the kind's; without bfloat16 on cards that only emulate it."""
    if devices == ("cpu",):
        return PRECISIONS["cpu"]
    import torch

    emulated = torch.cuda.get_device_capability(devices[0]) < (8, 0)
    return tuple(each for each in PRECISIONS["cuda"] if not (emulated and each == "bfloat16"))


def _card_names(devices: tuple[str, ...]) -> list[str]:
    if devices == ("cpu",):
        return ["cpu"]
    import torch

    return [torch.cuda.get_device_name(device) for device in devices]


def _model_folder(model: str, temp: Path) -> Path:
    """A folder that sentence-transformers loads; written for models that come in another shape."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from soloist.models.catalogue import resolve
    from soloist.models.loading import stage

    spec = resolve(model)
    if spec.loader != "wordllama":
        return located(model)
    table = stage(spec, "float32").module[0]
    module = StaticEmbedding(table.tokenizer, embedding_weights=table.embedding.weight.detach())
    SentenceTransformer(modules=[module], device="cpu").save(str(temp / "model"))
    return temp / "model"


def _save(report: dict[str, Any], folder: Path) -> None:
    """The figures, the table and the picture, side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_file_stem(report)}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(report))
    try:
        plot(report, path.with_suffix(".png"))
    except ModuleNotFoundError:
        print("no picture, since matplotlib is not installed: install the extra `bench`", file=sys.stderr)


def _file_stem(report: dict[str, Any]) -> str:
    """E.g. `encode-2-core-cpu`, `encode-gpu-2x-tesla-t4`; with the model where it is not the usual one."""
    cards = report["devices"]
    several = f"{len(cards)}x-" if len(cards) > 1 else ""
    place = f"{report['hardware']['cores']}-core-cpu" if cards == ["cpu"] else f"gpu-{several}{slug(cards[0])}"
    model = "" if report["model"] == DEFAULT_MODEL else f"-{slug(report['model'])}"
    return f"encode-{place}{model}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
