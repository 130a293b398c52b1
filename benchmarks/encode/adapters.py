"""What an engine does with texts, one class each. Runs in the engine's own virtual environment.

Imports of engines are inside the methods: a worker imports its own alone. Of these benchmarks, only what needs no
package may be imported here.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker is to run. `folder` holds the model, `work` is the engine's own folder for files."""

    adapter: str
    model: str
    folder: str
    precision: str
    devices: tuple[str, ...]
    threads: int
    work: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One encoding of all texts. `vectors` has a unit row for each text; None stands for what the engine hides.

    `seconds` leaves out loading; `wall_seconds` is everything that the call took. `lengths` are of the rows, in
    tokens, in no order.
    """

    vectors: Any
    seconds: float
    wall_seconds: float
    lengths: tuple[int, ...] | None = None
    padded_tokens: int | None = None
    padding_share: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Protocol):
    """An engine with one model in one precision."""

    def prepare(self) -> None:
        """Write what loading needs, in a process of its own, so that it does not count as the engine's memory."""

    def load(self) -> Mapping[str, Any]:
        """Load the model; says what is known of it."""

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """Embed the texts; `count` asks for lengths and padding too, at the price of some time."""


class Soloist:
    """A whole run of soloist: reading chunks, tokenizing, encoding, writing vectors, once more each time."""

    packing = "auto"

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._root = Path(setup.work) / "chunks"

    def prepare(self) -> None:
        """Nothing: a run loads the model itself."""

    def load(self) -> Mapping[str, Any]:
        """Import what a run imports."""
        importlib.import_module("soloist.engine")
        return {}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """One run; `batch_size` does not concern it, since it plans its batches itself."""
        if not self._root.is_dir():
            from benchmarks.texts import write_chunk_file

            write_chunk_file(self._root / "texts", texts)
        out = Path(tempfile.mkdtemp(dir=self._setup.work)) / "run"
        result, wall_seconds = self._run(out)
        report = result.models[0]
        vectors = vectors_of_run(out, report.name, len(texts))
        shutil.rmtree(out.parent)
        return Encoded(
            vectors=vectors, seconds=report.seconds, wall_seconds=wall_seconds, padding_share=report.padding_share,
            padded_tokens=report.padded_tokens,
            notes={
                "tokens": report.tokens, "batches": report.batch_sizes.batches, "dtype": report.dtype,
                "matmul": report.matmul,
                "peak_device_bytes": max(report.peak_bytes.values()),
            },
        )  # fmt: skip

    def _run(self, out: Path) -> tuple[Any, float]:
        from soloist.config import FusionConfig, RunConfig
        from soloist.engine import run

        work = Path(self._setup.work)
        config = RunConfig(
            chunks_root=self._root, out=out, models=(self._setup.model,), accelerator=_accelerator(self._setup.devices),
            dtype=cast(Any, self._setup.precision), fusion=FusionConfig(method="none"), lock_dir=work / "locks",
            cache_dir=work / "cache", packing=cast(Any, self.packing),
        )  # fmt: skip
        began = time.perf_counter()
        result = run(config)
        return result, time.perf_counter() - began


class PackingSoloist(Soloist):
    """soloist with packed rows, where it would pad them."""

    packing = "on"


class SentenceTransformers:
    """`encode` of sentence-transformers, with the torch backend or another."""

    backend = "torch"

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._model: Any = None
        self._pool: Any = None

    def prepare(self) -> None:
        """Nothing: the model's folder is what is loaded."""

    def load(self) -> Mapping[str, Any]:
        """Load the model, and start its processes where there are several devices."""
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self._setup.threads)
        dtype = getattr(torch, self._setup.precision)
        self._model = SentenceTransformer(
            self._setup.folder, device=self._setup.devices[0], model_kwargs={"dtype": dtype}
        )
        if self._model.transformers_model is None:  # a static table is loaded as it was saved
            self._model.to(dtype)
        if len(self._setup.devices) > 1:
            self._pool = self._model.start_multi_process_pool(list(self._setup.devices))
        return {"dtype": str(next(self._model.parameters()).dtype).removeprefix("torch.")}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """The vectors of `encode`, with unit norm; the array on the host is what it ends with."""
        counter = _Counter(self._model[0]) if count else None
        if counter is not None and self._pool is not None:  # other processes cannot be counted in
            self._encode(texts, batch_size)
        began = time.perf_counter()
        vectors = self._encode(texts, batch_size, **({"pool": self._pool} if self._pool is not None else {}))
        seconds = time.perf_counter() - began
        found = counter.close() if counter is not None else {}
        return Encoded(vectors=vectors, seconds=seconds, wall_seconds=seconds, notes=self._peak(), **found)

    def _encode(self, texts: Sequence[str], batch_size: int, **options: Any) -> Any:
        return self._model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False, **options
        )

    def _peak(self) -> dict[str, int]:
        """The most that was allocated on the one device, where it is one that counts."""
        if self._pool is not None or not self._setup.devices[0].startswith("cuda"):
            return {}
        import torch

        return {"peak_device_bytes": torch.cuda.max_memory_allocated(self._setup.devices[0])}


class Exported(SentenceTransformers):
    """A backend whose model is another file, written once from the model's folder."""

    backend: str

    def prepare(self) -> None:
        """Export the model, once for all precisions."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            self._setup.folder, device="cpu", backend=self.backend, model_kwargs={"export": True}
        )
        model.save_pretrained(str(self.folder))

    def load(self) -> Mapping[str, Any]:
        """Load the exported model."""
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            str(self.folder), device="cpu", backend=self.backend, model_kwargs=self._options()
        )
        return self._known()

    @property
    def folder(self) -> Path:
        """Where the exported model is, for all engines that read it."""
        return Path(self._setup.work).parent / f"exported-{self.backend}"

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError

    def _known(self) -> dict[str, Any]:
        raise NotImplementedError


class OpenVino(Exported):
    """The OpenVINO backend. It computes in bfloat16 where the processor can, unless it is told not to."""

    backend = "openvino"

    def _options(self) -> dict[str, Any]:
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": self._setup.threads}
        if self._setup.precision == "float32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        path = Path(self._setup.work) / "openvino.json"
        path.write_text(json.dumps(config))
        return {"ov_config": str(path)}

    def _known(self) -> dict[str, Any]:
        network = self._model[0].auto_model
        network.compile()
        compiled = getattr(network.request, "get_compiled_model", lambda: network.request)()
        inside = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {"dtype": {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(inside, inside)}


class Onnx(Exported):
    """The ONNX backend, on the processor."""

    backend = "onnx"

    def _options(self) -> dict[str, Any]:
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._setup.threads
        return {"session_options": options, "provider": "CPUExecutionProvider"}

    def _known(self) -> dict[str, Any]:
        return {"dtype": "float32"}


class Infinity:
    """infinity's engine in this process, as its documentation uses it from Python."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._loop = asyncio.new_event_loop()
        self._engine: Any = None
        self._batch_size = 0

    def prepare(self) -> None:
        """Nothing: the model's folder is what is loaded."""

    def load(self) -> Mapping[str, Any]:
        """Load the model with the engine's own batch size."""
        import torch

        os.environ["INFINITY_ANONYMOUS_USAGE_STATS"] = "0"
        torch.set_num_threads(self._setup.threads)
        self._start(32)
        return {"dtype": self._setup.precision}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """All texts in one request, as a job in a process of its own would send them."""
        if batch_size != self._batch_size:
            self._start(batch_size)
        began = time.perf_counter()
        rows, _ = self._loop.run_until_complete(self._engine.embed(list(texts)))
        vectors = np.asarray(rows, dtype=np.float32)
        seconds = time.perf_counter() - began
        return Encoded(vectors=unit(vectors), seconds=seconds, wall_seconds=seconds)

    def _start(self, batch_size: int) -> None:
        infinity: Any = importlib.import_module("infinity_emb")
        if self._engine is not None:
            self._loop.run_until_complete(self._engine.astop())
        self._batch_size = batch_size
        self._engine = infinity.AsyncEmbeddingEngine.from_args(
            infinity.EngineArgs(
                model_name_or_path=self._setup.folder, engine="torch", device=self._setup.devices[0].split(":")[0],
                dtype=self._setup.precision, batch_size=batch_size, model_warmup=False,
            )
        )  # fmt: skip
        self._loop.run_until_complete(self._engine.astart())


class _Counter:
    """Counts what goes into a model's first module: tokens of each row, and those computed."""

    def __init__(self, module: Any) -> None:
        self._lengths: list[int] = []
        self._padded_tokens = 0
        self._hook = module.register_forward_pre_hook(self._see)

    def close(self) -> dict[str, Any]:
        """Stop counting; the fields of `Encoded` that were found."""
        self._hook.remove()
        if not self._lengths:
            return {}
        share = 1 - sum(self._lengths) / self._padded_tokens
        return {"lengths": tuple(self._lengths), "padded_tokens": self._padded_tokens, "padding_share": share}

    def _see(self, module: Any, arguments: tuple[Any, ...]) -> None:
        features = arguments[0]
        if "attention_mask" in features:
            self._lengths += features["attention_mask"].sum(1).tolist()
            self._padded_tokens += features["input_ids"].numel()
        elif "offsets" in features:  # a static model: nothing is padded
            ends = [*features["offsets"].tolist()[1:], features["input_ids"].numel()]
            starts = features["offsets"].tolist()
            self._lengths += [end - start for start, end in zip(starts, ends, strict=True)]
            self._padded_tokens += features["input_ids"].numel()


def vectors_of_run(out: Path, model: str, rows: int) -> Any:
    """The vectors of a run's one collection, in the order of the texts, whose places are the chunks' ids."""
    from soloist.stores import RunFolder

    folder = RunFolder.open(out)
    vectors: Any = None
    for shard in folder.shards.indices("texts"):
        ids, part = folder.shards.read_vectors("texts", model, shard)
        if vectors is None:
            vectors = np.full((rows, part.shape[1]), np.nan, dtype=np.float32)
        vectors[[int(each) for each in ids]] = part
    return vectors


def _accelerator(devices: Sequence[str]) -> str:
    """soloist's name for devices of torch's names."""
    if devices[0] == "cpu":
        return "cpu"
    return "cuda:" + ",".join(device.split(":")[1] for device in devices)


def unit(vectors: Any) -> Any:
    """Each row with norm 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
