"""The embedder of the validation plan: its calls and attributes, translated to soloist and back.

Reads the environment (`SOLOIST_ACCELERATOR`, `SOLOIST_CATALOGUE`, `SOLOIST_LOCK_DIR`) when an embedder is
made. Between calls it holds staged models, the folder to read and the last run.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from processor.ultimate_embedder.config import DTYPES, EnsembleConfig, KaggleGPUConfig
from processor.ultimate_embedder.log import LogSink, logger, make_visible
from processor.ultimate_embedder.results import FinishedRun, Telemetry, results_of
from soloist.arrays import Vectors
from soloist.config import DEFAULT_MODELS, FusionConfig, RunConfig, SourceConfig
from soloist.devices import Accelerator, open_accelerator
from soloist.engine import run
from soloist.errors import ConfigError, InputError
from soloist.fusion import require_weights
from soloist.models.dtype import resolve_dtype
from soloist.models.loading import StagedModel, overflows_float16, stage
from soloist.models.spec import ModelSpec
from soloist.sources import SkippedInputs, discover, read_chunks
from soloist.staging import select_models
from soloist.stores import RunFolder
from soloist.types import Collection, DTypeRequest, SkippedInput


class UltimateKaggleEmbedderV4:
    """Embeds the chunks of a folder with one model, or with an ensemble of models.

    `models` maps each model's name to its module. Modules stay on the CPU, and the devices get copies. `telemetry` is
    of the last run. With `enable_ensemble`, a primary model that the ensemble does not name comes first.
    `matryoshka_dim` is for a single model; an ensemble has it in its config. `source` says how chunk files are found
    and read.

        embedder = UltimateKaggleEmbedderV4(model_name="all-MiniLM-L6-v2")
        embedder.load_chunks_from_processing(chunks_dir="chunks")
        results = embedder.generate_embeddings_kaggle_optimized()

    Raises:
        SoloistError: settings contradict each other or cannot be used, or a model cannot be loaded.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODELS[0],
        *,
        enable_ensemble: bool = False,
        ensemble_config: EnsembleConfig | None = None,
        gpu_config: KaggleGPUConfig | None = None,
        matryoshka_dim: int | None = None,
        force_cpu: bool = False,
        source: SourceConfig | None = None,
    ) -> None:
        make_visible()
        _require_consistent(enable_ensemble, ensemble_config, matryoshka_dim)
        gpu = gpu_config or KaggleGPUConfig()
        ensemble = (ensemble_config or EnsembleConfig()) if enable_ensemble else None
        self.ensemble_mode = _mode_name(ensemble)
        config = _run_config(model_name, ensemble, matryoshka_dim, _accelerator_name(gpu, force_cpu))
        config = dataclasses.replace(config, source=source or config.source)
        selected = select_models(config)
        require_weights(config.fusion, tuple(selected))
        specs = {name: _as_it_is(spec) for name, spec in selected.items()}
        self.model_name = next(iter(select_models(dataclasses.replace(config, models=(model_name,)))))
        accelerator = open_accelerator(config.accelerator)
        self._config = dataclasses.replace(config, dtype=_dtype(gpu, accelerator, specs.values()))
        _log_devices(gpu, accelerator)
        if ensemble is not None and ensemble.exclusive_mode:
            logger.info("Exclusive ensemble mode: staging primary model to CPU")
        self._staged = _stage(specs, self._config.dtype, accelerator)
        self.models: Mapping[str, Any] = MappingProxyType({name: one.module for name, one in self._staged.items()})
        self.telemetry = Telemetry(time.time)
        self.last_run: FinishedRun | None = None
        self._embeddings: Vectors | None = None
        self._loaded: tuple[Path, tuple[str, ...]] | None = None
        self._remove_temporary: Callable[[], object] = _nothing

    def load_chunks_from_processing(
        self, chunks_dir: str | Path, *, collections: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Check and count the chunks below a folder. The next run embeds these, and no others.

        All of `collections` must exist and have chunks. Without it, every collection with chunks is used. Collections
        in `exclude` are left out, and then none has to remain. The run reads the chunks again, so that memory stays
        bounded.

        Returns:
            `{"chunks_dir", "collections": {name: chunks}, "total_chunks", "skipped_chunks"}`.

        Raises:
            InputError: the folder, a collection or a file cannot be used, or there are no chunks.
        """
        root = Path(chunks_dir)
        skipped = SkippedInputs()
        found = discover(root, self._config.source, tuple(collections))
        counts = {
            collection.name: _count(collection, self._config.source, skipped, required=collection.name in collections)
            for collection in found
            if collection.name not in exclude
        }
        taken = {name: count for name, count in counts.items() if count}
        if not taken and not exclude:
            raise InputError(f"there are no chunks to embed below {root} ({skipped}): give files that contain chunks")
        self._loaded = (root, tuple(taken)) if taken else None
        return {
            "chunks_dir": str(root),
            "collections": taken,
            "total_chunks": sum(taken.values()),
            "skipped_chunks": skipped.count,
        }

    def generate_embeddings_kaggle_optimized(self, output_dir: str | Path | None = None) -> dict[str, Any]:
        """Embed the loaded chunks. `results_of` describes the result.

        The run folder is `output_dir`, or a temporary one. A temporary folder is removed at the next run, or with the
        embedder.

        Raises:
            SoloistError: no chunks are loaded, or the run failed; see `soloist.errors`.
        """
        if self._loaded is None:
            raise InputError("no chunks are loaded: call load_chunks_from_processing first")
        chunks_root, collections = self._loaded
        self._forget_last_run()
        out = self._temporary_folder() if output_dir is None else Path(output_dir)
        config = dataclasses.replace(self._config, chunks_root=chunks_root, collections=collections, out=out)
        if self.ensemble_mode == "exclusive":
            logger.info("Exclusive ensemble mode detected")
            logger.info("run_exclusive_ensemble: %d passes: %s", len(self.models), ", ".join(self.models))
        result = run(config, self.telemetry, LogSink())
        self.last_run = FinishedRun(result=result, folder=RunFolder.open(out))
        return results_of(self.last_run, self.model_name, self.ensemble_mode, self.telemetry.gpu_lease_events)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Each model's fingerprint by its name, a digest of all that decides its vectors. Run reports have the same."""
        return {name: staged.fingerprint for name, staged in self._staged.items()}

    @property
    def embeddings(self) -> Vectors | None:
        """The last run's vectors, (chunks, dim) float32, by collection and in input order; None before a run.

        A run has one array, which is read when it is first used.
        """
        if self._embeddings is None and self.last_run is not None:
            self._embeddings = self.last_run.vectors()
        return self._embeddings

    def _forget_last_run(self) -> None:
        self.telemetry = Telemetry(time.time)
        self.last_run = None
        self._embeddings = None
        self._remove_temporary()

    def _temporary_folder(self) -> Path:
        folder = tempfile.mkdtemp(prefix="soloist-run-")
        self._remove_temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _nothing() -> None:
    """Removes nothing: there is no temporary folder yet."""


def _require_consistent(enabled: bool, ensemble: EnsembleConfig | None, matryoshka_dim: int | None) -> None:
    if ensemble is not None and not enabled:
        raise ConfigError(
            "ensemble_config is given but enable_ensemble is False: set enable_ensemble=True, or leave it out"
        )
    if enabled and matryoshka_dim is not None:
        raise ConfigError("matryoshka_dim is for a single model here: for an ensemble, set it in EnsembleConfig")


def _mode_name(ensemble: EnsembleConfig | None) -> str:
    if ensemble is None:
        return "disabled"
    return "exclusive" if ensemble.exclusive_mode else "sequential"


def _run_config(
    model_name: str, ensemble: EnsembleConfig | None, matryoshka_dim: int | None, accelerator: str
) -> RunConfig:
    """The config of every run of one embedder, but for its folders and its dtype."""
    return RunConfig(
        chunks_root=Path(),
        out=Path(),
        models=_roster(model_name, ensemble),
        mode="exclusive" if ensemble is None or ensemble.exclusive_mode else "standard",
        fusion=ensemble.fusion() if ensemble is not None else _single_fusion(matryoshka_dim),
        accelerator=accelerator,
        catalogue=_path_from("SOLOIST_CATALOGUE"),
        lock_dir=_path_from("SOLOIST_LOCK_DIR"),
    )


def _roster(model_name: str, ensemble: EnsembleConfig | None) -> tuple[str, ...]:
    named = ensemble.ensemble_models if ensemble is not None else ()
    return tuple(dict.fromkeys(named if model_name in named else (model_name, *named)))


def _single_fusion(matryoshka_dim: int | None) -> FusionConfig:
    """The vectors of a single model: unchanged, or cut and normalised again by the mean of one."""
    return FusionConfig(method="none") if matryoshka_dim is None else FusionConfig(method="mean", dim=matryoshka_dim)


def _path_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _accelerator_name(gpu: KaggleGPUConfig, force_cpu: bool) -> str:
    named = os.environ.get("SOLOIST_ACCELERATOR") or "auto"
    if force_cpu:
        if named not in ("auto", "cpu"):
            raise ConfigError(f"force_cpu contradicts SOLOIST_ACCELERATOR={named}: leave one of them out")
        return "cpu"
    if named == "simulated":
        return f"simulated:{gpu.device_count}x{gpu.vram_per_gpu_gb}GB"
    if named not in ("auto", "cuda"):
        return named
    devices = open_accelerator(named).devices
    indices = [device.removeprefix("cuda:") for device in devices[: gpu.device_count]]
    return "cpu" if devices == ("cpu",) else f"cuda:{','.join(indices)}"


def _dtype(gpu: KaggleGPUConfig, accelerator: Accelerator, specs: Iterable[ModelSpec]) -> DTypeRequest:
    """The precision that was asked for; where that is float16 and cannot be had, auto, and a line in the log."""
    if gpu.precision != "fp16":
        return DTYPES[gpu.precision]
    overflowing = [spec.name for spec in specs if spec.overflows_float16]
    if accelerator.kind == "cpu":
        logger.info("precision fp16 is for GPUs: on the CPU each model computes in its own best dtype")
        return "auto"
    if overflowing:
        logger.warning("%s overflows float16: each model computes in its own best dtype", ", ".join(overflowing))
        return "auto"
    return "float16"


def _as_it_is(spec: ModelSpec) -> ModelSpec:
    """The spec with what the model's own files say of float16."""
    return dataclasses.replace(spec, overflows_float16=overflows_float16(spec))


def _log_devices(gpu: KaggleGPUConfig, accelerator: Accelerator) -> None:
    logger.info("devices: %s", ", ".join(accelerator.devices))
    if accelerator.kind == "cuda" and len(accelerator.devices) < gpu.device_count:
        logger.warning(
            "device_count is %d, but the accelerator has only %d", gpu.device_count, len(accelerator.devices)
        )
    if gpu.base_batch_size is not None:
        logger.warning(
            "base_batch_size=%d is not used, because batches are planned in tokens: leave it out", gpu.base_batch_size
        )


def _stage(specs: Mapping[str, ModelSpec], dtype: DTypeRequest, accelerator: Accelerator) -> dict[str, StagedModel]:
    kind, capability = accelerator.kind, accelerator.card.capability
    return {
        name: stage(spec, resolve_dtype(spec, dtype, device_kind=kind, capability=capability))
        for name, spec in specs.items()
    }


def _count(collection: Collection, source: SourceConfig, in_all: SkippedInputs, *, required: bool) -> int:
    """The chunks of a collection; what is left out is added to `in_all`."""
    skipped = SkippedInputs()

    def on_skip(item: SkippedInput) -> None:
        skipped.add(item)
        in_all.add(item)

    chunks = sum(1 for _ in read_chunks(collection, source, on_skip))
    if required and not chunks:
        raise InputError(
            f"the collection {collection.name} has no chunks to embed ({skipped}): leave the collection out, or add "
            "chunks to it"
        )
    return chunks
